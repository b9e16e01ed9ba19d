//! Amounts of money: exact decimals.

use std::{fmt, str::FromStr};

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;

/// An amount of money: an exact decimal of at most 28 digits.
///
/// On the wire it is a JSON number, read from its text and never by way of a floating-point number; a string with a
/// number is read too. Zeros at the end are kept.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Money(Decimal);

/// A text that is not an amount of money.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an exact decimal number of at most 28 digits")]
pub struct InvalidMoney;

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(Decimal::ZERO);

    /// An amount in hundredths.
    pub fn from_cents(cents: i64) -> Self {
        Self(Decimal::new(cents, 2))
    }

    /// The sum, or `None` when it has too many digits.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// This amount `quantity` times, or `None` when it has too many digits.
    pub fn checked_mul(self, quantity: u64) -> Option<Self> {
        self.0.checked_mul(Decimal::from(quantity)).map(Self)
    }

    /// This amount divided by `count` and rounded to hundredths, halves to even; `None` when `count` is zero.
    pub fn average(self, count: u64) -> Option<Self> {
        self.0.checked_div(Decimal::from(count)).map(|average| Self(average.round_dp(2)))
    }

    /// Whether the amount is below zero.
    pub fn is_negative(self) -> bool {
        self.0.is_sign_negative() && !self.0.is_zero()
    }
}

impl fmt::Display for Money {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for Money {
    type Err = InvalidMoney;

    fn from_str(text: &str) -> Result<Self, InvalidMoney> {
        if !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
            return Err(InvalidMoney);
        }
        let exact = Decimal::from_str_exact(text);
        exact.or_else(|_| Decimal::from_scientific(text)).map(Self).map_err(|_| InvalidMoney)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.to_string()).map_err(ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <Box<RawValue>>::deserialize(deserializer)?;
        let text = raw.get().trim_matches('"');
        text.parse().map_err(|error: InvalidMoney| de::Error::custom(format_args!("{text:.40?} is {error}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_that_a_floating_point_number_would_change_stay_exact() {
        for text in ["0.10", "19.90", "9007199254740993.01", "0.1000000000000000055511151231", "-3.50"] {
            let money: Money = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&money).unwrap(), text);
        }
    }

    #[test]
    fn numbers_that_other_languages_write_with_an_exponent_are_read() {
        for (text, plain) in [("1e+21", "1000000000000000000000"), ("1.5e-7", "0.00000015"), ("25E0", "25")] {
            assert_eq!(serde_json::from_str::<Money>(text).unwrap().to_string(), plain);
        }
    }

    #[test]
    fn what_is_not_an_exact_decimal_is_refused() {
        for text in ["\"1_000\"", "\"abc\"", "1e999", "null", "{}", "\"\"", "123456789012345678901234567890.12"] {
            serde_json::from_str::<Money>(text).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn writing_and_reading_keeps_every_digit(mantissa: i64, scale in 0_u32..=28) {
            let written = serde_json::to_string(&Money(Decimal::new(mantissa, scale))).unwrap();
            let read: Money = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(read, Money(Decimal::new(mantissa, scale)));
            prop_assert_eq!(serde_json::to_string(&read).unwrap(), written);
        }
    }
}

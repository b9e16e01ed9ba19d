//! Ranges of addresses that whoever runs the operator allows.

use std::{fmt, str::FromStr};

use ipnet::IpNet;

/// Ranges of addresses in CIDR notation, separated by commas: `10.20.0.0/16,fd00:1::/64`. An empty text is no range.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressRanges(pub Vec<IpNet>);

/// A text that is not a range of addresses.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a range of addresses: use CIDR notation, for example 10.20.0.0/16")]
pub struct InvalidRange(String);

impl FromStr for AddressRanges {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let ranges = text.split(',').map(str::trim).filter(|range| !range.is_empty());
        ranges
            .map(|range| range.parse().map_err(|_| InvalidRange(range.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for AddressRanges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(formatter, "{separator}{range}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_being_written_and_read_and_a_wrong_one_is_named() {
        let text = "10.20.0.0/16,fd00:1::/64";
        assert_eq!(text.parse::<AddressRanges>().unwrap().to_string(), text);
        assert_eq!(" , ".parse::<AddressRanges>().unwrap(), AddressRanges::default());

        for wrong in ["10.0.0.1", "10.0.0.0/33", "all"] {
            let error = format!("10.20.0.0/16,{wrong}").parse::<AddressRanges>().unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}

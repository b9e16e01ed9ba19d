//! What an order asks for, and whether the stock has it. Pure.

use std::collections::BTreeMap;

use millrace_events::Item;

/// How much of each product an order asks for.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Wanted<'a>(BTreeMap<&'a str, i64>);

impl<'a> Wanted<'a> {
    /// What these lines ask for: lines of the same product together, and none of what is asked for zero times. Nothing
    /// when that is more than can be counted.
    pub(super) fn by(items: &'a [Item]) -> Option<Self> {
        let mut wanted: BTreeMap<&str, i64> = BTreeMap::new();
        for item in items.iter().filter(|item| item.quantity > 0) {
            let quantity = wanted.entry(&item.product_id).or_default();
            *quantity = quantity.checked_add(i64::from(item.quantity))?;
        }
        Some(Self(wanted))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Products and quantities, in the order of the products.
    pub(super) fn columns(&self) -> (Vec<&'a str>, Vec<i64>) {
        self.0.iter().map(|(product, quantity)| (*product, *quantity)).unzip()
    }

    /// Why it cannot be reserved from `stock`; nothing when it can. It names no product: an error holds no data of the
    /// event.
    pub(super) fn refusal(&self, stock: &BTreeMap<&str, i64>) -> Option<String> {
        let all = self.0.len();
        let unknown = self.0.keys().filter(|product| !stock.contains_key(*product)).count();
        if unknown > 0 {
            return Some(format!("{unknown} of {all} products of the order are not in millrace.stock"));
        }
        let is_short =
            |(product, quantity): &(&&str, &i64)| stock.get(*product).is_none_or(|available| available < quantity);
        let short = self.0.iter().filter(is_short).count();
        (short > 0).then(|| format!("not enough stock of {short} of {all} products of the order"))
    }
}

#[cfg(test)]
mod tests {
    use millrace_events::Money;
    use proptest::prelude::*;

    use super::*;

    fn items(lines: &[(&str, u32)]) -> Vec<Item> {
        let item = |(product, quantity): &(&str, u32)| Item {
            product_id: (*product).to_owned(),
            product_name: String::new(),
            quantity: *quantity,
            price: Money::ZERO,
        };
        lines.iter().map(item).collect()
    }

    #[test]
    fn lines_of_one_product_count_together_and_zero_asks_for_nothing() {
        let items = items(&[("b", 2), ("a", u32::MAX), ("b", 3), ("c", 0), ("a", u32::MAX)]);

        let wanted = Wanted::by(&items).unwrap();

        assert_eq!(wanted.columns(), (vec!["a", "b"], vec![2 * i64::from(u32::MAX), 5]));
    }

    proptest! {
        #[test]
        fn an_order_is_refused_exactly_when_a_product_is_unknown_or_short(
            lines in prop::collection::vec(("[a-d]", 0_u32..5), 0..8),
            stock in prop::collection::btree_map("[a-d]", 0_i64..10, 0..4),
        ) {
            let lines: Vec<_> = lines.iter().map(|(product, quantity)| (product.as_str(), *quantity)).collect();
            let stock: BTreeMap<&str, i64> = stock.iter().map(|(product, available)| (product.as_str(), *available)).collect();
            let items = items(&lines);
            let wanted = Wanted::by(&items).unwrap();
            let total = |product: &str| lines.iter().filter(|line| line.0 == product).map(|line| i64::from(line.1)).sum::<i64>();

            let can = lines.iter().all(|(product, _)| total(product) == 0 || stock.get(product).is_some_and(|available| *available >= total(product)));

            prop_assert_eq!(wanted.refusal(&stock).is_none(), can);
        }
    }
}

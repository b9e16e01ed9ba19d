//! Whether the effects of each customer's events came in the order of their events. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::{event::customer, load::Published};

/// The effects that came after one of a later event of the same customer. `effects` are event numbers as they came; only
/// the first effect of an event counts, because a repeated one is told apart and counted elsewhere.
pub(crate) fn overtaken(effects: &[u32], published: &Published) -> Vec<u32> {
    let (mut seen, mut last, mut overtaken) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
    for event in effects.iter().copied().filter(|event| seen.insert(*event)) {
        let Some(Some(place)) = published.0.get(&event) else { continue };
        let highest = last.entry(customer(event)).or_insert(*place);
        if place < highest {
            overtaken.push(event);
        }
        *highest = (*highest).max(*place);
    }
    overtaken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effect_after_that_of_a_later_event_of_the_same_customer_is_found() {
        let mut published = Published((0..100).map(|event| (event, Some(u64::from(event)))).collect());
        // 10 and 20 are of the hot customer, 11 is not.
        assert_eq!(overtaken(&[10, 11, 20, 10, 30], &published), [0; 0]);
        assert_eq!(overtaken(&[20, 11, 10, 10, 30], &published), [10]);
        published.0.insert(10, None);
        assert_eq!(overtaken(&[20, 10], &published), [0; 0], "its place is not known");
    }
}

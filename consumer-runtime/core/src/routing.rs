//! Which events a consumer handles.

use std::collections::BTreeSet;

/// Which events a consumer handles.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    event_types: BTreeSet<String>,
}

/// Where an event goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Route {
    /// To the handler.
    Handle,
    /// Nowhere: it is of a type that this consumer leaves alone. It is settled and counted.
    Ignore,
}

impl Routing {
    /// Routes the events of these types to the handler; of every type when there are none.
    pub fn new(event_types: impl IntoIterator<Item = String>) -> Self {
        Self { event_types: event_types.into_iter().collect() }
    }

    /// Where an event of this type goes.
    pub fn route(&self, event_type: &str) -> Route {
        if self.event_types.is_empty() || self.event_types.contains(event_type) { Route::Handle } else { Route::Ignore }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_types_everything_is_handled_and_with_types_only_those() {
        let all = Routing::default();
        let some = Routing::new(["OrderPlaced".to_owned()]);

        assert_eq!(all.route("OrderShipped"), Route::Handle);
        assert_eq!(some.route("OrderPlaced"), Route::Handle);
        assert_eq!(some.route("OrderShipped"), Route::Ignore);
    }
}

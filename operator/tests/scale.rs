//! Protects what is promised of many consumers, in short: `make scale` has ten thousand.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::{path::Path, time::Duration};

use millrace_operator_trials::scale;

#[tokio::test]
async fn each_object_is_written_once_a_restart_writes_nothing_and_an_edit_does_not_wait() {
    let program = Path::new(env!("CARGO_BIN_EXE_operator"));

    let outcome = scale::run(program, &operator::rbac::rules(), 200, Duration::from_secs(5)).await;

    let expected = 200 * scale::OBJECTS_EACH + scale::writes_of_edits();
    assert!(outcome.writes.total() <= expected, "{outcome:?}");
    assert_eq!(outcome.restart_writes.total(), 0, "{outcome:?}");
    assert!(outcome.edit < Duration::from_secs(5), "{outcome:?}");
}

//! `DeadLetterReplay`: dead letters are put back by a Job of the runtime, once.
//!
//! One visit is a straight line: finished? → is there a Job? → [`validate`] (pure) → its Job is made → what its pods report is
//! added up ([`tally`], pure) → [`status`] (pure, written when it changed). Everything is looked at anew each time, and the Job
//! has one name, so that an operator that dies anywhere goes on from what is there.

pub mod controller;
pub mod status;
pub mod tally;
pub mod validate;

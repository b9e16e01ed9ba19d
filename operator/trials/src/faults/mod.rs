//! Faults at every step of a reconcile: a crash after each write, notifications that are lost, views that are old, an API
//! server that goes, and rights that are taken away. The end must be that of an undisturbed run, and so must the numbers of objects made and deleted.

pub mod layer;
pub mod outage;
pub mod plans;
pub mod ready;
pub mod rights;
pub mod workload;

/// What came of plans.
#[derive(Debug, Default)]
pub struct Tally {
    /// Plans carried out.
    pub plans: usize,
    /// What went wrong, by plan.
    pub failures: Vec<String>,
}

impl Tally {
    /// Counts a plan.
    pub fn count(&mut self, plan: &str, result: Result<(), String>) {
        self.plans += 1;
        if let Err(why) = result {
            eprintln!("operator-faults: {plan}: {why}");
            self.failures.push(format!("{plan}: {why}"));
        }
    }

    /// Takes another one in.
    pub fn add(&mut self, other: Self) {
        self.plans += other.plans;
        self.failures.extend(other.failures);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "operator-faults: plans={} failed={}", self.plans, self.failures.len())
    }
}

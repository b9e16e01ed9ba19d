//! Plans of what is to go wrong.

use std::sync::Mutex;

/// Which of the next calls fail: skip some, then fail some, then work again.
#[derive(Debug, Default)]
pub struct FaultPlan {
    steps: Mutex<Steps>,
}

#[derive(Debug, Default)]
struct Steps {
    skip: u32,
    fail: u32,
    failed: u32,
}

impl FaultPlan {
    /// Fails the next `count` calls.
    pub fn fail_next(&self, count: u32) {
        self.fail_after(0, count);
    }

    /// Lets `skip` calls pass and fails the `count` calls after them.
    pub fn fail_after(&self, skip: u32, count: u32) {
        *self.steps.lock().unwrap() = Steps { skip, fail: count, failed: 0 };
    }

    /// How many calls have failed since the plan was made. A test that injects faults checks that they happened.
    pub fn failed(&self) -> u32 {
        self.steps.lock().unwrap().failed
    }

    /// Whether this call is to fail. Called by the doubles.
    pub fn strikes(&self) -> bool {
        let mut steps = self.steps.lock().unwrap();
        if steps.skip > 0 {
            steps.skip -= 1;
            return false;
        }
        if steps.fail > 0 {
            steps.fail -= 1;
            steps.failed += 1;
            return true;
        }
        false
    }
}

//! The end of the demo: one table and one line, whatever it ran on.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

/// What a run of the demo came to.
#[derive(Debug)]
pub struct Outcome {
    /// kind, local, existing or none.
    pub cluster: String,
    /// The producer's summary.
    pub summary: Value,
    /// Events whose e-mail handler succeeded.
    pub handled: u64,
    /// Deliveries that it recognised as done before.
    pub duplicates_skipped: u64,
    /// Its dead letters.
    pub dead_letters: u64,
    /// Its dead letters by reason, where they are known.
    pub reasons: BTreeMap<String, u64>,
    /// E-mails that the sink has got.
    pub mails: u64,
    /// Different ones among them.
    pub unique_mails: u64,
    /// The revenue that the analytics consumer came to.
    pub revenue: String,
    /// How long it all took.
    pub duration: Duration,
}

impl Outcome {
    fn count(&self, field: &str) -> u64 {
        self.summary[field].as_u64().unwrap_or_default()
    }

    /// Events that were neither handled nor dead-lettered, or whose e-mail never came.
    pub fn lost(&self) -> u64 {
        let due = self.count("unique") + self.count("poison");
        let accounted = self.handled + self.dead_letters;
        due.saturating_sub(accounted).max(self.count("emails").saturating_sub(self.unique_mails))
    }

    /// E-mails that came more than once.
    pub fn doubled(&self) -> u64 {
        self.mails - self.unique_mails
    }

    /// Prints the table.
    pub fn print_table(&self) {
        println!();
        for (name, value) in [
            ("published", self.count("published").to_string()),
            ("  unique events", self.count("unique").to_string()),
            ("duplicates skipped", self.duplicates_skipped.to_string()),
            ("handled", self.handled.to_string()),
            ("e-mails due", self.count("emails").to_string()),
            ("e-mails received by the sink", self.mails.to_string()),
            ("revenue, by the producer", self.summary["total_revenue"].to_string()),
            ("revenue, by analytics", self.revenue.clone()),
            ("dead letters", self.dead_letters.to_string()),
        ] {
            println!("{name:<30} {value:>12}");
        }
        for (reason, letters) in &self.reasons {
            println!("  {reason:<28} {letters:>12}");
        }
    }

    /// Prints the closing line.
    pub fn print_line(&self) {
        println!(
            "demo: cluster={} published={} unique={} handled={} duplicates_skipped={} dead_letters={} lost={} doubled={} seconds={:.0}",
            self.cluster,
            self.count("published"),
            self.count("unique"),
            self.handled,
            self.duplicates_skipped,
            self.dead_letters,
            self.lost(),
            self.doubled(),
            self.duration.as_secs_f64(),
        );
    }
}

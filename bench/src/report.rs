//! Medians, and the lines that are printed.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::job::Run;

/// The measures of the last line, in its order.
const LINE: [&str; 10] = ["J1", "J2", "J3", "K1", "K2", "K4", "L1", "M1", "M2", "S1"];

/// What was measured so far.
#[derive(Default)]
pub(crate) struct Report {
    measures: BTreeMap<&'static str, Measure>,
    wrong: Vec<String>,
}

struct Measure {
    what: &'static str,
    values: Vec<f64>,
}

impl Report {
    /// A measure of one round.
    pub(crate) fn note(&mut self, name: &'static str, what: &'static str, value: f64) {
        self.measures.entry(name).or_insert(Measure { what, values: Vec::new() }).values.push(value);
    }

    /// A run ended: its ids must be right.
    pub(crate) fn check(&mut self, name: &str, run: &Run) {
        if run.missing + run.doubled > 0 {
            self.wrong.push(format!("{name}: {} events missing, {} handled more than once", run.missing, run.doubled));
        }
    }

    /// Something else is wrong with the ids.
    pub(crate) fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    pub(crate) fn ids_are_right(&self) -> bool {
        self.wrong.is_empty()
    }

    /// Prints every measure, and the line.
    pub(crate) fn print(&self) {
        for (name, measure) in &self.measures {
            let (low, middle, high) = spread(&measure.values);
            println!("{name:4} {:>10} ({} - {})  {}", figure(middle), figure(low), figure(high), measure.what);
        }
        for wrong in &self.wrong {
            println!("wrong: {wrong}");
        }
        let mut line = String::from("bench:");
        for name in LINE {
            let value =
                self.measures.get(name).map_or_else(|| "-".to_owned(), |measure| figure(spread(&measure.values).1));
            write!(line, " {name}={value}").unwrap();
        }
        println!("{line}");
    }
}

/// Least, median and greatest.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median =
        if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], sorted[middle]) } else { sorted[middle] };
    (sorted[0], median, sorted[sorted.len() - 1])
}

fn figure(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

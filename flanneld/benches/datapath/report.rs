//! Figures, and the table that stands in docs/benchmarks.md.

use std::fmt::{self, Display};

/// What was measured of one way at one time.
#[derive(Clone, Copy)]
pub struct Figures {
    /// Gbit/s in one TCP stream.
    pub one: f64,
    /// Gbit for a second of processor time, of sender, receiver and all between.
    pub one_per_cpu: f64,
    /// Gbit/s in four.
    pub four: f64,
    /// The same as for one.
    pub four_per_cpu: f64,
    /// Small datagrams received, in thousands a second.
    pub kpps: f64,
    /// The share of them that was lost.
    pub lost: f64,
    /// Microseconds from question to answer.
    pub p50: f64,
    /// The same; one of a hundred takes longer.
    pub p99: f64,
    /// As p50, while a TCP stream takes all that there is.
    pub loaded_p50: f64,
    /// As p99, while a TCP stream takes all that there is.
    pub loaded_p99: f64,
}

/// One way.
pub struct Row {
    name: &'static str,
    all: Vec<Figures>,
}

type Column = (&'static str, usize, fn(&Figures) -> f64);

const COLUMNS: [Column; 10] = [
    ("TCP 1 stream Gbit/s", 1, |f| f.one),
    ("per CPU-second", 1, |f| f.one_per_cpu),
    ("TCP 4 Gbit/s", 1, |f| f.four),
    ("per CPU-second", 1, |f| f.four_per_cpu),
    ("64-byte UDP kpps", 0, |f| f.kpps),
    ("lost", 2, |f| f.lost),
    ("p50 µs", 0, |f| f.p50),
    ("p99 µs", 0, |f| f.p99),
    ("p50 µs under load", 0, |f| f.loaded_p50),
    ("p99 µs under load", 0, |f| f.loaded_p99),
];
/// To what all is compared.
const BASE: &str = "vxlan";

impl Row {
    /// Nothing measured yet.
    pub fn new(name: &'static str) -> Row {
        Row { name, all: Vec::new() }
    }

    /// Another time.
    pub fn add(&mut self, figures: Figures) {
        self.all.push(figures);
    }
}

/// Medians with their spread, and below them medians of the ratio to VXLAN of the same turn.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!("| way |{}\n|---|{}\n", heads(), "---|".repeat(COLUMNS.len()));
    for row in rows {
        let cells = COLUMNS.iter().map(|(_, digits, of)| {
            let (low, middle, high) = spread(row.all.iter().map(of).collect());
            format!(" {middle:.digits$} ({low:.digits$}–{high:.digits$}) |")
        });
        text += &format!("| {} |{}\n", row.name, cells.collect::<String>());
    }
    let Some(base) = rows.iter().find(|row| row.name == BASE) else { return text };
    text += &format!("\n| ratio to {BASE} |{}\n|---|{}\n", heads(), "---|".repeat(COLUMNS.len()));
    for row in rows.iter().filter(|row| row.name != BASE) {
        let cells = COLUMNS.iter().map(|(_, _, of)| {
            let ratios = row.all.iter().zip(&base.all).map(|(a, b)| of(a) / of(b)).collect();
            format!(" {:.2} |", spread(ratios).1)
        });
        text += &format!("| {} |{}\n", row.name, cells.collect::<String>());
    }
    text
}

fn heads() -> String {
    COLUMNS.iter().map(|(name, ..)| format!(" {name} |")).collect()
}

/// Least, median and most.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_unstable_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

impl Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, digits, of) in COLUMNS {
            write!(f, "{name} {:.digits$}, ", of(self))?;
        }
        Ok(())
    }
}

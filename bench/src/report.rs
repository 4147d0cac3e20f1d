//! What a scenario found.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value, json};

/// When every workload begins: 2026-01-01, in UTC microseconds.
pub(crate) const START_US: i64 = 1_767_225_600_000_000;

/// One run of a scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    scenario: &'static str,
    config: Value,
    figures: Map<String, Value>,
}

impl Report {
    /// A report without figures as yet.
    pub(crate) fn new(scenario: &'static str, config: &impl Serialize) -> anyhow::Result<Self> {
        let mut config = serde_json::to_value(config)?;
        if let Value::Object(config) = &mut config {
            config.insert("cores".to_owned(), json!(std::thread::available_parallelism().map_or(1, usize::from)));
            config.insert("profile".to_owned(), json!(if cfg!(debug_assertions) { "dev" } else { "release" }));
        }
        Ok(Self { scenario, config, figures: Map::new() })
    }

    /// Adds a figure; the unit is in its name.
    pub(crate) fn figure(&mut self, name: &str, value: f64) {
        let rounded = if value.abs() >= 100.0 { value.round() } else { (value * 1e4).round() / 1e4 };
        self.figures.insert(name.to_owned(), json!(rounded));
    }

    /// Prints it to standard output.
    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if as_json {
            writeln!(out, "{}", serde_json::to_string(self)?)?;
            return Ok(());
        }
        writeln!(out, "{} {}", self.scenario, self.config)?;
        for (name, value) in &self.figures {
            writeln!(out, "  {name:32} {value}")?;
        }
        Ok(())
    }
}

/// Says what happens, on standard error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}

/// A stopwatch; benchmarks are where real durations are wanted.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The median of some durations, in seconds.
pub(crate) fn median_s(durations: &mut [Duration]) -> f64 {
    durations.sort();
    durations.get(durations.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
}

/// A percentile of sorted microseconds.
pub(crate) fn percentile_us(sorted: &[u64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).map_or(f64::NAN, |us| *us as f64)
}

/// The largest resident set of this process so far, in MiB.
pub(crate) fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(f64::NAN, |kb| kb / 1024.0)
}

//! The peers, each a process that prints its figures as one JSON object.

use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value};

use super::Options;
use crate::report::{Report, say};

/// Runs the peers one after the other; their figures begin with their names.
pub(super) fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    for peer in ["sqlite", "git", "pyiceberg"] {
        let folder = tempfile::tempdir_in(&options.folder)?;
        let mut command = Command::new(&options.python);
        command.arg(format!("bench/peers/{peer}_versions.py")).arg("--folder").arg(folder.path());
        for (name, value) in [
            ("--keys", options.keys),
            ("--value-bytes", options.value_bytes as u64),
            ("--seed", options.seed),
            ("--files", options.git_files),
            ("--commits", options.iceberg_commits as u64),
        ] {
            command.arg(name).arg(value.to_string());
        }
        let output = command.output().with_context(|| format!("running {peer} with {}", options.python.display()))?;
        ensure!(output.status.success(), "{peer} failed: {}", String::from_utf8_lossy(&output.stderr));
        let figures: Map<String, Value> = serde_json::from_slice(&output.stdout).with_context(|| format!("what {peer} printed"))?;
        for (name, value) in &figures {
            report.figure(&format!("{peer}_{name}"), value.as_f64().with_context(|| format!("{peer}'s {name}"))?);
        }
        say(&format!("{peer}: {}", Value::Object(figures)));
    }
    Ok(())
}

//! The only way out: data to stdout, all else to stderr, as text for people or as JSON.

use std::io::{IsTerminal, Write};

use anabranch_client::{Conflict, StoredValue};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value as Json;

use crate::error::Error;

/// Where a command writes.
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read what is written.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Writes a value as JSON, or else lets `text` write it for people.
    pub(crate) fn value(&mut self, value: &impl Serialize, text: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        if !self.json {
            return text(self);
        }
        let json = serde_json::to_string_pretty(value).map_err(|error| Error::Output(error.into()))?;
        self.line(&json)
    }

    /// Writes one line, or a text of several, to stdout.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Error> {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Error::Output)
    }

    /// Writes bytes to stdout as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Error::Output)
    }

    /// Writes rows under headers, columns aligned; nothing but a note where there is no row.
    pub(crate) fn table(&mut self, headers: &[&str], rows: &[Vec<String>]) -> Result<(), Error> {
        if rows.is_empty() {
            self.note("nothing there");
            return Ok(());
        }
        self.line(&aligned(headers, rows))
    }

    /// Writes names and values, one pair a line.
    pub(crate) fn facts(&mut self, facts: &[(&str, String)]) -> Result<(), Error> {
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let lines: Vec<_> = facts.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect();
        self.line(&lines.join("\n"))
    }

    /// Tells people something that is no data, on stderr.
    pub(crate) fn note(&mut self, text: &str) {
        if !self.json {
            // Where stderr is closed nobody wants notes.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Says what went wrong, on stderr; of what conflicts, every key.
    pub(crate) fn error(&mut self, error: &Error) {
        let text = match error {
            _ if self.json => error.to_json().to_string(),
            Error::Client(anabranch_client::Error::Conflicts(found)) => {
                format!("error: {error}\n{}", aligned(&CONFLICT_HEADERS, &conflict_rows(&found.conflicts)))
            }
            _ => format!("error: {error}"),
        };
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// A progress bar over so many bytes on stderr; silent where that is no terminal.
    pub(crate) fn progress(&self, bytes: u64) -> ProgressBar {
        let shown = std::io::stderr().is_terminal() && !self.json;
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(bytes), target);
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        style.map_or(bar.clone(), |style| bar.with_style(style))
    }
}

/// The columns of [`conflict_rows`].
pub(crate) const CONFLICT_HEADERS: [&str; 5] = ["kind", "key", "ours", "theirs", "reason"];

/// How long a value in a table of conflicts is.
const CONFLICT_CELL: usize = 40;

/// Conflicts for people: of each side's value the fields in which they differ.
pub(crate) fn conflict_rows(conflicts: &[Conflict]) -> Vec<Vec<String>> {
    let json = |side: &Option<StoredValue>| side.as_ref().map(StoredValue::to_json);
    let row = |conflict: &Conflict| {
        let (ours, theirs) = (json(&conflict.ours), json(&conflict.theirs));
        let sides = [(&ours, &theirs), (&theirs, &ours)].map(|(side, other)| side_cell(side.as_ref(), other.as_ref()));
        let [ours, theirs] = sides;
        vec![conflict.kind.clone(), conflict.key.clone(), ours, theirs, conflict.reason.clone()]
    };
    conflicts.iter().map(row).collect()
}

fn side_cell(side: Option<&Json>, other: Option<&Json>) -> String {
    let Some(side) = side else { return "not there".to_owned() };
    let text = match (side, other) {
        (Json::Object(fields), Some(Json::Object(other))) => {
            let own: Vec<_> = fields.iter().filter(|(name, value)| other.get(*name) != Some(value)).collect();
            own.iter().map(|(name, value)| format!("{name}: {}", cell(value))).collect::<Vec<_>>().join(", ")
        }
        _ => cell(side),
    };
    brief(&text, CONFLICT_CELL)
}

/// A JSON value as a cell for people.
pub(crate) fn cell(json: &Json) -> String {
    match json {
        Json::Null => "null".to_owned(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The part of a commit's id that people read.
pub(crate) fn short(commit: &str) -> String {
    commit.chars().take(12).collect()
}

/// The first line of a message.
pub(crate) fn subject(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

/// A text in one line, cut where it is long.
pub(crate) fn brief(text: &str, limit: usize) -> String {
    let line = subject(text);
    let cut: String = line.chars().take(limit).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}

fn aligned(headers: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).chain([headers[i].chars().count()]).max();
    let widths: Vec<_> = (0..headers.len()).map(|i| width(i).unwrap_or_default()).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut headers.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let rows = [vec!["main".to_owned(), "é".to_owned()], vec!["fix".to_owned(), "12".to_owned()]];
        assert_eq!(aligned(&["name", "n"], &rows), "name  n\nmain  é\nfix   12");
    }

    #[test]
    fn of_conflicting_values_what_differs_is_shown() {
        let stored = |json: Json| Some(StoredValue { raw: Default::default(), json: Some(json) });
        let conflict = Conflict {
            kind: "feature".into(),
            key: "view/a".into(),
            base: None,
            ours: stored(serde_json::json!({"name": "a", "owner": "ada", "only": 1})),
            theirs: stored(serde_json::json!({"name": "a", "owner": "grace"})),
            reason: "owner".into(),
        };
        let gone = Conflict { theirs: None, ..conflict.clone() };
        let rows = conflict_rows(&[conflict, gone]);
        assert_eq!((rows[0][2].as_str(), rows[0][3].as_str()), ("only: 1, owner: ada", "owner: grace"));
        assert_eq!(rows[1][3], "not there");
        assert!(rows[1][2].starts_with(r#"{"name":"a""#), "{}", rows[1][2]);
    }
}

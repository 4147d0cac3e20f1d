//! `push`, `delete`, `flush` and `status`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anabranch_client::{Acknowledgement, Client, PushOptions, Rows};
use clap::Args;
use serde_json::json;

use crate::error::Error;
use crate::output::{Output, short};

/// How many bytes of lines go into one push.
const PUSH_BYTES: usize = 4 << 20;

/// Pushes rows, one JSON object a line; each part that is acknowledged is durable. A row that fails a check goes to quarantine.
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The feature view
    view: String,
    /// A file of JSON lines; without one, or for -, stdin
    file: Option<PathBuf>,
    /// Makes a repetition of this push harmless, within the server's window
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
}

/// Deletes entities as of an event time: one JSON object of the view's join keys and timestamps a line.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The feature view
    view: String,
    /// A file of JSON lines; without one, or for -, stdin
    file: Option<PathBuf>,
}

pub(crate) async fn push(client: &Client, push: Push, output: &mut Output) -> Result<(), Error> {
    let mut lines = Lines::open(push.file)?;
    let (mut rows, mut duplicates, mut token, mut part) = (0, 0, String::new(), 0);
    while let Some(json) = lines.next_part()? {
        let idempotency_key = if push.idempotency_key.is_empty() { String::new() } else { format!("{}#{part}", push.idempotency_key) };
        let options = PushOptions { idempotency_key, batch_number: part };
        let acknowledgement = client.push_with(&push.view, Rows::json(json), &options).await.inspect_err(|_| {
            if rows > 0 {
                output.note(&format!("the first {rows} rows are in; the others are not"));
            }
        })?;
        rows += acknowledgement.rows;
        duplicates += u64::from(acknowledgement.duplicate);
        token = acknowledgement.token;
        part += 1;
    }
    let reply = json!({"rows": rows, "token": token, "duplicate": part > 0 && duplicates == part});
    output.value(&reply, |output| {
        output.note(&format!("{rows} rows acknowledged"));
        if token.is_empty() { Ok(()) } else { output.line(&token) }
    })
}

pub(crate) async fn delete(client: &Client, delete: Delete, output: &mut Output) -> Result<(), Error> {
    let mut lines = Lines::open(delete.file)?;
    let mut last = Acknowledgement { token: String::new(), rows: 0, duplicate: false };
    while let Some(json) = lines.next_part()? {
        let acknowledgement = client.delete(&delete.view, json, "").await?;
        last = Acknowledgement { rows: last.rows + acknowledgement.rows, ..acknowledgement };
    }
    output.value(&last, |output| {
        output.note(&format!("{} deletions acknowledged", last.rows));
        if last.token.is_empty() { Ok(()) } else { output.line(&last.token) }
    })
}

pub(crate) async fn flush(client: &Client, output: &mut Output) -> Result<(), Error> {
    let commit = client.flush().await?;
    output.value(&json!({"commit": commit}), |output| output.line(&commit))
}

pub(crate) async fn status(client: &Client, output: &mut Output) -> Result<(), Error> {
    let (info, pipeline) = (client.info().await?, client.status().await?);
    output.value(&json!({"server": info, "pipeline": pipeline}), |output| {
        let row = |name: &'static str, value: String| (name, value);
        let mut rows = vec![
            row("server", format!("{} (version {}, pid {}, since {})", client.address(), info.version, info.pid, info.started)),
            row("data", info.data_folder.clone()),
            row("repositories", info.repositories.join(", ")),
            row("commit", short(&pipeline.commit)),
            row("acknowledged", pipeline.appended.to_string()),
            row("visible online", pipeline.published.to_string()),
            row("in a commit", pipeline.committed.to_string()),
        ];
        if !pipeline.last_error.is_empty() {
            rows.push(row("last error", pipeline.last_error.clone()));
        }
        output.facts(&rows)
    })
}

/// Lines of a file or stdin, in parts that fit one push.
struct Lines {
    name: PathBuf,
    reader: Box<dyn BufRead + Send>,
}

impl Lines {
    fn open(file: Option<PathBuf>) -> Result<Self, Error> {
        match file.filter(|path| path.as_os_str() != "-") {
            Some(name) => {
                let file = File::open(&name).map_err(|error| Error::file(&name, error))?;
                Ok(Self { name, reader: Box::new(BufReader::new(file)) })
            }
            None => Ok(Self { name: "stdin".into(), reader: Box::new(BufReader::new(std::io::stdin())) }),
        }
    }

    fn next_part(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut part = Vec::new();
        while part.len() < PUSH_BYTES {
            if self.reader.read_until(b'\n', &mut part).map_err(|error| Error::file(&self.name, error))? == 0 {
                break;
            }
        }
        let has_rows = part.iter().any(|byte| !byte.is_ascii_whitespace());
        if has_rows || !part.is_empty() { Ok(has_rows.then_some(part)) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_between_rows_only() {
        let line = format!("{{\"x\": \"{}\"}}\n", "y".repeat(PUSH_BYTES / 2));
        let mut lines = Lines { name: "test".into(), reader: Box::new(std::io::Cursor::new(line.repeat(3))) };
        assert_eq!(lines.next_part().unwrap().unwrap().len(), line.len() * 2);
        assert_eq!(lines.next_part().unwrap().unwrap(), line.as_bytes());
        assert_eq!(lines.next_part().unwrap(), None);
    }

    #[test]
    fn no_row_is_no_push() {
        let mut lines = Lines { name: "test".into(), reader: Box::new(std::io::Cursor::new("\n \n")) };
        assert_eq!(lines.next_part().unwrap(), None);
    }
}

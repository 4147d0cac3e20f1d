//! A server for a folder, without starting one by hand.
//!
//! [`Client::open`] joins the server that runs for a folder, or starts a private one and joins that. The server's own lock on the folder decides who
//! serves it; this module only keeps trying:
//!
//! ```text
//!   ┌──────────────> join: read server.json, connect, Info (same pid?), open a Session ──ok──> done
//!   │                  │ not yet
//!   │                  v
//!   │  no child of ours: start one         child runs: wait a little
//!   │  child ended with 75 (another server holds the folder): forget it, wait a little
//!   │  child ended otherwise: fail with the end of its log
//!   └──────────────────┘
//! ```
//!
//! So two openers at once end up on one server, and an opener that comes while a server is ending starts the next. The session keeps a private server
//! alive; it ends with its last one. `server.json` may be stale after a kill, so nothing in it is believed before the server has said the same.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::{Client, ClientConfig, Error};

/// The exit status of a server that found its folder taken (`EX_TEMPFAIL`).
pub const EXIT_UNAVAILABLE: i32 = 75;

/// Where a running server says how to reach it, within its folder.
pub const SERVER_FILE: &str = "server.json";

/// Where a private server writes its log, within its folder.
pub const LOG_FILE: &str = "server.log";

const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
const LOG_TAIL_BYTES: u64 = 4096;

/// How to start a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    /// The program: `anabranch`, or a Python interpreter.
    pub program: PathBuf,
    /// What comes before `serve`, such as `-m anabranch`.
    pub args: Vec<OsString>,
    /// How long the server may take until it can be joined.
    pub patience: Duration,
}

impl Launcher {
    /// The `anabranch` program at a path.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), patience: Duration::from_secs(60) }
    }

    fn start(&self, folder: &Path) -> Result<(Child, u64), Error> {
        let failed = |what: &str, error: std::io::Error| launch_error(folder, format!("{what}: {error}"));
        let log_path = folder.join(LOG_FILE);
        let open = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = open.map_err(|error| failed(&format!("cannot write {}", log_path.display()), error))?;
        let log_start = log.metadata().map(|metadata| metadata.len()).unwrap_or_default();
        let errors = log.try_clone().map_err(|error| failed("cannot write the log", error))?;
        // The server makes a session (in the terminal's sense) of its own, so that Ctrl-C here does not end it for others.
        let child = Command::new(&self.program)
            .args(&self.args)
            .args(["serve", "--private", "--listen", "127.0.0.1:0", "--data"])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| failed(&format!("cannot run {}", self.program.display()), error))?;
        Ok((child, log_start))
    }
}

/// What a running server writes about itself.
#[derive(Debug, Deserialize)]
struct Running {
    address: String,
    pid: u32,
}

impl Client {
    /// Joins the server that runs for a folder, or starts a private one that ends with its last user.
    ///
    /// # Errors
    /// [`Error::Launch`] where the folder cannot be made or no server can be started, [`Error::NotReady`] where none can be joined in time.
    pub async fn open(folder: &Path, launcher: &Launcher, config: ClientConfig) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(|error| launch_error(folder, format!("cannot make the folder: {error}")))?;
        let folder = folder.canonicalize().map_err(|error| launch_error(folder, error.to_string()))?;
        match tokio::time::timeout(launcher.patience, join_or_start(&folder, launcher, &config)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::NotReady {
                folder: folder.display().to_string(),
                seconds: launcher.patience.as_secs(),
                log: folder.join(LOG_FILE).display().to_string(),
            }),
        }
    }
}

async fn join_or_start(folder: &Path, launcher: &Launcher, config: &ClientConfig) -> Result<Client, Error> {
    let mut child: Option<(Child, u64)> = None;
    let mut pause = SHORTEST_PAUSE;
    loop {
        if let Some(client) = join(folder, config).await {
            return Ok(client);
        }
        match &mut child {
            None => {
                child = Some(launcher.start(folder)?);
                pause = SHORTEST_PAUSE;
            }
            Some((running, log_start)) => match running.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) if status.code() == Some(EXIT_UNAVAILABLE) => child = None,
                Ok(Some(status)) => {
                    let reason = format!("it ended with {status}\n{}", tail(&folder.join(LOG_FILE), *log_start));
                    return Err(launch_error(folder, reason.trim_end().to_owned()));
                }
                Err(error) => return Err(launch_error(folder, error.to_string())),
            },
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The server that runs for a folder, joined; none where it does not run, or is no more or not yet ready.
async fn join(folder: &Path, config: &ClientConfig) -> Option<Client> {
    let running: Running = serde_json::from_slice(&std::fs::read(folder.join(SERVER_FILE)).ok()?).ok()?;
    let quick = ClientConfig { retries: 0, timeout: Duration::from_secs(5), connect_timeout: Duration::from_secs(2), ..config.clone() };
    let probe = Client::connect_with(&running.address, quick).await.ok()?;
    if probe.info().await.ok()?.pid != running.pid {
        return None;
    }
    let session = probe.open_session(&format!("{} {}", env!("CARGO_PKG_NAME"), std::process::id())).await.ok()?;
    let client = Client::connect_with(&running.address, config.clone()).await.ok()?;
    Some(client.with_session(session))
}

fn tail(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn launch_error(folder: &Path, reason: String) -> Error {
    Error::Launch { folder: folder.display().to_string(), reason }
}

#[cfg(test)]
mod tests {
    use anabranch_core::{ErrorKind, Kinded};

    use super::*;

    fn shell(script: &str) -> Launcher {
        Launcher { args: vec!["-c".into(), script.into()], patience: Duration::from_secs(1), ..Launcher::new("/bin/sh") }
    }

    #[tokio::test]
    async fn a_server_that_fails_at_start_is_reported_with_its_last_words_only() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(LOG_FILE), "of an earlier run\n").unwrap();
        let error = Client::open(folder.path(), &shell("echo the disk is full >&2; exit 1"), ClientConfig::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let message = error.to_string();
        assert!(message.contains("the disk is full") && !message.contains("earlier"), "{message}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_and_a_folder_that_cannot_be_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = Client::open(folder.path(), &Launcher::new("/no/such/program"), ClientConfig::default()).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Client::open(&file.join("below"), &shell("exit 0"), ClientConfig::default()).await.unwrap_err();
        assert!(error.to_string().contains("cannot make the folder"), "{error}");
    }

    #[tokio::test]
    async fn a_folder_that_stays_taken_ends_the_patience() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SERVER_FILE), r#"{"address": "127.0.0.1:1", "pid": 1}"#).unwrap();
        let error = Client::open(folder.path(), &shell("exit 75"), ClientConfig::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("not ready after 1 s"), "{error}");
    }
}

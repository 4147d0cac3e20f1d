//! What a command can end in, and the exit status that says so.

use std::path::Path;

use anabranch_client::local::EXIT_UNAVAILABLE;
use anabranch_core::{ErrorKind, Kinded};
use serde_json::{Value as Json, json};

/// The exit status of a failure.
pub(crate) const FAILED: u8 = 1;

/// The exit status of a command that makes no sense.
const MISUSED: u8 = 2;

/// What a command can end in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Client(#[from] anabranch_client::Error),
    #[error(transparent)]
    Server(#[from] anabranch_server::Error),
    #[error(transparent)]
    Core(#[from] anabranch_core::Error),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Missing(String),
    #[error("the merge would conflict in {0} keys")]
    WouldConflict(u64),
    #[error("{count} findings: {folder} is damaged")]
    Damaged { count: usize, folder: String },
    #[error("{0} entities are not online as history has them: repair them with --repair")]
    Skewed(u64),
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("cannot write the output: {0}")]
    Output(#[source] std::io::Error),
    #[error("cannot start: {0}")]
    Runtime(#[source] std::io::Error),
}

impl Error {
    pub(crate) fn file(path: &Path, reason: impl ToString) -> Self {
        Self::File { path: path.display().to_string(), reason: reason.to_string() }
    }

    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => MISUSED,
            // A server that found its folder taken must say so in a way that `open` understands; whatever else keeps it from starting is a failure.
            Self::Server(anabranch_server::Error::Locked { .. }) => EXIT_UNAVAILABLE as u8,
            Self::Server(_) => FAILED,
            _ if self.kind() == ErrorKind::Unavailable => EXIT_UNAVAILABLE as u8,
            _ => FAILED,
        }
    }

    /// The error for programs, as the server's HTTP face writes it.
    pub(crate) fn to_json(&self) -> Json {
        let details = match self {
            Self::Client(error) => error.details().clone(),
            _ => Json::Null,
        };
        json!({"error": {"kind": self.kind().name(), "message": self.to_string(), "details": details}})
    }
}

impl Kinded for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Client(error) => error.kind(),
            Self::Server(error) => error.kind(),
            Self::Core(error) => error.kind(),
            Self::Usage(_) | Self::File { .. } => ErrorKind::InvalidArgument,
            Self::Missing(_) => ErrorKind::NotFound,
            Self::WouldConflict(_) => ErrorKind::Conflict,
            Self::Skewed(_) => ErrorKind::FailedPrecondition,
            Self::Output(_) | Self::Runtime(_) | Self::Damaged { .. } => ErrorKind::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_tell_misuse_and_try_again_from_failure() {
        assert_eq!(Error::Usage("x".into()).exit_status(), 2);
        assert_eq!(Error::Missing("x".into()).exit_status(), 1);
        let unreachable = anabranch_client::Error::Unreachable { address: "x".into(), reason: "y".into() };
        assert_eq!(Error::Client(unreachable).exit_status(), 75);
        let locked = anabranch_server::Error::Locked { folder: "x".into(), holder: "y".into() };
        assert_eq!(Error::Server(locked).exit_status(), 75);
        assert_eq!(Error::Server(anabranch_server::Error::Closing).exit_status(), 1);
    }
}

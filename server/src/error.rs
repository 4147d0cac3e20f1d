//! The error of this crate: what the server itself refuses, and what its parts refused, each with its kind.
//!
//! A part's error keeps its kind and becomes one message that holds its whole chain of sources, each said once.

mod conflicts;

use std::error::Error as StdError;

use anabranch_core::{ErrorKind, Kinded};
use serde_json::{Value as Json, json};

pub(crate) use conflicts::Conflict;
pub use conflicts::Conflicts;

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that a face can answer with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong.
    #[error("configuration: {0}")]
    Config(String),
    /// Another server uses the data folder.
    #[error("data folder {folder} is in use by {holder}: stop that server, or give another folder")]
    Locked {
        /// The data folder.
        folder: String,
        /// Who holds it, as well as is known.
        holder: String,
    },
    /// A file or socket of the server's own failed.
    #[error("{what} failed: {source}")]
    Io {
        /// What was being done, and to what.
        what: String,
        /// The failure.
        source: std::io::Error,
    },
    /// There is no such repository.
    #[error("no repository {name:?}: this server has {known}")]
    NoRepository {
        /// The name as given.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The request is wrong in itself.
    #[error("{what}: {reason}")]
    Argument {
        /// The field at fault.
        what: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// What was named does not exist.
    #[error("{0}")]
    Missing(String),
    /// A state of things forbids it.
    #[error("{0}")]
    Precondition(String),
    /// Both sides of a merge, revert or cherry-pick changed the same keys. Nothing was changed.
    #[error("{0}")]
    Conflicts(Box<Conflicts>),
    /// The caller may not do this.
    #[error("{verb} on repository {repository:?} is forbidden: {reason}")]
    Forbidden {
        /// What it wanted to do.
        verb: &'static str,
        /// Where.
        repository: String,
        /// Why not.
        reason: String,
    },
    /// A message is over the limit.
    #[error("{what} is over the limit of {limit} bytes: send less at once, or use bulk ingest (`anabranch ingest FILE`, Flight DoPut)")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// The server is on its way out.
    #[error("the server is shutting down")]
    Closing,
    /// A handler panicked.
    #[error("a defect of the server ended this request; its log says more")]
    Panicked,
    /// A part failed or refused.
    #[error("{message}")]
    Part {
        /// The kind that the part gave.
        kind: ErrorKind,
        /// Its message, sources included.
        message: String,
        /// More for programs; null where there is nothing.
        details: Json,
    },
}

impl Kinded for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_) | Self::Argument { .. } => ErrorKind::InvalidArgument,
            Self::Locked { .. } | Self::Precondition(_) => ErrorKind::FailedPrecondition,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => ErrorKind::Exhausted,
            Self::Io { .. } | Self::Closing => ErrorKind::Unavailable,
            Self::NoRepository { .. } | Self::Missing(_) => ErrorKind::NotFound,
            Self::Conflicts(_) => ErrorKind::Conflict,
            Self::Forbidden { .. } => ErrorKind::Forbidden,
            Self::TooLarge { .. } => ErrorKind::Exhausted,
            Self::Panicked => ErrorKind::Internal,
            Self::Part { kind, .. } => *kind,
        }
    }
}

impl Error {
    /// A failure of a file or socket.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// A wrong field of a request.
    pub(crate) fn argument(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Argument { what: what.into(), reason: reason.into() }
    }

    /// The error of a part.
    pub(crate) fn part<E: Kinded>(error: E) -> Self {
        Self::Part { kind: error.kind(), message: chain(&error), details: Json::Null }
    }

    /// More for programs; null where there is nothing.
    pub fn details(&self) -> Json {
        match self {
            Self::NoRepository { name, .. } => json!({"repository": name}),
            Self::Argument { what, .. } => json!({"field": what}),
            Self::TooLarge { limit, .. } => json!({"limit_bytes": limit}),
            Self::Conflicts(conflicts) => conflicts.details(),
            Self::Part { details, .. } => details.clone(),
            _ => Json::Null,
        }
    }

    /// The same within so many bytes of JSON, for a header; null where it cannot be made so short.
    pub(crate) fn brief_details(&self, limit: usize) -> Json {
        let details = match self {
            Self::Conflicts(conflicts) => conflicts.brief_details(limit),
            _ => self.details(),
        };
        if details.to_string().len() <= limit { details } else { Json::Null }
    }
}

impl From<anabranch_core::Error> for Error {
    fn from(error: anabranch_core::Error) -> Self {
        let details = match &error {
            anabranch_core::Error::Definition { kind, name, path, .. } => json!({"kind": kind, "name": name, "path": path}),
            _ => Json::Null,
        };
        Self::Part { kind: error.kind(), message: chain(&error), details }
    }
}

impl From<anabranch_registry::Error> for Error {
    fn from(error: anabranch_registry::Error) -> Self {
        let details = match &error {
            anabranch_registry::Error::Invalid { faults } => json!({"faults": faults}),
            anabranch_registry::Error::Breaking { changes } => json!({"breaking": changes}),
            _ => Json::Null,
        };
        Self::Part { kind: error.kind(), message: chain(&error), details }
    }
}

impl From<anabranch_ingest::Error> for Error {
    fn from(error: anabranch_ingest::Error) -> Self {
        match error {
            anabranch_ingest::Error::Registry(error) => (*error).clone().into(),
            anabranch_ingest::Error::Below { source, what } => match conflicts_of(source.as_ref()) {
                Some(conflicts) => conflicts,
                None => Self::part(anabranch_ingest::Error::Below { source, what }),
            },
            other => Self::part(other),
        }
    }
}

impl From<anabranch_versioning::Error> for Error {
    fn from(error: anabranch_versioning::Error) -> Self {
        conflicts_of(&error).unwrap_or_else(|| Self::part(error))
    }
}

/// The conflicts that an error of the repository lists.
fn conflicts_of(error: &(dyn StdError + 'static)) -> Option<Error> {
    match error.downcast_ref::<anabranch_versioning::Error>() {
        Some(found @ anabranch_versioning::Error::Conflicts { conflicts, total, .. }) => {
            Some(Error::Conflicts(Box::new(Conflicts::new(found.to_string(), conflicts, *total))))
        }
        _ => None,
    }
}

/// Errors of parts whose message says all.
macro_rules! from_part {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::part(error)
            }
        })+
    };
}

from_part!(
    anabranch_offline_store::Error,
    anabranch_offline_store::batches::BatchesError,
    anabranch_offline_store::dataset::DatasetError,
    anabranch_offline_store::join::JoinError,
    anabranch_online_store::Error,
);

/// The message of an error and of its sources, leaving out a source that the message before it repeats.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut next = error.source();
    while let Some(source) = next {
        let message = source.to_string();
        if !last.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        last = message;
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("reading {name}")]
    struct Outer {
        name: &'static str,
        source: Inner,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Inner(std::io::Error);

    #[test]
    fn a_chain_says_each_message_once() {
        let error = Outer { name: "a file", source: Inner(std::io::Error::other("disk on fire")) };
        assert_eq!(chain(&error), "reading a file: disk on fire");
    }
}

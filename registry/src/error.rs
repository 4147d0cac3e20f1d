//! What this crate refuses and how it fails.

use std::fmt;

use anabranch_core::definition::DefinitionKind;
use anabranch_core::{ErrorKind, Kinded};
use anabranch_versioning as versioning;
use serde::Serialize;

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file, as the caller named it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// One thing that is wrong with proposed definitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where it is written, if it came from a file.
    pub place: Option<Place>,
    /// The kind of the definition at fault, as far as known.
    pub kind: Option<DefinitionKind>,
    /// Its name, as far as known.
    pub name: String,
    /// The dotted path of the field at fault, empty for the whole definition.
    pub path: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl Fault {
    /// A fault of a field of a definition.
    pub(crate) fn new(kind: DefinitionKind, name: impl Into<String>, path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { place: None, kind: Some(kind), name: name.into(), path: path.into(), reason: reason.into() }
    }

    /// What `core` refused in a definition of this kind and name.
    pub(crate) fn from_core(kind: DefinitionKind, name: &str, error: anabranch_core::Error) -> Self {
        match error {
            anabranch_core::Error::Definition { path, reason, .. } => Self::new(kind, name, path, reason),
            other => Self::new(kind, name, "", other.to_string()),
        }
    }
}

/// `file:line:column: kind "name": reason`; without a file the path of the field stands before the reason.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { file, line, column }) = &self.place {
            write!(f, "{file}:{line}:{column}: ")?;
        }
        match self.kind {
            Some(kind) if self.name.is_empty() => write!(f, "{kind}: ")?,
            Some(kind) => write!(f, "{kind} {:?}: ", self.name)?,
            None => {}
        }
        if self.place.is_none() && !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

/// Everything that can go wrong with definitions.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Definitions are wrong in themselves or do not fit together; every fault that was found.
    #[error("{}", lines(faults))]
    Invalid {
        /// At least one.
        faults: Vec<Fault>,
    },
    /// A definition to be deleted does not exist.
    #[error("there is no {kind} {name:?} to delete{hint}")]
    NotFound {
        /// Its kind.
        kind: DefinitionKind,
        /// Its name.
        name: String,
        /// A name that is close, as ", did you mean …", or nothing.
        hint: String,
    },
    /// The plan breaks what is in use, and the caller did not allow that.
    #[error("the plan breaks what is there; allow breaking changes to apply it all the same:\n{}", lines(changes))]
    Breaking {
        /// What breaks and why, one line for each.
        changes: Vec<String>,
    },
    /// Definitions that the plan rests on changed before it was applied; nothing was changed.
    #[error("{what} changed on {branch:?} since the plan was made: plan again")]
    Moved {
        /// What changed.
        what: String,
        /// The branch.
        branch: String,
        /// The failure beneath.
        #[source]
        source: Box<versioning::Error>,
    },
    /// What the map holds is no definition.
    #[error("the stored definition {key} is damaged: {reason}")]
    Stored {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The repository failed or refused.
    #[error(transparent)]
    Versioning(#[from] versioning::Error),
}

impl Kinded for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } => ErrorKind::InvalidArgument,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Breaking { .. } => ErrorKind::FailedPrecondition,
            Self::Moved { .. } => ErrorKind::Conflict,
            Self::Stored { .. } => ErrorKind::Internal,
            Self::Versioning(error) => error.kind(),
        }
    }
}

fn lines<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join("\n")
}

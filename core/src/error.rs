//! The error kinds that every face speaks, mapped once to gRPC codes and HTTP statuses.
//!
//! Each crate has an `Error` of its own with a `kind()` from this table; a face translates the kind and shows the message. No bad input may end in
//! [`ErrorKind::Internal`].

use std::fmt;

/// What sort of failure an error is: enough for a caller to decide what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong; repeating it cannot help.
    InvalidArgument,
    /// The caller did not say who it is.
    Unauthenticated,
    /// The caller is known and may not do this.
    Forbidden,
    /// What was named does not exist.
    NotFound,
    /// It collides with what is there, or with what another writer did meanwhile.
    Conflict,
    /// The state of the system forbids it until something else is done first.
    FailedPrecondition,
    /// A limit or a resource is used up: too large, too many, disk full.
    Exhausted,
    /// A dependency cannot be reached just now; trying again may help.
    Unavailable,
    /// A defect of ours.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::InvalidArgument,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::FailedPrecondition,
        Self::Exhausted,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The name on the wire, `snake_case`.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    pub const fn http_status(self) -> u16 {
        self.row().1
    }

    /// The gRPC status code (`google.rpc.Code`).
    pub const fn grpc_code(self) -> i32 {
        self.row().2
    }

    /// The kind that a gRPC status code stands for; codes that we never send are [`ErrorKind::Internal`].
    pub fn from_grpc_code(code: i32) -> Self {
        Self::ALL.into_iter().find(|kind| kind.grpc_code() == code).unwrap_or(Self::Internal)
    }

    /// The kind with this name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    const fn row(self) -> (&'static str, u16, i32) {
        match self {
            Self::InvalidArgument => ("invalid_argument", 400, 3),
            Self::Unauthenticated => ("unauthenticated", 401, 16),
            Self::Forbidden => ("forbidden", 403, 7),
            Self::NotFound => ("not_found", 404, 5),
            Self::Conflict => ("conflict", 409, 10),
            Self::FailedPrecondition => ("failed_precondition", 412, 9),
            Self::Exhausted => ("exhausted", 429, 8),
            Self::Unavailable => ("unavailable", 503, 14),
            Self::Internal => ("internal", 500, 13),
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error that has a kind; implemented by the `Error` of every crate.
pub trait Kinded: std::error::Error + Send + Sync + 'static {
    /// The kind of this error.
    fn kind(&self) -> ErrorKind;
}

/// What `core` itself refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name breaks the rules of [`crate::name`].
    #[error("{what} name {name:?} is not allowed: {reason}")]
    Name {
        /// What is being named, such as `feature view`.
        what: &'static str,
        /// The name as given.
        name: String,
        /// The rule it breaks and what to do.
        reason: String,
    },
    /// A text does not spell a value of some notation (a type, a time, a span).
    #[error("{text:?} is not a {what}: {hint}")]
    Parse {
        /// What was expected.
        what: &'static str,
        /// The text as given.
        text: String,
        /// What would be right.
        hint: String,
    },
    /// A value is not of the type that its column has.
    #[error("expected {expected}, found {found}")]
    Type {
        /// The type of the column.
        expected: String,
        /// What came instead.
        found: String,
    },
    /// Bytes do not decode.
    #[error("malformed {what}: {reason}")]
    Malformed {
        /// What the bytes should have been.
        what: &'static str,
        /// Where they fail.
        reason: String,
    },
    /// A definition is wrong in itself or names another that does not exist.
    #[error("{kind} {name:?}: {reason}")]
    Definition {
        /// The kind of definition.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The dotted path of the field at fault, empty for the whole definition.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl Kinded for Error {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_name_status_and_code() {
        for (i, a) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(ErrorKind::from_name(a.name()), Some(a));
            assert_eq!(ErrorKind::from_grpc_code(a.grpc_code()), a);
            for b in &ErrorKind::ALL[i + 1..] {
                assert_ne!(a.http_status(), b.http_status());
            }
        }
    }
}

//! What a call can end in: the server's own errors as it meant them, and what goes wrong on the way to it.
//!
//! An error of the server carries its kind and details in the status's metadata. A status without them was made by the transport: those are told apart
//! by their code, so that a lost connection is never taken for a defect of the server.

use anabranch_core::{ErrorKind, Kinded};
use anabranch_proto::metadata::{ERROR_DETAILS, ERROR_KIND};
use arrow::error::ArrowError;
use serde_json::Value as Json;
use tonic::{Code, Status};

use crate::merging::Conflicts;

/// What a call can end in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused or failed, and says why.
    #[error("{message}")]
    Server {
        /// What sort of failure it is.
        kind: ErrorKind,
        /// What was wrong, where, and what to do.
        message: String,
        /// The same for programs; null where there is nothing to add.
        details: Json,
    },
    /// Both sides changed the same keys. Nothing was changed.
    #[error("{0}")]
    Conflicts(Box<Conflicts>),
    /// No connection could be made, or it was lost.
    #[error("cannot reach the server at {address}: {reason}")]
    Unreachable {
        /// Where the server should be.
        address: String,
        /// What the transport says.
        reason: String,
    },
    /// No answer came in time.
    #[error("the server at {address} did not answer {call} within {seconds} s")]
    Timeout {
        /// Where the server is.
        address: String,
        /// The call.
        call: &'static str,
        /// The time it had.
        seconds: f64,
    },
    /// What the caller gave cannot be sent.
    #[error("{0}")]
    Argument(String),
    /// A definition, type or value that is wrong in itself.
    #[error(transparent)]
    Core(#[from] anabranch_core::Error),
    /// Rows that cannot be read or encoded.
    #[error("cannot read the rows: {0}")]
    Arrow(#[from] ArrowError),
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server answers something that this version cannot read.
    #[error("the server's answer cannot be read: {0}")]
    Protocol(String),
    /// No private server could be started for a folder.
    #[error("no server could be started for {folder}: {reason}")]
    Launch {
        /// The data folder.
        folder: String,
        /// What its log or the system says.
        reason: String,
    },
    /// The private server of a folder takes too long to start.
    #[error("the server for {folder} was not ready after {seconds} s; see {log}")]
    NotReady {
        /// The data folder.
        folder: String,
        /// The time it had.
        seconds: u64,
        /// Where it says what it does.
        log: String,
    },
}

impl Error {
    /// Details for programs; null where there are none.
    pub fn details(&self) -> &Json {
        match self {
            Self::Server { details, .. } => details,
            Self::Conflicts(conflicts) => conflicts.details(),
            _ => &Json::Null,
        }
    }

    pub(crate) fn from_status(status: &Status, address: &str) -> Self {
        let said = status.metadata().get(ERROR_KIND).and_then(|kind| kind.to_str().ok()).and_then(ErrorKind::from_name);
        let message = status.message().to_owned();
        let Some(kind) = said else {
            return Self::from_transport(status, address, message);
        };
        let details = status.metadata().get_bin(ERROR_DETAILS).and_then(|bytes| bytes.to_bytes().ok());
        let details = details.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(Json::Null);
        Self::Server { kind, message, details }
    }

    fn from_transport(status: &Status, address: &str, message: String) -> Self {
        let address = address.to_owned();
        let server = |kind, message| Self::Server { kind, message, details: Json::Null };
        if std::error::Error::source(status).is_some() {
            return Self::Unreachable { address, reason: deepest(status) };
        }
        match status.code() {
            Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Unavailable => Self::Unreachable { address, reason: message },
            Code::OutOfRange => server(ErrorKind::Exhausted, format!("the request is too large for the server: {message}")),
            Code::Unimplemented => {
                let message = format!("the server at {address} does not know this call; is it an Anabranch server of this version?");
                server(ErrorKind::FailedPrecondition, message)
            }
            Code::AlreadyExists => server(ErrorKind::Conflict, message),
            code => server(ErrorKind::from_grpc_code(code as i32), message),
        }
    }
}

impl Kinded for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Server { kind, .. } => *kind,
            Self::Conflicts(_) => ErrorKind::Conflict,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::NotReady { .. } => ErrorKind::Unavailable,
            Self::Launch { .. } => ErrorKind::FailedPrecondition,
            Self::Argument(_) | Self::Arrow(_) => ErrorKind::InvalidArgument,
            Self::Core(error) => error.kind(),
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::File { .. } => ErrorKind::InvalidArgument,
            Self::Protocol(_) => ErrorKind::Internal,
        }
    }
}

/// The innermost cause: "connection refused" says more than "transport error".
pub(crate) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use tonic::metadata::{MetadataMap, MetadataValue};

    use super::*;

    #[test]
    fn what_the_server_says_of_an_error_arrives_whole() {
        let mut metadata = MetadataMap::new();
        metadata.insert(ERROR_KIND, MetadataValue::from_static("exhausted"));
        metadata.insert_bin(ERROR_DETAILS, MetadataValue::from_bytes(br#"{"limit": 3}"#));
        let status = Status::with_metadata(Code::Internal, "too many", metadata);
        let error = Error::from_status(&status, "here");
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Exhausted, "too many".to_owned()));
        assert_eq!(error.details()["limit"], 3);
    }

    #[test]
    fn what_the_transport_says_is_no_defect_of_the_server() {
        for (code, kind) in [
            (Code::Unavailable, ErrorKind::Unavailable),
            (Code::Unknown, ErrorKind::Unavailable),
            (Code::OutOfRange, ErrorKind::Exhausted),
            (Code::Unimplemented, ErrorKind::FailedPrecondition),
            (Code::AlreadyExists, ErrorKind::Conflict),
            (Code::NotFound, ErrorKind::NotFound),
            (Code::Internal, ErrorKind::Internal),
        ] {
            assert_eq!(Error::from_status(&Status::new(code, "x"), "here").kind(), kind, "{code:?}");
        }
    }
}

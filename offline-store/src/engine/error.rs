//! What DataFusion says, in this crate's terms.

use std::error::Error as StdError;

use anabranch_core::Kinded as _;
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;

use super::exec::Spelled;
use crate::Error;

/// The failure of a query: our own errors come out as they went in, what the query itself is to blame for is [`Error::Query`].
pub(super) fn of_query(error: DataFusionError) -> Error {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => of_query(*inner),
        DataFusionError::External(inner) => of_external(inner),
        DataFusionError::ArrowError(inner, place) => match *inner {
            ArrowError::ExternalError(inner) => of_external(inner),
            ArrowError::IoError(_, inner) => of_spilling(inner),
            inner => refused(&DataFusionError::ArrowError(Box::new(inner), place)),
        },
        DataFusionError::Collection(mut errors) if !errors.is_empty() => of_query(errors.swap_remove(0)),
        DataFusionError::Shared(inner) => match std::sync::Arc::try_unwrap(inner) {
            Ok(inner) => of_query(inner),
            Err(inner) => of_shared(&inner),
        },
        DataFusionError::ResourcesExhausted(reason) => Error::Limit { reason },
        DataFusionError::IoError(source) => of_spilling(source),
        DataFusionError::Internal(_) | DataFusionError::ExecutionJoin(_) | DataFusionError::Ffi(_) => Error::Engine(Box::new(error)),
        other => refused(&other),
    }
}

/// Queries read and write no files themselves but what they spill.
fn of_spilling(error: std::io::Error) -> Error {
    let (what, is_full) = ("spilling".to_owned(), error.kind() == std::io::ErrorKind::StorageFull);
    let source = Box::new(error);
    if is_full { Error::Full { what, source } } else { Error::Unavailable { what, source } }
}

fn of_external(error: Box<dyn StdError + Send + Sync>) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(own) => return *own,
        Err(error) => error,
    };
    let error = match error.downcast::<Spelled>() {
        Ok(own) => return own.0,
        Err(error) => error,
    };
    match error.downcast::<DataFusionError>() {
        Ok(inner) => of_query(*inner),
        Err(other) => Error::Engine(Box::new(DataFusionError::External(other))),
    }
}

fn refused(error: &DataFusionError) -> Error {
    Error::Query { reason: error.strip_backtrace() }
}

/// As [`of_query`], of an error that others hold as well.
fn of_shared(error: &DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(own) => Error::Reading { kind: own.kind(), reason: own.to_string() },
            None => refused(error),
        },
        DataFusionError::ResourcesExhausted(reason) => Error::Limit { reason: reason.clone() },
        _ => refused(error),
    }
}

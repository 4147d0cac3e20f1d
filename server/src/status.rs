//! The one mapping from errors to what goes over the wire: gRPC statuses with the metadata of [`anabranch_proto::metadata`], and HTTP answers with the
//! body `{"error": {"kind", "message", "details"}}`.
//!
//! Headers are bounded by the peer, so a message of a status is cut at [`MAX_MESSAGE_BYTES`] and details over [`MAX_DETAILS_BYTES`] are cut to
//! their first conflicts or stay out; an HTTP body has both in full.

use anabranch_core::{ErrorKind, Kinded};
use anabranch_proto::metadata::{ERROR_DETAILS, ERROR_KIND};
use axum::response::{IntoResponse, Response};
use serde_json::{Value as Json, json};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::Error;

/// The longest message of a gRPC status.
pub(crate) const MAX_MESSAGE_BYTES: usize = 3000;

/// The longest details of a gRPC status.
pub(crate) const MAX_DETAILS_BYTES: usize = 2000;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        log(&error);
        let kind = error.kind();
        let mut metadata = MetadataMap::new();
        metadata.insert(ERROR_KIND, MetadataValue::from_static(kind.name()));
        let details = error.brief_details(MAX_DETAILS_BYTES);
        let details = if details.is_null() { String::new() } else { details.to_string() };
        if !details.is_empty() {
            metadata.insert_bin(ERROR_DETAILS, MetadataValue::from_bytes(details.as_bytes()));
        }
        Self::with_metadata(Code::from_i32(kind.grpc_code()), cut(error.to_string()), metadata)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        log(&self);
        body(self.kind(), &self.to_string(), &self.details())
    }
}

/// The HTTP answer for an error.
pub(crate) fn body(kind: ErrorKind, message: &str, details: &Json) -> Response {
    let details = if details.is_null() { json!({}) } else { details.clone() };
    let body = json!({"error": {"kind": kind.name(), "message": message, "details": details}});
    let status = http::StatusCode::from_u16(kind.http_status()).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    (status, axum::Json(body)).into_response()
}

/// Errors are logged here, once, on their way out: loudly what is our defect or trouble, quietly what is the caller's.
pub(crate) fn log(error: &Error) {
    match error.kind() {
        ErrorKind::Internal => tracing::error!(%error, "request failed"),
        ErrorKind::Unavailable | ErrorKind::Exhausted => tracing::warn!(%error, "request failed"),
        kind => tracing::debug!(%kind, %error, "request refused"),
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reaches_both_faces_under_its_own_name_and_code() {
        for kind in ErrorKind::ALL {
            let error = || Error::Part { kind, message: "why".into(), details: json!({"row": 3}) };
            let status = Status::from(error());
            assert_eq!(status.code() as i32, kind.grpc_code());
            assert_eq!(status.metadata().get(ERROR_KIND).unwrap(), kind.name());
            assert_eq!(status.metadata().get_bin(ERROR_DETAILS).unwrap().to_bytes().unwrap(), r#"{"row":3}"#.as_bytes());
            assert_eq!(error().into_response().status().as_u16(), kind.http_status());
        }
    }

    #[test]
    fn a_long_message_is_cut_for_the_header() {
        let status = Status::from(Error::Missing("ä".repeat(5000)));
        assert!(status.message().len() <= MAX_MESSAGE_BYTES + 3);
        assert!(status.message().ends_with("ä…"));
    }
}

//! A request in the hands of a handler: who calls, what it asks, what it brings.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Query, Request};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri};
use serde::de::DeserializeOwned;

use crate::App;
use crate::app::Scope;
use crate::auth::{Caller, Verb};
use crate::error::{Error, Result};

/// The most that a JSON request without rows may have.
const JSON_BYTES: usize = 16 << 20;

/// How long the rest of a refused body is read and thrown away, so that its sender comes to read the answer.
const DISCARD: Duration = Duration::from_secs(10);

/// A request.
pub(super) struct Call {
    pub(super) app: Arc<App>,
    pub(super) caller: Caller,
    uri: Uri,
    headers: HeaderMap,
    /// A body can be sent between threads but not shared; calls are.
    body: Mutex<Body>,
}

impl FromRequest<Arc<App>> for Call {
    type Rejection = Infallible;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Infallible> {
        let (mut parts, body) = request.into_parts();
        let caller = parts.extensions.remove::<Caller>().unwrap_or_default();
        Ok(Self::new(app, caller, parts, body))
    }
}

impl Call {
    pub(super) fn new(app: &Arc<App>, caller: Caller, parts: Parts, body: Body) -> Self {
        Self { app: Arc::clone(app), caller, uri: parts.uri, headers: parts.headers, body: Mutex::new(body) }
    }

    /// Lets the caller in.
    pub(super) async fn enter(&self, verb: Verb, repository: &str, reference: &str) -> Result<Scope> {
        self.app.enter(&self.caller, verb, repository, reference).await
    }

    /// The query of the address.
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T> {
        let query = Query::<T>::try_from_uri(&self.uri);
        query.map(|Query(query)| query).map_err(|error| Error::argument("query", crate::error::chain(&error)))
    }

    /// Whether the body is of a content type.
    pub(super) fn is(&self, content_type: &str) -> bool {
        self.headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(content_type.as_bytes()))
    }

    /// A header, if it is there and is text.
    pub(super) fn header(&self, name: http::HeaderName) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }

    /// The next bytes of the body, for a body of any length; `None` at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let body = self.body.get_mut().unwrap_or_else(PoisonError::into_inner);
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            let frame = frame.map_err(|error| Error::argument("body", format!("it broke off: {error}")))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Reads what is left of the body and keeps nothing of it, unless the sender waits to be asked for it.
    pub(super) async fn discard(&mut self) {
        if !self.headers.contains_key(EXPECT) {
            discard(std::mem::take(self.body.get_mut().unwrap_or_else(PoisonError::into_inner)).into_data_stream()).await;
        }
    }

    /// The body as one JSON object.
    pub(super) async fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        parse(&self.body(JSON_BYTES).await?)
    }

    /// The body, at most `limit` bytes; never holds more.
    pub(super) async fn body(&mut self, limit: usize) -> Result<Bytes> {
        let too_large = || Error::TooLarge { what: "the body".to_owned(), limit: limit as u64 };
        let headers = &self.headers;
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
        // Who asks before sending is answered before sending.
        let asks = headers.contains_key(EXPECT);
        let mut stream = std::mem::take(self.body.get_mut().unwrap_or_else(PoisonError::into_inner)).into_data_stream();
        if announced.is_some_and(|length| length > limit as u64) {
            if !asks {
                discard(stream).await;
            }
            return Err(too_large());
        }
        let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0).min(limit as u64) as usize);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| Error::argument("body", format!("it broke off: {error}")))?;
            if bytes.len() + chunk.len() > limit {
                discard(stream).await;
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

/// Reads what is left and keeps nothing of it. Closing on a sender in mid-stream would lose it the answer.
async fn discard(mut stream: axum::body::BodyDataStream) {
    let _ = tokio::time::timeout(DISCARD, async { while let Some(Ok(_)) = stream.next().await {} }).await;
}

/// An answer of a content type.
pub(super) fn of_type(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Reads a body as JSON.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| Error::argument("body", format!("it is not the JSON that is asked for: {error}")))
}

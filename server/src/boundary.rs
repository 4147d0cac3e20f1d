//! What every request passes on its way in and out, whatever its face: it learns who calls, gets a span, is counted and timed, and a panic of its
//! handler ends as an answer and not as a torn connection.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use tonic::{Code, Status};
use tracing::Instrument;

use crate::App;
use crate::auth::Caller;
use crate::error::Error;

const GRPC_STATUS: &str = "grpc-status";
const UNKNOWN: &str = "unknown";

/// The middleware.
pub(crate) async fn boundary(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let face = Face::of(&request);
    let method = Method::of(face, &request);
    let caller = Caller::of(None, &request);
    let run = |mut request: Request| {
        request.extensions_mut().insert(caller);
        next.run(request)
    };
    passed(&app, face, method.as_str(), request, run).await
}

/// The same around any handler.
pub(crate) async fn passed<F: Future<Output = Response>>(
    app: &App,
    face: Face,
    method: &str,
    request: Request,
    run: impl FnOnce(Request) -> F,
) -> Response {
    let span = tracing::debug_span!("request", face = face.name(), method);
    #[expect(clippy::disallowed_methods, reason = "a real duration is measured")]
    let start = std::time::Instant::now();
    app.metrics().requests_in_flight.inc();
    let outcome = AssertUnwindSafe(run(request)).catch_unwind().instrument(span).await;
    app.metrics().requests_in_flight.dec();
    let response = match outcome {
        Ok(response) => face.limited(response, app.config().limits.push_bytes as u64),
        Err(panic) => {
            app.metrics().panics.inc();
            tracing::error!(face = face.name(), method, panic = panic_message(panic.as_ref()), "handler panicked");
            face.refuse(Error::Panicked)
        }
    };
    let (method, code) = face.outcome(method, &response);
    app.metrics().answered(face.name(), method, code, face.well(), start.elapsed().as_secs_f64());
    response
}

/// How a caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Face {
    Grpc,
    Flight,
    Http,
}

impl Face {
    fn of(request: &Request) -> Self {
        let grpc = request.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        match grpc {
            true if request.uri().path().starts_with("/arrow.flight") => Self::Flight,
            true => Self::Grpc,
            false => Self::Http,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Flight => "flight",
            Self::Http => "http",
        }
    }

    /// The code of an answer that is no error.
    const fn well(self) -> u16 {
        match self {
            Self::Http => 200,
            Self::Grpc | Self::Flight => Code::Ok as u16,
        }
    }

    fn outcome<'a>(self, method: &'a str, response: &Response) -> (&'a str, u16) {
        if self == Self::Http {
            return (method, response.status().as_u16());
        }
        let code = grpc_code(response.headers());
        if code == Code::Unimplemented { (UNKNOWN, code as u16) } else { (method, code as u16) }
    }

    /// An answer that says an error.
    fn refuse(self, error: Error) -> Response {
        match self {
            Self::Http => error.into_response(),
            Self::Grpc | Self::Flight => Status::from(error).into_http::<axum::body::Body>(),
        }
    }

    /// Tonic refuses a message that is too large with a status of its own, before it reads it; callers get ours.
    fn limited(self, response: Response, limit: u64) -> Response {
        if self == Self::Http || grpc_code(response.headers()) != Code::OutOfRange {
            return response;
        }
        self.refuse(Error::TooLarge { what: "the message".to_owned(), limit })
    }
}

/// The RPC or route.
enum Method {
    Rpc(PathAndQuery),
    Route(MatchedPath),
    Unknown,
}

impl Method {
    fn of(face: Face, request: &Request) -> Self {
        match (request.extensions().get::<MatchedPath>(), request.uri().path_and_query()) {
            (Some(_), Some(path)) if face != Face::Http => Self::Rpc(path.clone()),
            (Some(route), _) => Self::Route(route.clone()),
            (None, _) => Self::Unknown,
        }
    }

    /// A path that leads nowhere must not become a label.
    fn as_str(&self) -> &str {
        match self {
            Self::Rpc(path) => path.path(),
            Self::Route(route) => route.as_str(),
            Self::Unknown => UNKNOWN,
        }
    }
}

fn grpc_code(headers: &HeaderMap) -> Code {
    headers.get(GRPC_STATUS).map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Turns tonic's own refusal of a too large message within a stream into ours.
pub(crate) fn stream_error(status: Status, limit: u64) -> Status {
    match status.code() {
        Code::OutOfRange => Error::TooLarge { what: "a message of the stream".to_owned(), limit }.into(),
        _ => status,
    }
}

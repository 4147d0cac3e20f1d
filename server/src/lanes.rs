//! Where connections are served: each on one of few threads that do nothing else, one of each kind for each core.
//!
//! ```text
//!            accept -> look at the first three bytes -+- "PRI" (HTTP/2: gRPC, Flight) -> the next lane of those -+- a lookup: answered there
//!                                                     +- anything else (HTTP/1.1) -----> the next lane of those -+- all else: done by the runtime,
//!                                                                                                                   the lane passes it on
//! ```
//!
//! A lookup is some microseconds of work between two wake-ups. On a lane, a thread with a runtime of its own, it begins and ends on the thread that its
//! connection belongs to: nothing is handed to another thread, and no merge, join or upload stands before it in a queue. What takes longer than a lookup
//! never runs on a lane, nor does what makes the body of its answer ([`pump`]): of that a lane only reads and writes the bytes. Streams of HTTP/2 are long
//! and wide, so those of HTTP/1.1 have lanes of their own.
//!
//! **The end.** When the app is closing the port is given back and nothing is accepted any more, connections finish what they have begun, and each lane
//! ends. Dropping the future of [`serve`] cuts off what is still under way.

mod pump;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::Stream;
use futures::future::{BoxFuture, try_join_all};
use futures::stream::poll_fn;
use http::Request;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service;

use crate::App;
use crate::boundary::{Face, passed};
use crate::error::{Error, Result};
use crate::http::Light;

const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Connections that may wait for a lane.
const QUEUE: usize = 1_024;

/// The lookup of gRPC.
const LOOKUP: &str = "/anabranch.v1.Online/GetOnlineFeatures";

/// How every HTTP/2 connection begins (RFC 9113, section 3.4); no method of HTTP/1.1 begins so.
const HTTP2: &[u8; 3] = b"PRI";

/// How long a connection may say nothing before it is given to a lane, which has its own patience.
const SILENCE: Duration = Duration::from_secs(30);
/// How long to wait for the rest of three bytes.
const REST: Duration = Duration::from_millis(5);
/// How long to wait where no connection can be accepted, for example for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves until the app is closing and every request is answered.
pub(crate) async fn serve(app: Arc<App>, listener: TcpListener, router: Router) -> Result<()> {
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();
    let (mut kinds, mut ends) = (Kinds::default(), Vec::new());
    for number in 0..std::thread::available_parallelism().map_or(1, usize::from) {
        for (name, kind) in [("lane", &mut kinds.http1), ("lane-h2", &mut kinds.http2)] {
            let (lane, end) = lane(format!("{name}-{number}"), &app, &router, &cut)?;
            kind.lanes.push(lane);
            ends.push(end);
        }
    }
    let accepting = async {
        accept(listener, kinds, app.closing().clone()).await;
        Ok(())
    };
    let ended = try_join_all(ends.into_iter().map(|end| async { end.await.unwrap_or(Ok(())) }));
    tokio::try_join!(accepting, ended).map(|_| ())
}

/// Serves what comes in on this runtime.
async fn on(front: Front, incoming: impl Stream<Item = io::Result<TcpStream>>, closing: &CancellationToken) -> Result<()> {
    let server = tonic::transport::Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .serve_with_incoming_shutdown(front, incoming, closing.cancelled());
    server.await.map_err(|error| Error::Io { what: "serving".to_owned(), source: io::Error::other(error) })
}

/// Where a lane takes connections.
type Lane = mpsc::Sender<std::net::TcpStream>;

/// Lanes of one kind, which take connections in turn.
#[derive(Debug, Default)]
struct Kind {
    lanes: Vec<Lane>,
    taken: AtomicUsize,
}

/// The lanes by what their connections speak.
#[derive(Debug, Default)]
struct Kinds {
    http1: Kind,
    http2: Kind,
}

impl Kind {
    /// Where the next connection goes.
    fn next(&self) -> &Lane {
        &self.lanes[self.taken.fetch_add(1, Ordering::Relaxed) % self.lanes.len()]
    }
}

/// Starts a lane; gives how it ended, too.
fn lane(name: String, app: &Arc<App>, router: &Router, cut: &CancellationToken) -> Result<(Lane, oneshot::Receiver<Result<()>>)> {
    let starting = || Error::io("starting a thread that serves");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(starting())?;
    let (lane, mut connections) = mpsc::channel(QUEUE);
    let (end, ended) = oneshot::channel();
    let front = Front { app: Arc::clone(app), router: router.clone(), all_else: Handle::current() };
    let cut = cut.clone();
    let work = move || {
        let served = runtime.block_on(async {
            // A connection belongs to the runtime that it is first used on.
            let incoming = poll_fn(|context| connections.poll_recv(context).map(|connection| connection.map(TcpStream::from_std)));
            let closing = front.app.closing().clone();
            tokio::select! {
                served = on(front, incoming, &closing) => served,
                () = cut.cancelled() => Ok(()),
            }
        });
        runtime.shutdown_background();
        // Nobody waits where all was cut off.
        drop(end.send(served));
    };
    std::thread::Builder::new().name(name).spawn(work).map_err(starting())?;
    Ok((lane, ended))
}

/// Accepts connections, and gives each to whoever serves its kind.
async fn accept(listener: TcpListener, kinds: Kinds, closing: CancellationToken) {
    let kinds = Arc::new(kinds);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (kinds, closing) = (Arc::clone(&kinds), closing.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = assign(stream, &kinds) => {}
                        () = closing.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn assign(stream: TcpStream, kinds: &Kinds) {
    // Answers are written whole; without it a second one would wait for the acknowledgement of the first.
    drop(stream.set_nodelay(true));
    let http2 = tokio::time::timeout(SILENCE, is_http2(&stream)).await.unwrap_or(Ok(false));
    // Where either fails the connection is gone already.
    if let Ok(http2) = http2
        && let Ok(stream) = stream.into_std()
    {
        let kind = if http2 { &kinds.http2 } else { &kinds.http1 };
        drop(kind.next().send(stream).await);
    }
}

/// Whether a connection begins as HTTP/2 does; takes nothing of it.
async fn is_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; HTTP2.len()];
    loop {
        let count = stream.peek(&mut first).await?;
        if count == HTTP2.len() || count == 0 || first[..count] != HTTP2[..count] {
            return Ok(first == *HTTP2);
        }
        tokio::time::sleep(REST).await;
    }
}

/// What a lane answers requests with.
#[derive(Clone)]
struct Front {
    app: Arc<App>,
    router: Router,
    /// The runtime of what is no lookup.
    all_else: Handle,
}

impl Service<Request<tonic::body::Body>> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let request = request.map(Body::new);
        if let Some(light) = Light::of(&request) {
            let app = Arc::clone(&self.app);
            return Box::pin(async move {
                let run = |request| light.answer(&app, request);
                Ok(passed(&app, Face::Http, light.path(), request, run).await)
            });
        }
        let (mut router, all_else) = (self.router.clone(), self.all_else.clone());
        if request.uri().path() == LOOKUP {
            return Box::pin(async move { router.call(request).await });
        }
        Box::pin(async move { Ok(elsewhere(async move { router.call(request).await }, &all_else).await) })
    }
}

/// Has another runtime do it, the body of the answer included; it is given up with this future, or with the body.
async fn elsewhere(answer: impl Future<Output = Result<Response, Infallible>> + Send + 'static, runtime: &Handle) -> Response {
    let mut task = JoinSet::new();
    task.spawn_on(answer, runtime);
    match task.join_next().await {
        Some(Ok(Ok(response))) => response.map(|body| pump::from(body, runtime)),
        // The boundary answers for handlers that panic; a runtime that ends gives tasks up.
        Some(Err(_)) | None => Error::Closing.into_response(),
    }
}

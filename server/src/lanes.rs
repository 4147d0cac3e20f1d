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
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::future::{BoxFuture, Either, try_join_all};
use futures::stream::poll_fn;
use futures::{Stream, StreamExt as _};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service;
use tonic::transport::server::{Connected as _, TcpConnectInfo};

use crate::App;
use crate::auth::Caller;
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
        for (name, protocol, kind) in [("lane", Protocol::Http1, &mut kinds.http1), ("lane-h2", Protocol::Http2, &mut kinds.http2)] {
            let (lane, end) = lane(format!("{name}-{number}"), protocol, &app, &router, &cut)?;
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

/// Serves connections of HTTP/2 on this runtime.
async fn on_http2(front: Front, incoming: impl Stream<Item = io::Result<TcpStream>>, closing: &CancellationToken) -> Result<()> {
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .serve_with_incoming_shutdown(front, incoming, closing.cancelled());
    server.await.map_err(|error| Error::Io { what: "serving".to_owned(), source: io::Error::other(error) })
}

/// Serves connections of HTTP/1.1 on this runtime. What tonic puts around them is for calls of gRPC, and a lookup would pay for it.
async fn on_http1(front: Front, incoming: impl Stream<Item = io::Result<TcpStream>>, closing: &CancellationToken) -> Result<()> {
    let (mut incoming, mut connections) = (pin!(incoming.take_until(closing.cancelled())), JoinSet::new());
    loop {
        tokio::select! {
            stream = incoming.next() => match stream {
                Some(Ok(stream)) => drop(connections.spawn(http1(front.clone(), stream, closing.clone()))),
                // It is gone already.
                Some(Err(_)) => {}
                None => break,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn http1(front: Front, stream: TcpStream, closing: CancellationToken) {
    let connection = stream.connect_info();
    let answer = service_fn(|request: Request<Incoming>| {
        let answer = front.answer(Some(connection.clone()), request.map(Body::new));
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = http1::Builder::new();
    // It is what gives up on a caller who sends its head too slowly.
    let mut serving = pin!(builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer));
    let served = tokio::select! {
        biased;
        served = serving.as_mut() => served,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// What the connections of a lane speak.
#[derive(Debug, Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
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
fn lane(name: String, protocol: Protocol, app: &Arc<App>, router: &Router, cut: &CancellationToken) -> Result<(Lane, oneshot::Receiver<Result<()>>)> {
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
            let serve = match protocol {
                Protocol::Http1 => Either::Left(on_http1(front, incoming, &closing)),
                Protocol::Http2 => Either::Right(on_http2(front, incoming, &closing)),
            };
            tokio::select! {
                served = serve => served,
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
        let answer = self.answer(None, request.map(Body::new));
        Box::pin(async { Ok(answer.await) })
    }
}

impl Front {
    /// Answers a lookup here, and has all else done by the runtime. A request carries its connection unless that is given.
    fn answer(&self, connection: Option<TcpConnectInfo>, mut request: Request<Body>) -> impl Future<Output = Response> + Send + use<> {
        let front = self.clone();
        async move {
            let Self { app, mut router, all_else } = front;
            if let Some(light) = Light::of(&request) {
                let caller = Caller::of(connection.as_ref(), &request);
                let run = |request| light.answer(&app, caller, request);
                return passed(&app, Face::Http, light.path(), request, run).await;
            }
            if let Some(connection) = connection {
                request.extensions_mut().insert(connection);
            }
            let is_lookup = request.uri().path() == LOOKUP;
            let answer = async move { router.call(request).await };
            if is_lookup {
                return answer.await.unwrap_or_else(|never| match never {});
            }
            elsewhere(answer, &all_else).await
        }
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

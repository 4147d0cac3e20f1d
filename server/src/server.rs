//! One port for gRPC, Flight and HTTP, and the life of a server.
//!
//! ```text
//! lock folder -> bind -> open repositories, recover -> server.json -> serve
//!   -> (SIGTERM, SIGINT or the last user of a private server) stop accepting -> drain -> commit what was acknowledged -> close
//!   -> remove server.json -> unlock
//! ```
//!
//! What is called from other crates is boxed: the body of an `async fn` is compiled again by each crate that awaits it, and with it all that it awaits.
//!
//! The port is bound before recovery, so that one that is taken is told at once; connections wait until the server is ready. A crash at any point leaves
//! what the next start recovers from.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{Clock, SystemClock};
use axum::Router;
use axum::middleware::from_fn_with_state;
use futures::future::{BoxFuture, LocalBoxFuture};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::app::{compact_in_background, sample_always, upkeep_hourly};
use crate::auth::{AllowLoopback, Authorizer};
use crate::boundary::boundary;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::folder::DataFolder;
use crate::{App, flight, grpc, http, lanes, logging};

/// Runs a server until it is told to end by a signal or, where it is private, its last user has gone.
///
/// # Errors
/// What keeps it from starting, or from closing in good order.
pub fn serve(config: Config) -> LocalBoxFuture<'static, Result<()>> {
    Box::pin(serve_until_told(config))
}

async fn serve_until_told(config: Config) -> Result<()> {
    logging::init(&config.log)?;
    let (mut terminate, mut interrupt) = (listen_for(SignalKind::terminate())?, listen_for(SignalKind::interrupt())?);
    let mut running = Server::start(config).await?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("terminated: draining"),
        _ = interrupt.recv() => tracing::info!("interrupted: draining"),
        ended = running.ended() => ended?,
    }
    tokio::select! {
        result = running.shutdown() => result,
        // Who asks twice does not want to wait; what was acknowledged is in the log.
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

fn listen_for(kind: SignalKind) -> Result<tokio::signal::unix::Signal> {
    signal(kind).map_err(Error::io("listening for signals"))
}

/// Starts servers.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Starts a server that lets in who sits on this machine, and answers once it is ready.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Locked`], [`Error::Io`] where the address is taken, or what recovery met.
    pub fn start(config: Config) -> LocalBoxFuture<'static, Result<RunningServer>> {
        Self::start_with(config, Arc::new(AllowLoopback), Arc::new(SystemClock))
    }

    /// Starts a server with an authoriser and a clock.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(config: Config, authorizer: Arc<dyn Authorizer>, clock: Arc<dyn Clock>) -> LocalBoxFuture<'static, Result<RunningServer>> {
        Box::pin(Self::started(config, authorizer, clock))
    }

    async fn started(config: Config, authorizer: Arc<dyn Authorizer>, clock: Arc<dyn Clock>) -> Result<RunningServer> {
        config.validate()?;
        let folder = DataFolder::open(&config.data)?;
        let listener = TcpListener::bind(config.listen).await.map_err(Error::io(format!("listening on {}", config.listen)))?;
        let address = listener.local_addr().map_err(Error::io("reading the address"))?;
        let app = App::open(config, folder, authorizer, clock).await?;
        app.folder().write_server_file(address, app.started())?;
        tracing::info!(%address, data = %app.folder().root().display(), version = env!("CARGO_PKG_VERSION"), "serving");
        // They end when the app is closing, and hold nothing that a crash would leave.
        tokio::spawn(upkeep_hourly(Arc::clone(&app)));
        tokio::spawn(compact_in_background(Arc::clone(&app)));
        tokio::spawn(sample_always(Arc::clone(&app)));
        let task = tokio::spawn(lanes::serve(Arc::clone(&app), listener, faces(&app)));
        Ok(RunningServer { app, address, task })
    }
}

/// Every face behind the boundary.
fn faces(app: &Arc<App>) -> Router {
    let router = grpc::routes(app).add_service(flight::service(app)).into_axum_router();
    let router = router.merge(http::routes(app)).fallback(http::nowhere).method_not_allowed_fallback(http::nowhere);
    router.layer(from_fn_with_state(Arc::clone(app), boundary))
}

/// A server that answers.
#[derive(Debug)]
pub struct RunningServer {
    app: Arc<App>,
    address: SocketAddr,
    task: JoinHandle<Result<()>>,
}

impl RunningServer {
    /// Where it answers.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// What it serves.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Returns once nobody needs it any more: a private server's last user has gone. Others go on until they are shut down, unless serving fails.
    ///
    /// # Errors
    /// [`Error::Io`] where serving failed.
    pub async fn ended(&mut self) -> Result<()> {
        let app = Arc::clone(&self.app);
        let private = &app.config().private;
        let unused = async {
            match private.enabled {
                true => app.sessions().until_unused(private).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = unused => {
                tracing::info!("the last user has gone");
                Ok(())
            }
            result = self.served() => result,
        }
    }

    /// Returns when the task has ended.
    async fn served(&mut self) -> Result<()> {
        match (&mut self.task).await {
            Ok(result) => result,
            Err(error) => Err(Error::Io { what: "serving".to_owned(), source: std::io::Error::other(error) }),
        }
    }

    /// Answers what is under way, commits what was acknowledged and gives the folder back.
    ///
    /// # Errors
    /// What kept it from closing in good order; nothing acknowledged is lost by that.
    pub fn shutdown(self) -> BoxFuture<'static, Result<()>> {
        Box::pin(self.shut_down())
    }

    async fn shut_down(mut self) -> Result<()> {
        self.app.closing().cancel();
        let drain = Duration::from_micros(u64::try_from(self.app.config().drain.micros()).unwrap_or_default());
        let drained = match self.task.is_finished() {
            true => Ok(()),
            false => match tokio::time::timeout(drain, self.served()).await {
                Ok(result) => result,
                Err(_) => {
                    tracing::warn!("requests under way did not end in time and are cut off");
                    self.task.abort();
                    Ok(())
                }
            },
        };
        self.app.close().await;
        self.app.folder().release();
        tracing::info!("closed");
        drained
    }
}

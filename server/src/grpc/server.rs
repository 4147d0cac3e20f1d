//! The service `Server`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anabranch_proto::v1;
use anabranch_proto::v1::server_server::Server;
use futures::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Request, Response, Status, async_trait};

use super::{Grpc, caller};
use crate::App;
use crate::auth::Verb;
use crate::sessions::Session;

#[async_trait]
impl Server for Grpc {
    async fn info(&self, request: Request<v1::InfoRequest>) -> Result<Response<v1::InfoReply>, Status> {
        let app = &self.0;
        app.admit(&caller(&request), Verb::Observe).await?;
        Ok(Response::new(v1::InfoReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            repositories: app.repository_names().map(str::to_owned).collect(),
            data_folder: app.folder().root().display().to_string(),
            started_us: app.started().micros(),
            pid: std::process::id(),
        }))
    }

    type SessionStream = SessionStream;

    async fn session(&self, request: Request<v1::SessionRequest>) -> Result<Response<SessionStream>, Status> {
        self.0.admit(&caller(&request), Verb::Join).await?;
        tracing::debug!(client = request.get_ref().client, "session opened");
        Ok(Response::new(SessionStream::open(&self.0)))
    }
}

/// Says at once that the session is open, then nothing, and ends with the server or when the client lets go of it.
pub(crate) struct SessionStream {
    app: Arc<App>,
    /// Held until the stream is dropped.
    _session: Session,
    greeted: bool,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl SessionStream {
    fn open(app: &Arc<App>) -> Self {
        let session = app.sessions().open();
        app.metrics().sessions.inc();
        Self { app: Arc::clone(app), _session: session, greeted: false, closing: Box::pin(app.closing().clone().cancelled_owned()) }
    }
}

impl Stream for SessionStream {
    type Item = Result<v1::SessionEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Poll::Ready(Some(Ok(v1::SessionEvent {})));
        }
        self.closing.as_mut().poll(context).map(|()| None)
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        self.app.metrics().sessions.dec();
    }
}

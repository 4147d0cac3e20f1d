//! What a server says of itself, and the session that keeps a private one alive.

use anabranch_core::Timestamp;
use anabranch_proto::v1;
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::client::{Retry, unary};
use crate::versions::as_text;
use crate::{Client, Error};

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerInfo {
    /// Its version.
    pub version: String,
    /// Its repositories.
    pub repositories: Vec<String>,
    /// Where its data lie.
    pub data_folder: String,
    /// Since when it runs.
    #[serde(serialize_with = "as_text")]
    pub started: Timestamp,
    /// Its process id.
    pub pid: u32,
}

/// A stream held open for as long as the server is used; it closes when this is dropped.
#[derive(Debug)]
pub(crate) struct Session(JoinHandle<()>);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// What the server says of itself.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where it does not answer.
    pub async fn info(&self) -> Result<ServerInfo, Error> {
        let reply = unary!(self, server.info(v1::InfoRequest {}), Retry::Safe).await?;
        Ok(ServerInfo {
            version: reply.version,
            repositories: reply.repositories,
            data_folder: reply.data_folder,
            started: Timestamp(reply.started_us),
            pid: reply.pid,
        })
    }

    /// Opens a session, and returns when the server has accepted it.
    pub(crate) async fn open_session(&self, name: &str) -> Result<Session, Error> {
        let request = v1::SessionRequest { client: name.to_owned() };
        let mut events = unary!(self, server.session(request), Retry::Never).await?;
        Ok(Session(tokio::spawn(async move { while let Ok(Some(_)) = events.message().await {} })))
    }
}

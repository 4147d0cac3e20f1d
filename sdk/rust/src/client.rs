//! A connection to a server, and what calls over it are about.
//!
//! A [`Client`] is cheap to clone and safe to share. It carries the repository and ref of its calls; [`Client::repository`] and [`Client::at`] give
//! another client over the same connection. A lost connection is made again by the next call.
//!
//! Every call but the streams of rows has a time limit. A call is tried again only where that cannot do a thing twice: reads, and pushes with an
//! idempotency key.

use std::sync::Arc;
use std::time::Duration;

use anabranch_proto::v1;
use anabranch_proto::v1::datasets_client::DatasetsClient;
use anabranch_proto::v1::ingest_client::IngestClient;
use anabranch_proto::v1::objects_client::ObjectsClient;
use anabranch_proto::v1::online_client::OnlineClient;
use anabranch_proto::v1::registry_client::RegistryClient;
use anabranch_proto::v1::server_client::ServerClient;
use anabranch_proto::v1::tables_client::TablesClient;
use anabranch_proto::v1::versioning_client::VersioningClient;
use arrow_flight::flight_service_client::FlightServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::Error;
use crate::error::deepest;
use crate::online::Schemas;
use crate::session::Session;

/// The pause before the first repetition; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How a client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long a call may take that moves no rows in bulk.
    pub timeout: Duration,
    /// How often a call that can be repeated safely is repeated while the server is unavailable.
    pub retries: u32,
    /// Who makes the commits; the server's default where empty.
    pub author: String,
    /// How many entries of a list travel in one reply; the server's own measure where 0. Lists are whole in any case.
    pub page_size: u32,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(5), timeout: Duration::from_secs(60), retries: 3, author: String::new(), page_size: 0 }
    }
}

/// A connection to a server, about one repository and ref.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    address: Arc<str>,
    config: Arc<ClientConfig>,
    target: v1::Target,
    #[expect(dead_code, reason = "held, so that a private server lives as long as its clients")]
    session: Option<Arc<Session>>,
    schemas: Arc<Schemas>,
}

/// Whether doing a call twice differs from doing it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It does not.
    Safe,
    /// It may.
    Never,
}

/// Makes a unary call: `unary!(client, registry.plan(request), Retry::Safe)`.
macro_rules! unary {
    ($client:expr, $service:ident.$method:ident($request:expr), $retry:expr) => {{
        let (client, request) = ($client, $request);
        client.call(stringify!($method), $retry, move || {
            let (mut service, request) = (client.$service(), request.clone());
            async move { service.$method(request).await }
        })
    }};
}
pub(crate) use unary;

impl Client {
    /// Connects to the server at an address such as `http://127.0.0.1:7420`; the scheme may be left out.
    ///
    /// # Errors
    /// [`Error::Argument`] where that is no address, [`Error::Unreachable`] where no server answers there.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        Self::connect_with(address, ClientConfig::default()).await
    }

    /// Connects with a configuration of one's own.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(address: &str, config: ClientConfig) -> Result<Self, Error> {
        let address = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        if !address.starts_with("http://") {
            return Err(Error::Argument(format!("{address:?} is not an address of a server: write it as http://host:port")));
        }
        let wrong = |reason: String| Error::Argument(format!("{address:?} is not an address of a server: {reason}"));
        let endpoint = Endpoint::from_shared(address.clone()).map_err(|error| wrong(deepest(&error)))?;
        let endpoint = endpoint
            .connect_timeout(config.connect_timeout)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let unreachable = |error: tonic::transport::Error| Error::Unreachable { address: address.clone(), reason: deepest(&error) };
        let channel = endpoint.connect().await.map_err(unreachable)?;
        Ok(Self { channel, address: address.into(), config: Arc::new(config), target: v1::Target::default(), session: None, schemas: Arc::default() })
    }

    /// The same connection, about another repository.
    #[must_use]
    pub fn repository(&self, name: impl Into<String>) -> Self {
        let target = v1::Target { repository: name.into(), r#ref: self.target.r#ref.clone() };
        Self { target, ..self.clone() }
    }

    /// The same connection, about another ref; empty for `main`.
    #[must_use]
    pub fn at(&self, reference: impl Into<String>) -> Self {
        let target = v1::Target { repository: self.target.repository.clone(), r#ref: reference.into() };
        Self { target, ..self.clone() }
    }

    /// Where the server is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How the client behaves.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    pub(crate) fn target(&self) -> v1::Target {
        self.target.clone()
    }

    pub(crate) fn repository_name(&self) -> String {
        self.target.repository.clone()
    }

    /// A branch, or where none is named the client's ref.
    pub(crate) fn or_own_ref(&self, branch: &str) -> String {
        if branch.is_empty() { self.target.r#ref.clone() } else { branch.to_owned() }
    }

    /// The schemas of the lookups that were made over this connection.
    pub(crate) fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    pub(crate) fn author(&self) -> String {
        self.config.author.clone()
    }

    pub(crate) fn with_session(self, session: Session) -> Self {
        Self { session: Some(Arc::new(session)), ..self }
    }

    /// Makes a call within the time limit, and again where that is safe and the server is unavailable.
    pub(crate) async fn call<T, F>(&self, name: &'static str, retry: Retry, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut pause = FIRST_PAUSE;
        let mut left = if retry == Retry::Safe { self.config.retries } else { 0 };
        loop {
            let timeout = self.config.timeout;
            let outcome = tokio::time::timeout(timeout, attempt()).await;
            let status = match outcome {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => return Err(Error::Timeout { address: self.address.to_string(), call: name, seconds: timeout.as_secs_f64() }),
            };
            let error = self.error(&status);
            // What the server itself calls unavailable has been waited for there; only a lost connection is worth another try at once.
            if left == 0 || !matches!(error, Error::Unreachable { .. }) {
                return Err(error);
            }
            left -= 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    pub(crate) fn error(&self, status: &Status) -> Error {
        Error::from_status(status, &self.address)
    }

    pub(crate) fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn versioning(&self) -> VersioningClient<Channel> {
        VersioningClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn ingest(&self) -> IngestClient<Channel> {
        IngestClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn online(&self) -> OnlineClient<Channel> {
        OnlineClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn datasets(&self) -> DatasetsClient<Channel> {
        DatasetsClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn tables(&self) -> TablesClient<Channel> {
        TablesClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn objects_service(&self) -> ObjectsClient<Channel> {
        ObjectsClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn server(&self) -> ServerClient<Channel> {
        ServerClient::new(self.channel.clone())
    }

    pub(crate) fn flight(&self) -> FlightServiceClient<Channel> {
        FlightServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }
}

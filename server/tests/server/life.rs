//! Starting, sharing a folder, draining, ending.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Span;
use anabranch_proto::v1;
use anabranch_proto::v1::server_client::ServerClient;
use anabranch_server::auth::{Action, Authorizer, Caller};
use anabranch_server::{Error, Result, SERVER_FILE, Server, ServerFile};
use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Notify;
use tonic::transport::Channel;

use crate::support::{TestServer, config};

async fn connect(address: std::net::SocketAddr) -> ServerClient<Channel> {
    ServerClient::connect(format!("http://{address}")).await.unwrap()
}

#[tokio::test]
async fn a_second_server_on_a_folder_is_told_who_serves_it() {
    let server = TestServer::start().await;
    let error = Server::start(config(server.folder.path())).await.unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(&server.running.addr().to_string()) && message.contains(&std::process::id().to_string()), "{message}");
    assert_eq!(server.http("GET", "/ready", "").await.0, 200);
}

#[tokio::test]
async fn server_json_is_there_exactly_while_the_server_answers() {
    let server = TestServer::start().await;
    let (path, folder) = (server.folder.path().join("data").join(SERVER_FILE), Arc::clone(&server.folder));
    let file: ServerFile = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!((file.address, file.pid), (server.running.addr(), std::process::id()));
    let info = connect(file.address).await.info(v1::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.pid, info.repositories, info.started_us), (file.pid, vec!["default".to_owned()], file.started_us));
    drop(server.channel);
    server.running.shutdown().await.unwrap();
    assert!(!path.exists());
    // And the folder is free again at once.
    Server::start(config(folder.path())).await.unwrap().shutdown().await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let error = Server::start(anabranch_server::Config { listen: server.running.addr(), ..config(folder.path()) }).await.unwrap_err();
    assert!(error.to_string().contains(&server.running.addr().to_string()), "{error}");
}

#[tokio::test]
async fn listening_beyond_loopback_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let listen = "0.0.0.0:0".parse().unwrap();
    let error = Server::start(anabranch_server::Config { listen, ..config(folder.path()) }).await.unwrap_err();
    assert!(error.to_string().contains("until authentication comes"), "{error}");
}

#[tokio::test]
async fn a_private_server_ends_with_its_last_user() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.private.enabled = true;
    config.private.idle_after = Span(50_000);
    let mut running = Server::start(config).await.unwrap();
    let mut client = connect(running.addr()).await;
    let mut session = client.session(v1::SessionRequest { client: "test".into() }).await.unwrap().into_inner();
    session.message().await.unwrap().unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), running.ended()).await;
    assert!(early.is_err(), "it ended under its user");
    drop((session, client));
    running.ended().await.unwrap();
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn sessions_do_not_hold_up_a_shutdown() {
    let server = TestServer::start().await;
    let mut client = connect(server.running.addr()).await;
    let mut session = client.session(v1::SessionRequest::default()).await.unwrap().into_inner();
    session.message().await.unwrap().unwrap();
    tokio::time::timeout(Duration::from_secs(10), server.running.shutdown()).await.unwrap().unwrap();
    assert!(session.message().await.is_ok_and(|event| event.is_none()));
}

/// Says when a call has come, and lets it on when told.
#[derive(Debug, Default)]
struct Gate {
    arrived: Notify,
    open: Notify,
}

#[async_trait]
impl Authorizer for Gate {
    async fn authorize(&self, _: &Caller, _: Action<'_>) -> Result<()> {
        self.arrived.notify_one();
        self.open.notified().await;
        Ok(())
    }
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_server_ends() {
    let gate = Arc::new(Gate::default());
    let server = TestServer::start_in(Arc::new(tempfile::tempdir().unwrap()), gate.clone()).await;
    let mut client = ServerClient::new(server.channel.clone());
    let request = tokio::spawn(async move { client.info(v1::InfoRequest {}).await });
    gate.arrived.notified().await;
    let mut shutdown = Box::pin(server.running.shutdown());
    assert!(futures::poll!(&mut shutdown).is_pending());
    gate.open.notify_one();
    assert!(request.await.unwrap().is_ok());
    drop(server.channel);
    shutdown.await.unwrap();
}

/// Panics where a call names the ref `panic`.
#[derive(Debug)]
struct Panics;

#[async_trait]
impl Authorizer for Panics {
    async fn authorize(&self, _: &Caller, action: Action<'_>) -> Result<()> {
        assert_ne!(action.reference, "panic");
        Ok(())
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_the_server_lives_on() {
    let server = TestServer::start_in(Arc::new(tempfile::tempdir().unwrap()), Arc::new(Panics)).await;
    let (status, reply) = server.http("GET", "/v1/log?ref=panic", "").await;
    assert_eq!((status, &reply["error"]["kind"]), (500, &json!("internal")), "{reply}");
    let mut versioning = anabranch_proto::v1::versioning_client::VersioningClient::new(server.channel.clone());
    let error = versioning.resolve(v1::ResolveRequest { target: crate::support::at("panic") }).await.unwrap_err();
    assert_eq!(crate::support::kind(&error), "internal");
    versioning.resolve(v1::ResolveRequest { target: None }).await.unwrap();
    let (_, metrics) = server.http_raw("GET", "/metrics", "", b"").await;
    assert!(metrics.contains("anabranch_panics_total 2"), "{metrics}");
}

#[tokio::test]
async fn health_and_readiness_are_told() {
    let server = TestServer::with_weather().await;
    let (status, health) = server.http("GET", "/health", "").await;
    assert_eq!((status, &health["status"]), (200, &json!("ok")));
    let (status, ready) = server.http("GET", "/ready", "").await;
    assert_eq!((status, &ready["repositories"]), (200, &json!(["default"])), "{ready}");
}

#[tokio::test]
async fn several_repositories_keep_apart() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let config = anabranch_server::Config { repositories: vec!["default".into(), "other".into()], ..config(folder.path()) };
    let running = Server::start(config).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", running.addr())).unwrap().connect().await.unwrap();
    let server = TestServer { running, channel, folder };
    server.http("POST", "/v1/branches", r#"{"repository": "other", "name": "side"}"#).await;
    let names = async |repository: &str| {
        let (_, reply) = server.http("GET", &format!("/v1/branches?repository={repository}"), "").await;
        reply["branches"].as_array().unwrap().iter().map(|branch| branch["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("other").await, ["main", "side"]);
    assert_eq!(names("default").await, ["main"]);
}

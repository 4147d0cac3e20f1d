//! A server whose online store is on a real Cassandra.

use std::sync::Arc;

use anabranch_online_store::CqlConfig;
use anabranch_online_store::testkit::cql::{DURABLE, TestCassandra};
use anabranch_server::Config;
use anabranch_server::auth::AllowLoopback;
use anabranch_server::config::OnlineBackend;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::rows::{deletes_an_entity, looks_pushed_rows_up};
use crate::support::{TestServer, WEATHER, config};

fn on(folder: &TempDir, cql: CqlConfig) -> Config {
    let mut config = config(folder.path());
    (config.online.backend, config.online.cql) = (OnlineBackend::Cql, cql);
    config
}

async fn serve(folder: &Arc<TempDir>, cql: CqlConfig) -> TestServer {
    TestServer::start_as(on(folder, cql), Arc::clone(folder), Arc::new(AllowLoopback)).await
}

async fn with_weather(cql: CqlConfig) -> (TestServer, Arc<TempDir>) {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let server = serve(&folder, cql).await;
    server.apply(WEATHER).await.unwrap();
    (server, folder)
}

async fn lookup(server: &TestServer, origins: &[&str]) -> (u16, Json) {
    let body = json!({"service": "model", "keys": {"origin": origins}});
    server.http("POST", "/v1/online-features", &body.to_string()).await
}

/// All on one Cassandra, which takes its time to start.
#[tokio::test]
async fn a_server_on_cql_serves_as_any_other_and_fills_a_cluster_that_comes_back_empty() {
    let mut cassandra = TestCassandra::start(DURABLE);
    let cql = cassandra.config("online");
    // Another metadata database has rows of its own in the same keyspace.
    deletes_an_entity(&with_weather(cql.clone()).await.0).await;
    let (server, folder) = with_weather(cql.clone()).await;
    looks_pushed_rows_up(&server).await;
    let TestServer { running, channel, .. } = server;
    drop(channel);
    running.shutdown().await.unwrap();
    let server = serve(&folder, cql).await;
    let (status, found) = lookup(&server, &["JFK"]).await;
    assert_eq!((status, &found["columns"][0]["values"]), (200, &json!([3.5])), "{found}");
    server.push(r#"{"origin": "A7", "at": "2024-01-01T01:00:00Z", "temp": 49}"#).await;
    server.flush().await;
    let cassandra = tokio::task::spawn_blocking(move || {
        cassandra.kill();
        cassandra.run_empty();
        cassandra
    });
    let _cassandra = cassandra.await.unwrap();
    // Nothing is said to be not found meanwhile.
    let refilled = async {
        loop {
            match lookup(&server, &["A7", "JFK"]).await {
                (200, found) => return found,
                (503, _) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                (status, found) => panic!("{status} {found}"),
            }
        }
    };
    let found = tokio::time::timeout(std::time::Duration::from_secs(120), refilled).await.unwrap();
    assert_eq!(found["columns"][0]["values"], json!([49.0, 3.5]), "{found}");
}

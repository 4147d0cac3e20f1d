//! A server whose online store is on a real Redis.

use std::net::SocketAddr;
use std::sync::Arc;

use anabranch_core::SystemClock;
use anabranch_online_store::testkit::redis::{DURABLE, TestCluster, TestRedis, VOLATILE};
use anabranch_online_store::{RedisConfig, RedisUrl};
use anabranch_server::auth::AllowLoopback;
use anabranch_server::config::OnlineBackend;
use anabranch_server::{Config, Server};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::rows::{deletes_an_entity, looks_pushed_rows_up};
use crate::support::{TestServer, WEATHER, config};

fn on(folder: &TempDir, redis: RedisConfig) -> Config {
    let mut config = config(folder.path());
    (config.online.backend, config.online.redis) = (OnlineBackend::Redis, redis);
    config
}

async fn serve(folder: &Arc<TempDir>, redis: RedisConfig) -> TestServer {
    TestServer::start_as(on(folder, redis), Arc::clone(folder), Arc::new(AllowLoopback)).await
}

async fn with_weather(redis: RedisConfig) -> (TestServer, Arc<TempDir>) {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let server = serve(&folder, redis).await;
    server.apply(WEATHER).await.unwrap();
    (server, folder)
}

async fn lookup(server: &TestServer, origins: &[&str], at_least: &Json) -> (u16, Json) {
    let body = json!({"service": "model", "keys": {"origin": origins}, "at_least": at_least});
    server.http("POST", "/v1/online-features", &body.to_string()).await
}

#[tokio::test]
async fn a_server_on_redis_looks_up_and_deletes_as_any_other() {
    let redis = TestRedis::start(DURABLE);
    looks_pushed_rows_up(&with_weather(redis.config()).await.0).await;
    // Another metadata database has rows of its own on the same Redis.
    deletes_an_entity(&with_weather(redis.config()).await.0).await;
}

#[tokio::test]
async fn a_server_on_a_cluster_looks_up_as_any_other_and_keeps_its_rows_through_a_restart() {
    let cluster = TestCluster::start(DURABLE);
    let (server, folder) = with_weather(cluster.config()).await;
    looks_pushed_rows_up(&server).await;
    let TestServer { running, channel, .. } = server;
    drop(channel);
    running.shutdown().await.unwrap();
    let server = serve(&folder, cluster.config()).await;
    let (status, found) = lookup(&server, &["JFK"], &json!("")).await;
    assert_eq!((status, &found["columns"][0]["values"]), (200, &json!([3.5])), "{found}");
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_filled_again_and_meanwhile_nothing_is_said_to_be_not_found() {
    let mut redis = TestRedis::start(VOLATILE);
    let (server, _folder) = with_weather(redis.config()).await;
    let rows: Vec<_> = (0..200).map(|i| json!({"origin": format!("A{i}"), "at": "2024-01-01T00:00:00Z", "temp": i % 50}).to_string()).collect();
    server.push(&format!("[{}]", rows.join(","))).await;
    server.flush().await;
    // What is in no commit yet is lost as well, and comes back as well.
    let last = server.push(r#"{"origin": "A7", "at": "2024-01-01T01:00:00Z", "temp": 49}"#).await;
    assert_eq!(lookup(&server, &["A7"], &json!(last.token)).await.0, 200);
    for _ in 0..2 {
        redis.kill();
        redis.run();
        let refilled = async {
            loop {
                let (status, found) = lookup(&server, &["A7", "A199"], &json!("")).await;
                match status {
                    200 => return found,
                    503 => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                    _ => panic!("{status} {found}"),
                }
            }
        };
        let found = tokio::time::timeout(std::time::Duration::from_secs(60), refilled).await.unwrap();
        assert_eq!(found["columns"][0]["values"], json!([49.0, 49.0]), "{found}");
    }
    let (_, status) = server.http("GET", "/v1/status", "").await;
    assert_eq!(status["appended"], json!(201), "{status}");
}

#[tokio::test]
async fn a_server_says_why_its_online_store_cannot_be_used() {
    let redis = TestRedis::start(VOLATILE);
    let refusal = async |redis: RedisConfig| {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..on(&folder, redis) };
        Server::start_with(config, Arc::new(AllowLoopback), Arc::new(SystemClock)).await.map(|_| ()).unwrap_err().to_string()
    };
    let nobody = RedisConfig { url: RedisUrl("redis://127.0.0.1:1".to_owned()), ..redis.config() };
    let said = refusal(nobody).await;
    assert!(said.contains("connect to Redis"), "{said}");
    redis.ask(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]);
    let said = refusal(redis.config()).await;
    assert!(said.contains("maxmemory-policy volatile-ttl") && said.contains("noeviction"), "{said}");
}

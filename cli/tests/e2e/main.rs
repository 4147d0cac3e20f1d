//! The client and the command line against real servers.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests, which clippy does not know as tests; real processes take real time"
)]

mod client;
mod cluster;
mod commands;
mod maintenance;
mod old_folder;
mod open;
mod versions;

use std::path::Path;

use anabranch_client::{Changes, Client, ClientConfig, Definition, Entity, FeatureView, Launcher, Scalar};
use anabranch_server::{Config, RunningServer, Server};

/// A server within this process.
async fn server(data: &Path, listen: &str) -> RunningServer {
    Server::start(Config { data: data.to_owned(), listen: listen.parse().unwrap(), ..Config::default() }).await.unwrap()
}

async fn client_of(server: &RunningServer) -> Client {
    Client::connect(&server.addr().to_string()).await.unwrap()
}

async fn open(folder: &Path) -> Client {
    Client::open(folder, &program(), ClientConfig::default()).await.unwrap()
}

fn program() -> Launcher {
    Launcher::new(env!("CARGO_BIN_EXE_anabranch"))
}

/// An entity `airport` of key `origin`, and a view `weather` of `temp` and `wind` at `time`.
fn definitions() -> Changes {
    let f64 = "f64".parse().unwrap();
    let weather = FeatureView::new("weather", "time").entity("airport").field("temp", f64).field("wind", f64);
    let airport = Entity::new("airport", "origin", Scalar::String);
    Changes::new().define(Definition::Entity(airport)).define(Definition::FeatureView(weather))
}

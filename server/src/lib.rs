//! The server: one port for gRPC, HTTP and Arrow Flight over the parts of Anabranch. A library; the `anabranch` binary calls [`serve`].
//!
//! In reading order: [`config`] (one file), the data folder and its lock ([`DataFolder`]), [`Server`] (start, drain, end), [`auth`] (the hook that every
//! call passes) and `boundary` (what every request passes); the domain layer [`App`] with a file for each concern; its faces `grpc`, `http` and `flight`,
//! thin, with `wire`, `columns`, `cells` and `status` to translate for them; [`engine`] (the processes of a cluster); [`metrics`], `sessions` (the users of a private server) and `logging`.

mod app;
pub mod auth;
mod boundary;
mod cells;
mod columns;
pub mod config;
pub mod engine;
mod error;
mod flight;
mod folder;
mod grpc;
pub mod http;
mod lanes;
mod logging;
pub mod maintenance;
pub mod metrics;
mod server;
mod sessions;
mod status;
mod wire;

pub use app::App;
pub use config::Config;
pub use error::{Conflicts, Error, Result};
pub use folder::{DataFolder, SERVER_FILE, ServerFile};
/// What [`maintenance`] speaks of.
pub mod versioning {
    pub use anabranch_versioning::{CommitId, Counts, Exported, FsckReport, Imported, RefOutcome};
}

pub use server::{RunningServer, Server, serve};

//! The server.

pub mod auth;
pub mod config;
mod error;
mod folder;
mod logging;
pub mod metrics;
mod sessions;
mod status;

pub use config::Config;
pub use error::{Error, Result};
pub use folder::{DataFolder, SERVER_FILE, ServerFile};

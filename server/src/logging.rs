//! Structured logs to stderr; stdout is for data.

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};
use crate::error::{Error, Result};

/// Begins to log. A process that logs already keeps on as it does.
///
/// # Errors
/// [`Error::Config`] where the level does not parse.
pub(crate) fn init(config: &LogConfig) -> Result<()> {
    let filter: EnvFilter = config.level.parse().map_err(|error| Error::Config(format!("log.level: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error says only that there is a subscriber already.
    let _ = match config.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

//! `serve`: runs a server until it is told to end. Flags go before the environment, that before the file, that before the defaults.

use std::net::SocketAddr;
use std::path::PathBuf;

use anabranch_server::Config;
use anabranch_server::config::SAMPLE;
use clap::Args;

use crate::args::Global;
use crate::error::Error;
use crate::output::Output;

/// Runs a server until it is told to end (Ctrl-C or SIGTERM); then it answers what is under way and commits what was acknowledged.
#[derive(Debug, Args)]
#[command(after_help = "Every setting has an environment variable: ANABRANCH_ and its name in capitals, such as ANABRANCH_INGEST_COMMIT_EVERY.")]
pub(crate) struct Serve {
    /// A configuration file; --sample prints one with every setting explained
    #[arg(long, value_name = "FILE", env = "ANABRANCH_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Where to listen, on this machine [default: 127.0.0.1:7420]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
    /// What to log: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How to log: text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any other setting, by its dotted name; may be given again
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// End with the last user, as the server of a folder does that nobody started by hand
    #[arg(long)]
    private: bool,
    /// Print a configuration file with every setting explained, and end
    #[arg(long)]
    sample: bool,
}

pub(crate) async fn serve(global: &Global, serve: Serve, output: &mut Output) -> Result<(), Error> {
    if serve.sample {
        return output.line(SAMPLE);
    }
    if global.url.is_some() {
        return Err(Error::Usage("serve takes no --url: it is the server; --listen says where".to_owned()));
    }
    let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = Config::load(serve.config.as_deref(), environment, &flags(global, &serve)?)?;
    if serve.private {
        // A session of its own, so that a Ctrl-C in the first user's terminal does not end it for the others. Where it leads one already, that is done.
        let _ = rustix::process::setsid();
    }
    Ok(anabranch_server::serve(config).await?)
}

fn flags(global: &Global, serve: &Serve) -> Result<Vec<(String, String)>, Error> {
    let mut flags = Vec::new();
    let mut set = |name: &str, value: Option<String>| flags.extend(value.map(|value| (name.to_owned(), value)));
    let data = global
        .data
        .as_ref()
        .map(|folder| folder.to_str().map(str::to_owned).ok_or_else(|| Error::Usage(format!("the data folder {} is not UTF-8", folder.display()))));
    set("listen", serve.listen.map(|address| address.to_string()));
    set("data", data.transpose()?);
    set("log.level", serve.log_level.clone());
    set("log.format", serve.log_format.clone());
    set("private.enabled", serve.private.then(|| "true".to_owned()));
    for setting in &serve.settings {
        let (name, value) = setting.split_once('=').ok_or_else(|| Error::Usage(format!("--set {setting}: write it as NAME=VALUE")))?;
        set(name, Some(value.to_owned()));
    }
    Ok(flags)
}

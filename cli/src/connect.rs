//! Which server a command talks to: a flag before the environment before the default address.

use std::env::var_os;
use std::path::PathBuf;
use std::time::Duration;

use anabranch_client::{Client, ClientConfig, Launcher};

use crate::args::Global;
use crate::error::Error;

const DEFAULT_URL: &str = "http://127.0.0.1:7420";

enum Server {
    At(String),
    Of(PathBuf),
}

pub(crate) async fn connect(global: &Global, launcher: &Launcher) -> Result<Client, Error> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let author = global.author.clone().or_else(|| variable("ANABRANCH_AUTHOR")).or_else(|| variable("USER")).unwrap_or_default();
    let config = ClientConfig { timeout: Duration::from_secs(global.timeout), author, ..ClientConfig::default() };
    let client = match server(global, |name| var_os(name).filter(|value| !value.is_empty()))? {
        Server::At(url) => Client::connect_with(&url, config).await?,
        Server::Of(folder) => Client::open(&folder, launcher, config).await?,
    };
    Ok(client.repository(&global.repository).at(&global.reference))
}

fn server(global: &Global, variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Server, Error> {
    if global.url.is_some() && global.data.is_some() {
        return Err(Error::Usage("--url and --data name two servers: give one of them".to_owned()));
    }
    if let Some(url) = &global.url {
        return Ok(Server::At(url.clone()));
    }
    if let Some(folder) = &global.data {
        return Ok(Server::Of(folder.clone()));
    }
    if let Some(url) = variable("ANABRANCH_URL") {
        return url.into_string().map(Server::At).map_err(|_| Error::Usage("ANABRANCH_URL is not UTF-8".to_owned()));
    }
    Ok(variable("ANABRANCH_DATA").map_or_else(|| Server::At(DEFAULT_URL.to_owned()), |folder| Server::Of(folder.into())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn chosen(line: &[&str], environment: &[(&str, &str)]) -> String {
        let global = Cli::try_parse_from(line).unwrap().global;
        let variable = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        match server(&global, variable).unwrap() {
            Server::At(url) => url,
            Server::Of(folder) => folder.display().to_string(),
        }
    }

    #[test]
    fn a_flag_goes_before_the_environment_and_that_before_the_default() {
        let both = [("ANABRANCH_DATA", "from-env"), ("ANABRANCH_URL", "http://from-env")];
        assert_eq!(chosen(&["anabranch", "log", "--data", "flag"], &both), "flag");
        assert_eq!(chosen(&["anabranch", "log"], &both), "http://from-env");
        assert_eq!(chosen(&["anabranch", "log"], &both[..1]), "from-env");
        assert_eq!(chosen(&["anabranch", "log"], &[]), DEFAULT_URL);
    }

    #[test]
    fn two_servers_are_misuse() {
        let global = Cli::try_parse_from(["anabranch", "--url", "http://x", "log", "--data", "y"]).unwrap().global;
        assert_eq!(server(&global, |_| None).err().unwrap().exit_status(), 2);
    }
}

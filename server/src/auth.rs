//! The one authorisation hook, through which every call of every face passes before it touches anything.
//!
//! A face makes a [`Caller`] of its connection, and [`crate::App`] gives out a repository only against an [`Action`] that the [`Authorizer`] allows, so
//! that no handler can forget it. Until authentication comes, [`AllowLoopback`] lets everyone in who sits on this machine; a web page in somebody's
//! browser does not sit there, even where the browser does.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use http::header::{HOST, ORIGIN};
use tonic::transport::server::TcpConnectInfo;

use crate::error::{Error, Result};

/// What a call wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Health, metrics and what the server is.
    Observe,
    /// Be counted as a user of a private server.
    Join,
    /// Read definitions, or plan a change of them.
    ReadDefinitions,
    /// Change definitions.
    Apply,
    /// Read branches, tags, commits and differences.
    ReadVersions,
    /// Make, rename and delete branches and tags.
    WriteRefs,
    /// Protect branches, or no longer.
    Protect,
    /// Move a branch to what another has.
    Merge,
    /// Take a commit's changes back on a branch, or make them there.
    Replay,
    /// Move a branch to any commit.
    Reset,
    /// Write rows, tombstones included.
    WriteRows,
    /// Read rows of tables.
    ReadRows,
    /// Read rows that checks refused.
    ReadQuarantine,
    /// See where a pipeline stands, or wait for it.
    WatchIngest,
    /// Rewrite a table's rows as fewer files.
    Compact,
    /// Look features up.
    Lookup,
    /// Serve branches online, or no longer; rebuild and repair what is online.
    ServeOnline,
    /// Fetch a dataset, or read what is kept of one.
    ReadDataset,
    /// Keep a dataset under a name.
    SaveDataset,
    /// Read and list objects.
    ReadObjects,
    /// Put, delete, copy, rename and import objects.
    WriteObjects,
}

impl Verb {
    /// For messages and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Join => "join",
            Self::ReadDefinitions => "read_definitions",
            Self::Apply => "apply",
            Self::ReadVersions => "read_versions",
            Self::WriteRefs => "write_refs",
            Self::Protect => "protect",
            Self::Merge => "merge",
            Self::Replay => "replay",
            Self::Reset => "reset",
            Self::WriteRows => "write_rows",
            Self::ReadRows => "read_rows",
            Self::ReadQuarantine => "read_quarantine",
            Self::WatchIngest => "watch_ingest",
            Self::Compact => "compact",
            Self::Lookup => "lookup",
            Self::ServeOnline => "serve_online",
            Self::ReadDataset => "read_dataset",
            Self::SaveDataset => "save_dataset",
            Self::ReadObjects => "read_objects",
            Self::WriteObjects => "write_objects",
        }
    }
}

/// What a call wants to do, and to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action<'a> {
    /// What.
    pub verb: Verb,
    /// The repository; empty where the call is about the server itself.
    pub repository: &'a str,
    /// The ref as the caller wrote it; empty where there is none.
    pub reference: &'a str,
}

/// Who calls, as well as the connection tells.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The other end of the connection.
    pub peer: Option<SocketAddr>,
    /// The host that it believes to call.
    pub host: Option<String>,
    /// The web page that calls, where a browser does.
    pub origin: Option<String>,
}

impl Caller {
    /// The caller of a request, which carries its connection unless that is given.
    pub(crate) fn of<B>(connection: Option<&TcpConnectInfo>, request: &http::Request<B>) -> Self {
        let header = |name| request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Self {
            peer: connection.or_else(|| request.extensions().get()).and_then(TcpConnectInfo::remote_addr),
            host: request.uri().authority().map(ToString::to_string).or_else(|| header(HOST)),
            origin: header(ORIGIN),
        }
    }
}

/// Allows or forbids each action. Called once for each call, before it reads or writes anything.
#[async_trait]
pub trait Authorizer: Send + Sync + fmt::Debug + 'static {
    /// Allows the action, or says why not by [`Error::Forbidden`].
    async fn authorize(&self, caller: &Caller, action: Action<'_>) -> Result<()>;
}

/// Allows everything to programs on this machine, and nothing to anyone else.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowLoopback;

#[async_trait]
impl Authorizer for AllowLoopback {
    async fn authorize(&self, caller: &Caller, action: Action<'_>) -> Result<()> {
        let forbid = |reason: String| Err(Error::Forbidden { verb: action.verb.name(), repository: action.repository.to_owned(), reason });
        match caller.peer {
            Some(peer) if peer.ip().to_canonical().is_loopback() => {}
            Some(peer) => return forbid(format!("{} is not this machine", peer.ip())),
            None => return forbid("the connection has no address".to_owned()),
        }
        // A page that the user's browser shows reaches loopback too: by a form or script (it has an origin) or by a name that it points here.
        if let Some(origin) = &caller.origin
            && !origin.split_once("://").is_some_and(|(_, host)| is_loopback(host))
        {
            return forbid(format!("web page {origin:?} may not call"));
        }
        match &caller.host {
            Some(host) if !is_loopback(host) => forbid(format!("{host:?} is not a name of this machine: use 127.0.0.1 or localhost")),
            _ => Ok(()),
        }
    }
}

/// Whether `host` or `host:port` is this machine's own.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTION: Action<'static> = Action { verb: Verb::Lookup, repository: "default", reference: "" };

    fn caller(peer: &str, host: &str, origin: Option<&str>) -> Caller {
        Caller { peer: Some(peer.parse().unwrap()), host: Some(host.to_owned()), origin: origin.map(str::to_owned) }
    }

    #[tokio::test]
    async fn only_programs_on_this_machine_come_in() {
        for (peer, host, origin) in [
            ("127.0.0.1:5", "127.0.0.1:7420", None),
            ("[::1]:5", "[::1]:7420", None),
            ("[::ffff:127.0.0.1]:5", "localhost", None),
            ("127.0.0.1:5", "localhost:7420", Some("http://localhost:7420")),
        ] {
            AllowLoopback.authorize(&caller(peer, host, origin), ACTION).await.unwrap();
        }
        for (peer, host, origin) in [
            ("10.0.0.1:5", "127.0.0.1:7420", None),
            ("127.0.0.1:5", "evil.example:7420", None),
            ("127.0.0.1:5", "127.0.0.1:7420", Some("https://evil.example")),
            ("127.0.0.1:5", "127.0.0.1:7420", Some("null")),
        ] {
            let error = AllowLoopback.authorize(&caller(peer, host, origin), ACTION).await.unwrap_err();
            assert!(matches!(error, Error::Forbidden { verb: "lookup", .. }), "{error}");
        }
        assert!(AllowLoopback.authorize(&Caller::default(), ACTION).await.is_err());
    }
}

//! [`TestCassandra`]: a Cassandra of this process' own, one node, from its Maven packages.
//!
//! It listens on 127.0.0.1 alone, on free ports, over a folder in the temporary directory. A shell waits at the end of a pipe for this process to end,
//! however it ends, and then ends the server by its pid. `scripts/setup test` fetches the packages; without them a test that needs them fails and says so.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::testkit::free_port;

use crate::CqlConfig;

const INSTALL: &str = "run `scripts/setup test`, which fetches Cassandra's packages and needs Java 17 and Maven";
/// What keeps a server; stdin ends with the process that started it. `$1` is the folder, then come the program and its arguments.
const KEEPER: &str = r#"
folder=$1; shift
"$@" >"$folder/log" 2>&1 &
server=$!
echo $server >"$folder/pid.part" && mv "$folder/pid.part" "$folder/pid"
read -r _
kill -KILL $server 2>/dev/null
wait $server
"#;
/// Every write on disk before it is acknowledged.
pub const DURABLE: &str = "commitlog_sync: batch";
/// A log that is synced every ten seconds.
pub const PERIODIC: &str = "commitlog_sync: periodic\ncommitlog_sync_period: 10000ms";
/// What says in the log that it takes CQL.
const READY: &str = "Starting listening for CQL clients";
/// How long a loaded machine may take to start it, in steps of 50 ms.
const PATIENCE: u32 = 6_000;
/// The lines of Cassandra's own `jvm17-server.options` that open Java's modules to it.
const EXPORTS: &[&str] = &[
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.base/java.lang.ref",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.unsupported/sun.misc",
];
const OPENS: &[&str] = &[
    "java.base/java.lang.module",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.util",
    "java.base/java.nio",
    "jdk.management/com.sun.management.internal",
];
/// A log of warnings: by default every step of the server is written.
const LOGGING: &str = r#"<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%level %msg%n</pattern></encoder></appender>
  <logger name="org.apache.cassandra.transport" level="INFO"/>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
"#;

static SERVERS: AtomicU64 = AtomicU64::new(0);

/// A Cassandra server.
#[derive(Debug)]
pub struct TestCassandra {
    port: u16,
    storage_port: u16,
    folder: PathBuf,
    settings: String,
    keeper: Option<Child>,
}

impl TestCassandra {
    /// Starts a server over an empty folder, with settings besides those that every one has.
    ///
    /// # Panics
    /// Where its packages or Java are not there, or it does not start: the message says what to do.
    pub fn start(settings: &str) -> Self {
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("anabranch-cassandra-{}-{number}", std::process::id()));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir(&folder).unwrap_or_else(|error| panic!("making {}: {error}", folder.display()));
        let mut server = Self { port: free_port(), storage_port: free_port(), folder, settings: settings.to_owned(), keeper: None };
        server.run();
        server
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where it keeps all that it keeps.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The settings of a store under a prefix of its own, with time limits that suit a loaded machine.
    pub fn config(&self, prefix: &str) -> CqlConfig {
        CqlConfig {
            contact_points: self.address(),
            keyspace: "test".to_owned(),
            prefix: prefix.to_owned(),
            replication_factor: 1,
            lookup_timeout_ms: 20_000,
            timeout_ms: 60_000,
            ..CqlConfig::default()
        }
    }

    /// Ends the server as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            if let Some(mut stdin) = keeper.stdin.take() {
                drop(stdin.write_all(b"\n"));
            }
            drop(keeper.wait());
        }
    }

    /// Starts a server that was killed on what it left behind.
    pub fn run(&mut self) {
        self.configure();
        drop(std::fs::remove_file(self.folder.join("pid")));
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh"]).arg(&self.folder).arg("java");
        keeper.args(["-Xms768m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
        keeper.arg(format!("-Dcassandra.config=file://{}", path("cassandra.yaml"))).arg(format!("-Dcassandra.storagedir={}", path("")));
        keeper.arg(format!("-Dlogback.configurationFile={}", path("logback.xml")));
        keeper.args(["-Dcassandra-foreground=yes", "-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.ring_delay_ms=100"]);
        keeper.args(EXPORTS.iter().map(|module| format!("--add-exports={module}=ALL-UNNAMED")));
        keeper.args(OPENS.iter().map(|module| format!("--add-opens={module}=ALL-UNNAMED")));
        keeper.args(["-cp", &format!("{}/*", packages().display()), "org.apache.cassandra.service.CassandraDaemon"]);
        let keeper = keeper.current_dir(&self.folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.keeper = Some(keeper.unwrap_or_else(|error| panic!("starting java: {error}: {INSTALL}")));
        let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let ready = (0..PATIENCE).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            let log = log();
            assert!(!log.contains("java: not found"), "Java is not installed: {INSTALL}");
            log.contains(READY) && TcpStream::connect(self.address()).is_ok()
        });
        assert!(ready, "Cassandra does not answer: {}", log());
    }

    /// Starts a server that was killed with nothing left of what it kept.
    pub fn run_empty(&mut self) {
        for folder in ["data", "commitlog", "hints", "caches"] {
            drop(std::fs::remove_dir_all(self.folder.join(folder)));
        }
        self.run();
    }

    /// Adds settings from the next start on.
    pub fn reconfigure(&mut self, settings: &str) {
        settings.clone_into(&mut self.settings);
    }

    /// Stops the server where it stands, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let pid = std::fs::read_to_string(self.folder.join("pid")).unwrap_or_default();
        let sent = Command::new("kill").args([if frozen { "-STOP" } else { "-CONT" }, pid.trim()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signalling Cassandra {pid}");
    }

    fn configure(&self) {
        let mut yaml = format!(
            "cluster_name: test\nnum_tokens: 1\npartitioner: org.apache.cassandra.dht.Murmur3Partitioner\nauto_bootstrap: false\n\
             storage_compatibility_mode: NONE\nendpoint_snitch: SimpleSnitch\nlisten_address: 127.0.0.1\nrpc_address: 127.0.0.1\n\
             storage_port: {storage}\nnative_transport_port: {port}\nseed_provider:\n\
             - {{class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [{{seeds: \"127.0.0.1:{storage}\"}}]}}\n\
             commitlog_segment_size: 32MiB\ncommitlog_total_space: 256MiB\n",
            storage = self.storage_port,
            port = self.port
        );
        let folders =
            [("commitlog_directory", "commitlog"), ("saved_caches_directory", "caches"), ("hints_directory", "hints"), ("cdc_raw_directory", "cdc")];
        for (setting, name) in folders {
            yaml += &format!("{setting}: {}\n", self.folder.join(name).display());
        }
        yaml += &format!("data_file_directories: [{}]\n{}\n", self.folder.join("data").display(), self.settings);
        for (name, text) in [("cassandra.yaml", &*yaml), ("logback.xml", LOGGING)] {
            std::fs::write(self.folder.join(name), text).unwrap_or_else(|error| panic!("writing {name}: {error}"));
        }
    }
}

impl Drop for TestCassandra {
    fn drop(&mut self) {
        self.kill();
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// Where `scripts/setup` puts Cassandra's packages.
fn packages() -> PathBuf {
    let cache = std::env::var_os("ANABRANCH_CACHE").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache"), PathBuf::from);
    let packages = cache.join("cassandra");
    assert!(packages.is_dir(), "Cassandra's packages are not in {}: {INSTALL}", packages.display());
    packages
}

//! [`TestRedis`] and [`TestCluster`]: Redis servers of this process' own, alone and as a cluster of three.
//!
//! Each listens on 127.0.0.1 alone, on a free port, over a folder in the temporary directory. A shell waits at the end of a pipe for this process to end,
//! however it ends, and then ends the server by its pid. Without Redis a test that needs it fails and says how to get it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::testkit::free_port;

use crate::{RedisConfig, RedisUrl};

const INSTALL: &str = "Redis is not installed: run `scripts/setup test`, or install it (Debian: apt-get install redis-server)";
/// What keeps a server; stdin ends with the process that started it. `$1` is the folder, then come the program and its arguments.
const KEEPER: &str = r#"
folder=$1; shift
"$@" >>"$folder/log" 2>&1 &
server=$!
echo $server >"$folder/pid.part" && mv "$folder/pid.part" "$folder/pid"
read -r _
kill -KILL $server 2>/dev/null
wait $server
"#;
/// Every write on disk before it is acknowledged.
pub const DURABLE: &[&str] = &["--save", "", "--appendonly", "yes", "--appendfsync", "always"];
/// Nothing on disk.
pub const VOLATILE: &[&str] = &["--save", "", "--appendonly", "no"];
/// How long a loaded machine may take to do what takes moments.
const PATIENCE: u32 = 3_000;

static SERVERS: AtomicU64 = AtomicU64::new(0);

/// A Redis server.
#[derive(Debug)]
pub struct TestRedis {
    port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
    keeper: Option<Child>,
}

impl TestRedis {
    /// Starts a server over an empty folder.
    ///
    /// # Panics
    /// Where Redis is not installed or does not start: the message says what to do.
    pub fn start(arguments: &[&str]) -> Self {
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("anabranch-redis-{}-{number}", std::process::id()));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir(&folder).unwrap_or_else(|error| panic!("making {}: {error}", folder.display()));
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut server = Self { port: free_port(), folder, arguments, keeper: None };
        server.run();
        server
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The settings of a store on it, with time limits that suit a loaded machine.
    pub fn config(&self) -> RedisConfig {
        config(&self.address())
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
        drop(std::fs::remove_file(self.folder.join("pid")));
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh"]).arg(&self.folder).arg("redis-server").args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        keeper.arg("--dir").arg(&self.folder).args(&self.arguments).current_dir(&self.folder);
        let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.keeper = Some(keeper.unwrap_or_else(|error| panic!("starting redis-server: {error}")));
        let ready = wait_until(|| {
            let found = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default().contains("not found");
            assert!(!found, "{INSTALL}");
            self.ping()
        });
        assert!(ready, "redis-server does not answer: {}", std::fs::read_to_string(self.folder.join("log")).unwrap_or_default());
    }

    /// Starts a server that was killed with nothing left of what it kept.
    pub fn run_empty(&mut self) {
        drop(std::fs::remove_dir_all(self.folder.join("appendonlydir")));
        drop(std::fs::remove_file(self.folder.join("dump.rdb")));
        self.run();
    }

    /// Adds arguments from the next start on; the last of each name counts.
    pub fn reconfigure(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    }

    /// Stops the server where it stands, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let pid = std::fs::read_to_string(self.folder.join("pid")).unwrap_or_default();
        let sent = Command::new("kill").args([if frozen { "-STOP" } else { "-CONT" }, pid.trim()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signalling redis-server {pid}");
    }

    /// What the server answers to a command.
    pub fn ask(&self, command: &[&str]) -> String {
        redis_cli(&[&["-p", &self.port.to_string()], command].concat())
    }

    fn ping(&self) -> bool {
        let answer = TcpStream::connect(self.address()).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).map(|()| answer)
        });
        answer.is_ok_and(|answer| &answer == b"+PONG")
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        self.kill();
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// Three servers that share the slots of a cluster.
#[derive(Debug)]
pub struct TestCluster {
    /// The nodes, in the order of their slots.
    pub nodes: Vec<TestRedis>,
}

impl TestCluster {
    /// Starts three servers over empty folders and makes them a cluster.
    ///
    /// # Panics
    /// Where Redis is not installed, or the nodes do not find each other.
    pub fn start(arguments: &[&str]) -> Self {
        let (mut nodes, mut buses) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let bus = free_port().to_string();
            let clustered = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "60000"];
            nodes.push(TestRedis::start(&[arguments, &clustered[..]].concat()));
            buses.push(bus);
        }
        for (i, range) in [["0", "5460"], ["5461", "10922"], ["10923", "16383"]].iter().enumerate() {
            nodes[i].ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]);
            nodes[i].ask(&["CLUSTER", "ADDSLOTSRANGE", range[0], range[1]]);
        }
        for other in 1..3 {
            nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &nodes[other].port.to_string(), &buses[other]]);
        }
        let cluster = Self { nodes };
        cluster.wait_until_whole();
        cluster
    }

    /// Waits until every node knows every slot's holder.
    pub fn wait_until_whole(&self) {
        let whole = |node: &TestRedis| {
            let info = node.ask(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384") && info.contains("cluster_known_nodes:3")
        };
        assert!(wait_until(|| self.nodes.iter().all(whole)), "the nodes do not become a cluster: {}", self.nodes[0].ask(&["CLUSTER", "INFO"]));
    }

    /// The settings of a store on it.
    pub fn config(&self) -> RedisConfig {
        config(&self.nodes.iter().map(TestRedis::address).collect::<Vec<_>>().join(","))
    }

    /// Moves one slot from one node to another with the only key that lies in it.
    ///
    /// # Panics
    /// Where more keys lie there, or one that is no text.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let (ids, port) = ([from, to].map(|node| self.nodes[node].ask(&["CLUSTER", "MYID"]).trim().to_owned()), self.nodes[to].port.to_string());
        let set = |node: usize, state: &str, id: &str| assert_eq!(self.nodes[node].ask(&["CLUSTER", "SETSLOT", &slot, state, id]).trim(), "OK");
        set(to, "IMPORTING", &ids[0]);
        set(from, "MIGRATING", &ids[1]);
        let keys = self.nodes[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
        assert_eq!(self.nodes[from].ask(&["MIGRATE", "127.0.0.1", &port, keys.trim(), "0", "5000"]).trim(), "OK");
        for node in [to, from, 3 - from - to] {
            set(node, "NODE", &ids[1]);
        }
    }

    /// Moves slots from one node to another with what lies in them, as an operator does while the cluster is used.
    pub fn move_slots(&self, from: usize, to: usize, count: usize) {
        let id = |node: usize| self.nodes[node].ask(&["CLUSTER", "MYID"]).trim().to_owned();
        let (count, address) = (count.to_string(), self.nodes[0].address());
        let (from, to) = (id(from), id(to));
        redis_cli(&["--cluster", "reshard", &address, "--cluster-from", &from, "--cluster-to", &to, "--cluster-slots", &count, "--cluster-yes"]);
    }
}

fn config(hosts: &str) -> RedisConfig {
    RedisConfig { url: RedisUrl(format!("redis://{hosts}")), prefix: "test".to_owned(), lookup_timeout_ms: 20_000, timeout_ms: 60_000 }
}

fn redis_cli(arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(arguments).output().unwrap_or_else(|error| panic!("{INSTALL}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "redis-cli {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn wait_until(mut done: impl FnMut() -> bool) -> bool {
    (0..PATIENCE).any(|_| {
        let done = done();
        if !done {
            std::thread::sleep(Duration::from_millis(20));
        }
        done
    })
}

//! [`TestPostgres`]: a Postgres server of this process' own, with a database for each test.
//!
//! The server's programs are looked for in `PATH` and where Debian puts them; without them a test that needs Postgres fails and says how to get it. The
//! server listens on 127.0.0.1 alone, on a free port, over a folder in the temporary directory that belongs to a user other than root (Postgres refuses
//! root). A shell waits at the end of a pipe for this process to end, however it ends, and then ends the server by its pid and removes the folder.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_core::testkit::free_port;
use sqlx::{ConnectOptions, Connection, PgConnection, Row, postgres::PgConnectOptions};

const INSTALL: &str = "Postgres is not installed: run `scripts/setup test`, or install it (Debian: apt-get install postgresql)";
/// What keeps the server and clears up after it; stdin ends with the process that started it. `$1` is the folder, `$2` the program and what runs it.
const KEEPER: &str = r#"
folder=$1; shift
"$@" >"$folder/log" 2>&1 &
server=$!
read -r _
kill -QUIT $server 2>/dev/null
wait $server
rm -rf "$folder"
"#;

static SERVER: OnceLock<TestPostgres> = OnceLock::new();
static DATABASES: AtomicU64 = AtomicU64::new(0);

/// The server.
#[derive(Debug)]
pub struct TestPostgres {
    port: u16,
    folder: PathBuf,
    keeper: std::process::Child,
}

impl TestPostgres {
    /// The server of this process, started by the first who asks.
    ///
    /// # Panics
    /// Where Postgres is not installed or does not start: the message says what to do.
    pub fn shared() -> &'static Self {
        SERVER.get_or_init(Self::start)
    }

    /// Makes an empty database and answers its URL.
    ///
    /// # Panics
    /// Where the server does not answer.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let options = PgConnectOptions::new().host("127.0.0.1").port(self.port).username("anabranch").database("postgres");
        let mut connection = self.connect(&options).await;
        let made = sqlx::raw_sql(&format!("CREATE DATABASE {name}")).execute(&mut connection).await;
        made.unwrap_or_else(|error| panic!("making a database failed: {error}"));
        drop(connection.close().await);
        format!("postgres://anabranch@127.0.0.1:{}/{name}", self.port)
    }

    /// Ends every connection to a database, as a server does that restarts, and waits until they are gone. Answers how many there were.
    ///
    /// # Panics
    /// Where the server does not answer.
    pub async fn cut(&self, url: &str) -> usize {
        let name = url.rsplit('/').next().unwrap_or_default();
        let options = PgConnectOptions::new().host("127.0.0.1").port(self.port).username("anabranch").database("postgres");
        let mut connection = self.connect(&options).await;
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        let cut = sqlx::query(sql).bind(name).fetch_all(&mut connection).await.unwrap_or_else(|error| panic!("cutting failed: {error}"));
        let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
        while sqlx::query_scalar::<_, i64>(left).bind(name).fetch_one(&mut connection).await.is_ok_and(|left| left > 0) {}
        cut.iter().filter(|row| row.get::<bool, _>(0)).count()
    }

    async fn connect(&self, options: &PgConnectOptions) -> PgConnection {
        let mut last = None;
        // Up to a minute: a loaded machine starts a server slowly.
        for _ in 0..600 {
            match options.connect().await {
                Ok(connection) => return connection,
                Err(error) => last = Some(error),
            }
            tokio::task::spawn_blocking(|| std::thread::sleep(std::time::Duration::from_millis(100))).await.unwrap_or(());
        }
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("Postgres (keeper {}) does not answer: {last:?}\n{log}", self.keeper.id());
    }

    fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("anabranch-postgres-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir(&folder).unwrap_or_else(|error| panic!("making {}: {error}", folder.display()));
        let as_user = unprivileged(&folder);
        let data = folder.join("data");
        let output = command(&as_user, &program("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=anabranch", "--encoding=UTF8", "--no-locale", "-D"])
            .arg(&data)
            .current_dir(&folder)
            .output()
            .unwrap_or_else(|error| panic!("starting initdb: {error}"));
        assert!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        let port = free_port();
        let mut server = as_user.clone();
        server.push(program("postgres").display().to_string());
        server.extend(["-D".to_owned(), data.display().to_string(), "-p".to_owned(), port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=32MB", "max_connections=100", "max_wal_size=256MB"]
        {
            server.extend(["-c".to_owned(), setting.to_owned()]);
        }
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh"]).arg(&folder).args(&server).current_dir(&folder);
        let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self { port, folder, keeper: keeper.unwrap_or_else(|error| panic!("starting postgres: {error}")) }
    }
}

/// What runs a program as another user, where this one is root; the folder is given to that user.
fn unprivileged(folder: &Path) -> Vec<String> {
    let id = |user: &str| {
        let output = Command::new("id").args(["-u", user]).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    let me = Command::new("id").arg("-u").output().map(|output| output.stdout).unwrap_or_default();
    if me.trim_ascii() != b"0" {
        return Vec::new();
    }
    let user = id("postgres").or_else(|| id("nobody")).unwrap_or_else(|| panic!("Postgres does not run as root, and there is no user nobody"));
    let given = Command::new("chown").arg(&user).arg(folder).status();
    assert!(given.is_ok_and(|status| status.success()), "giving {} to user {user} failed", folder.display());
    ["setpriv", "--reuid", &user, "--clear-groups", "--"].map(str::to_owned).to_vec()
}

fn command(as_user: &[String], program: &Path) -> Command {
    match as_user {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    }
}

fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    let mut debian: Vec<_> = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
    debian.sort();
    folders.extend(debian.into_iter().rev());
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|program| program.exists());
    let found = found.unwrap_or_else(|| panic!("{INSTALL}"));
    // Its libraries are found beside where it really lies.
    found.canonicalize().unwrap_or(found)
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.keeper.stdin.take() {
            drop(stdin.write_all(b"\n"));
        }
        drop(self.keeper.wait());
    }
}

//! The server in a process of its own, so that its CPU time and memory are its own, and that of the product: `anabranch serve` with the same allocator.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anabranch_server::{Config, SERVER_FILE};
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rustix::process::{Signal, getpid, kill_process};

/// The server of a run, which ends with its standard input.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerOptions {
    /// Its data folder.
    #[arg(long)]
    data: PathBuf,
    /// A setting, NAME=VALUE.
    #[arg(long = "set")]
    settings: Vec<String>,
}

/// Serves until standard input ends, which it does at the latest with the process that started this one.
pub(crate) fn serve(options: &ServerOptions) -> anyhow::Result<()> {
    let mut flags = vec![("listen".to_owned(), "127.0.0.1:0".to_owned()), ("data".to_owned(), options.data.display().to_string())];
    for setting in &options.settings {
        let (name, value) = setting.split_once('=').with_context(|| format!("--set {setting}: write NAME=VALUE"))?;
        flags.push((name.to_owned(), value.to_owned()));
    }
    let config = Config::load(None, [], &flags)?;
    std::thread::spawn(|| {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        kill_process(getpid(), Signal::TERM)
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(anabranch_server::serve(config))?)
}

/// A running server.
pub(super) struct Served {
    child: Child,
    data: PathBuf,
    address: String,
}

impl Served {
    /// Starts it, and returns once it answers.
    pub(super) fn start(data: &Path, settings: &[(String, String)]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("online-lookup-server").arg("--data").arg(data);
        for (name, value) in settings {
            command.arg("--set").arg(format!("{name}={value}"));
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let address = address(data, &mut child)?;
        Ok(Self { child, data: data.to_owned(), address })
    }

    /// Ends it in good order and starts it anew.
    pub(super) fn restart(&mut self, settings: &[(String, String)]) -> anyhow::Result<()> {
        self.stop()?;
        *self = Self::start(&self.data.clone(), settings)?;
        Ok(())
    }

    pub(super) fn address(&self) -> String {
        self.address.clone()
    }

    pub(super) fn end(mut self) -> anyhow::Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }

    /// CPU time that it has used, by its own code and by the kernel for it.
    pub(super) fn cpu_s(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Behind the name in brackets stand the state and 10 more numbers, then user and system time in hundredths.
        let fields: Vec<_> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |place: usize| fields.get(place).and_then(|ticks| ticks.parse::<f64>().ok()).context("reading the server's CPU time");
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }

    /// Memory that it holds.
    pub(super) fn resident_bytes(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kb = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(|kb| kb.trim().trim_end_matches(" kB").parse::<f64>().ok());
        Ok(kb.context("reading the server's memory")? * 1024.0)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Where it was ended in good order there is nothing left to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where a server that was just started answers, once it does.
fn address(data: &Path, child: &mut Child) -> anyhow::Result<String> {
    for _ in 0..12_000 {
        if let Ok(text) = std::fs::read_to_string(data.join(SERVER_FILE))
            && let Ok(file) = serde_json::from_str::<serde_json::Value>(&text)
            && file["pid"] == child.id()
        {
            return Ok(file["address"].as_str().unwrap_or_default().to_owned());
        }
        if let Some(status) = child.try_wait()? {
            bail!("the server ended with {status}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("the server does not answer")
}

/// What the files of a folder take together.
pub(super) fn folder_bytes(folder: &Path) -> anyhow::Result<f64> {
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { folder_bytes(&entry.path())? } else { entry.metadata()?.len() as f64 };
    }
    Ok(bytes)
}

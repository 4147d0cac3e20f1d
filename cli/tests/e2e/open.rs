//! Private servers: one for a folder, whoever opens it, for as long as someone does.

use std::process::Command;
use std::time::{Duration, Instant};

use anabranch_client::local::{LOG_FILE, SERVER_FILE};

use super::{definitions, open};

fn runs(pid: u32) -> bool {
    // A process that has ended but not been waited for has no command line any more.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_open_a_folder_at_once_share_one_server_that_ends_with_the_last() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("made/when/missing");
    let openers: Vec<_> = (0..4)
        .map(|_| {
            let folder = folder.clone();
            tokio::spawn(async move { open(&folder).await })
        })
        .collect();
    let mut clients = Vec::new();
    for opener in openers {
        clients.push(opener.await.unwrap());
    }
    let pid = clients[0].info().await.unwrap().pid;
    for client in &clients {
        assert_eq!(client.info().await.unwrap().pid, pid);
    }
    let last = clients.pop().unwrap().at("main");
    drop(clients);
    last.apply(&definitions(), false, "").await.unwrap();
    assert!(runs(pid));
    drop(last);
    until("the server ends with its last user", || !runs(pid)).await;
    assert!(!folder.join(SERVER_FILE).exists());
    let again = open(&folder).await;
    assert_eq!(again.definitions(None, None).await.unwrap().definitions.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_whose_server_was_killed_is_opened_again() {
    let data = tempfile::tempdir().unwrap();
    let client = open(data.path()).await;
    client.apply(&definitions(), false, "").await.unwrap();
    let pid = client.info().await.unwrap().pid;
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    until("the server is gone", || !runs(pid)).await;
    assert!(data.path().join(SERVER_FILE).exists());
    let again = open(data.path()).await;
    assert_ne!(again.info().await.unwrap().pid, pid);
    assert_eq!(again.definitions(None, None).await.unwrap().definitions.len(), 2);
    assert!(data.path().join(LOG_FILE).exists());
}

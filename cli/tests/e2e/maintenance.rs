//! Looking after a data folder by the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::commands::Shell;
use crate::old_folder::unpack;

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A shell on the folder of the fixture.
fn shell() -> Shell {
    let shell = Shell::new();
    unpack(&shell.path().join("data"));
    shell
}

fn push(shell: &Shell, time: u32, temp: u32) {
    // With enough others to fill a small segment of the log.
    let row = |origin: &str| format!("{{\"origin\": \"{origin}\", \"time\": \"2014-01-01T{time:02}:00:00Z\", \"temp\": {temp}}}\n");
    let rows: String = (0..1_000).map(|n| row(&format!("A{n:03}"))).chain([row("JFK")]).collect();
    let done = shell.run_with("push weather", &rows);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    shell.ok("flush");
}

/// Waits until the folder's own server has gone.
fn rest(shell: &Shell) {
    let lock = std::fs::File::open(shell.path().join("data/lock")).unwrap();
    lock.lock().unwrap();
    lock.unlock().unwrap();
}

fn temp(shell: &Shell) -> Json {
    shell.json("get-online --features weather:temp --key origin=JFK")[0]["features"]["temp"]["value"].clone()
}

#[test]
fn fsck_names_every_kind_of_file_that_is_cut_short_or_gone_and_exits_with_1() {
    let shell = shell();
    assert!(shell.ok("fsck --deep").contains("whole"));
    let objects = shell.path().join("data/objects");
    let mut kinds: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in files(&objects) {
        let name = file.strip_prefix(&objects).unwrap().to_str().unwrap().to_owned();
        let kind = name.split('/').next().unwrap().to_owned() + if name.contains("snap-") { "-list" } else { "" };
        kinds.insert(kind, file);
    }
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    for file in kinds.values() {
        let whole = std::fs::read(file).unwrap();
        let name = file.strip_prefix(&objects).unwrap().to_str().unwrap();
        for len in [Some(whole.len() / 2), None] {
            match len {
                Some(len) => std::fs::write(file, &whole[..len]).unwrap(),
                None => std::fs::remove_file(file).unwrap(),
            }
            let output = shell.run_with("fsck --json", "");
            assert_eq!(output.status.code(), Some(1), "{name}");
            let report: Json = serde_json::from_slice(&output.stdout).unwrap();
            let found = report["findings"].as_array().unwrap().iter().any(|finding| finding["object"] == name || finding["pack"] == name);
            assert!(found, "{name}: {report:#}");
            let reached =
                report["findings"].as_array().unwrap().iter().any(|finding| finding["refs"].as_array().is_some_and(|refs| !refs.is_empty()));
            assert!(reached, "{name}: {report:#}");
        }
        // A flipped bit in the middle, by hash or by decoding.
        let mut flipped = whole.clone();
        let middle = whole.len() / 2;
        flipped[middle] ^= 0x10;
        std::fs::write(file, flipped).unwrap();
        if !name.starts_with("data/") && !name.starts_with("metadata/") {
            assert_eq!(shell.run_with("fsck --deep", "").status.code(), Some(1), "{name}");
        }
        std::fs::write(file, whole).unwrap();
    }
    let (status, stderr) = shell.fails("fsck --data nowhere");
    assert!(status == 1 && stderr.contains("nowhere"), "{stderr}");
}

#[test]
fn a_backup_is_restored_and_the_log_goes_on_from_its_offset_with_nothing_given_twice() {
    let (main, before, _) = restored(64 << 20);
    assert_eq!((&main["head"], &main["moved_from"]), (&before, &Json::Null));
    assert!(!main["newer"].is_null(), "{main}");
}

#[test]
fn a_backup_whose_rows_the_log_has_forgotten_is_rolled_forward_to_the_commit_that_holds_them() {
    let (main, before, _) = restored(1 << 16);
    assert_eq!(main["moved_from"], before, "{main}");
}

/// Backs a folder up beside its server, goes on, loses the database and restores it; what became of `main`, and its heads at the backup and at the end.
fn restored(segment_bytes: u64) -> (Json, Json, Json) {
    let shell = shell();
    push(&shell, 1, 10);
    rest(&shell);
    // Beside the server of the folder.
    let mut server = std::process::Command::new(env!("CARGO_BIN_EXE_anabranch"))
        .args(["serve", "--listen", "127.0.0.1:0", "--set", &format!("ingest.segment_bytes={segment_bytes}"), "--data"])
        .arg(shell.path().join("data"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    rest_until_serving(&shell, &mut server);
    assert!(shell.ok("backup saved").contains("2 branches and 1 tags"));
    let backed_up = shell.json("log")[0]["id"].clone();
    push(&shell, 2, 20);
    push(&shell, 3, 30);
    let last = shell.json("log")[0]["id"].clone();
    std::process::Command::new("kill").arg(server.id().to_string()).status().unwrap();
    server.wait().unwrap();

    let (status, stderr) = shell.fails("restore saved");
    assert!(status == 1 && stderr.contains("move it aside"), "{stderr}");
    let database = shell.path().join("data/metadata.sqlite");
    std::fs::rename(&database, shell.path().join("aside")).unwrap();
    let damaged = std::fs::read(shell.path().join("saved")).unwrap();
    std::fs::write(shell.path().join("half"), &damaged[..damaged.len() / 2]).unwrap();
    assert_eq!(shell.fails("restore half").0, 1);
    assert!(!database.exists());

    let restored = shell.json("restore saved");
    let main = &restored["branches"].as_array().unwrap().iter().find(|branch| branch["name"] == "main").unwrap().clone();
    shell.ok("flush");
    assert_eq!(temp(&shell), 30.0);
    let count = shell.json("dataset get --spine spine.csv --features weather:temp -o out.parquet");
    assert_eq!(count["rows"], 3);
    push(&shell, 4, 40);
    assert_eq!(temp(&shell), 40.0);
    assert_eq!(shell.json("fsck")["whole"], true);
    let later = r"origin,time,temp,wind
LGA,2015-01-01T06:00:00Z,1.0,
";
    shell.file("later.csv", later);
    let source = shell.json("ingest later.csv --view weather")[0]["ingested"]["source"].as_u64().unwrap();
    assert!(source >= 1 << 16, "{source}");
    (main.clone(), backed_up, last)
}

/// Waits until a server of the folder answers, and writes a spine for later.
fn rest_until_serving(shell: &Shell, server: &mut std::process::Child) {
    let mut times = String::from("origin,event_timestamp\n");
    (1..4).for_each(|hour| times.push_str(&format!("JFK,2014-01-01T{hour:02}:30:00Z\n")));
    shell.file("spine.csv", &times);
    while !shell.path().join("data/server.json").exists() {
        assert!(server.try_wait().unwrap().is_none(), "the server ended");
        std::thread::yield_now();
    }
}

#[test]
fn a_head_whose_pack_is_gone_is_told_and_restored_at_the_newest_commit_that_is_whole() {
    let shell = shell();
    push(&shell, 1, 10);
    shell.ok("branch create lost");
    let before = shell.json("log")[0]["id"].clone();
    let known = files(&shell.path().join("data/objects/packs"));
    shell.file("lost.csv", "origin,time,temp,wind\nLGA,2015-01-01T06:00:00Z,1.0,\n");
    shell.ok("ingest lost.csv --view weather --ref lost");
    shell.ok("backup saved");
    rest(&shell);
    for pack in files(&shell.path().join("data/objects/packs")) {
        if !known.contains(&pack) {
            std::fs::remove_file(pack).unwrap();
        }
    }
    std::fs::remove_file(shell.path().join("data/metadata.sqlite")).unwrap();
    let (status, stderr) = shell.fails("restore saved");
    assert!(status == 1 && stderr.contains("lost") && stderr.contains("--allow-missing"), "{stderr}");
    let restored = shell.json("restore saved --allow-missing");
    let lost = restored["branches"].as_array().unwrap().iter().find(|branch| branch["name"] == "lost").unwrap();
    assert_eq!(lost["head"], before);
    assert_eq!(shell.json("log --ref lost")[0]["id"], before);
}

#[test]
fn a_repository_moves_into_an_empty_folder_and_what_came_since_follows() {
    let shell = shell();
    let first = shell.json("export first");
    assert_eq!(first["refs"], 3);
    let done = shell.json("import first --data clone");
    assert_eq!((&done["cloned"], done["refs"].as_array().unwrap().len()), (&true.into(), 3));
    let head = |data: &str, name: &str| shell.json(&format!("log --ref {name} --data {data}"))[0]["id"].clone();
    assert_eq!(head("clone", "main"), head("data", "main"));
    assert_eq!(head("clone", "fix"), head("data", "fix"));
    let spine = "origin,event_timestamp\nJFK,2013-01-01T05:30:00Z\nEWR,2013-01-01T07:00:00Z\n";
    shell.file("spine.csv", spine);
    let dataset = shell.json("dataset get --spine spine.csv --features weather -o out.parquet --ref tag:v1 --data clone");
    assert_eq!(dataset["content_digest"], "273637009c0b9b7c48ca4fb4d75c4a64b9a479e559b5e1f6e74b2e5b1b62a6dc");

    push(&shell, 1, 10);
    let second = shell.json("export second --since-export first --branch main");
    assert!(second["bytes"].as_u64().unwrap() < first["bytes"].as_u64().unwrap());
    assert_eq!(shell.json("import second --data clone")["refs"][0]["outcome"], "moved");
    assert_eq!(head("clone", "main"), head("data", "main"));
    assert_eq!(shell.json("fsck --deep --data clone")["whole"], true);
    assert_eq!(shell.json("import second --data clone --prefix team/")["refs"][0]["name"], "team/main");

    let stranger = Shell::new();
    stranger.ok("apply features.yaml");
    rest(&stranger);
    let archive = shell.path().join("first");
    let (status, stderr) = stranger.fails(&format!("import {}", archive.display()));
    assert!(status == 1 && stderr.contains("shares no history"), "{stderr}");
}

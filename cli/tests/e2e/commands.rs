//! The command line, as a person and a program use it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

const DEFINITIONS: &str = "\
kind: entity
name: airport
join_keys: [{name: origin, type: string}]
---
kind: feature_view
name: weather
entities: [airport]
event_timestamp: time
fields:
  - {name: temp, type: f64}
  - {name: wind, type: f64}
";

/// A folder with a server of its own, on which commands are run.
pub(crate) struct Shell {
    pub(crate) folder: tempfile::TempDir,
}

impl Shell {
    pub(crate) fn new() -> Self {
        let shell = Self { folder: tempfile::tempdir().unwrap() };
        shell.file("features.yaml", DEFINITIONS);
        shell
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn file(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    pub(crate) fn run_with(&self, line: &str, stdin: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_anabranch"))
            .args(line.split_whitespace())
            .current_dir(self.path())
            .env("ANABRANCH_DATA", self.path().join("data"))
            .env_remove("ANABRANCH_URL")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What a command that succeeds writes to stdout.
    pub(crate) fn ok(&self, line: &str) -> String {
        let output = self.run_with(line, "");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn json(&self, line: &str) -> Json {
        serde_json::from_str(&self.ok(&format!("{line} --json"))).unwrap()
    }

    /// The exit status of a command that fails, and what it says; nothing of it on stdout.
    pub(crate) fn fails(&self, line: &str) -> (i32, String) {
        let output = self.run_with(line, "");
        assert!(output.stdout.is_empty(), "{line}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn the_whole_way_by_the_command_line() {
    let shell = Shell::new();
    assert!(shell.ok("plan features.yaml").contains("+ feature_view \"weather\""));
    assert_eq!(shell.json("apply features.yaml -m first")["plan"]["changes"], true);
    assert!(shell.ok("show feature_view/weather").contains("name: weather"));
    let row = r#"{"origin": "JFK", "time": "2013-01-01T05:00:00Z", "temp": 39.0}"#;
    let refused = r#"{"origin": "JFK", "time": "noon", "temp": "warm"}"#;
    let pushed = shell.run_with("push weather --json", &format!("{row}\n{refused}\n"));
    assert_eq!(serde_json::from_slice::<Json>(&pushed.stdout).unwrap()["rows"], 2);
    shell.ok("flush");
    assert_eq!(shell.ok("get-online --features weather --key origin=JFK"), "origin  temp  wind\nJFK     39.0  null\n");
    let online = shell.json("get-online --features weather:temp --key origin=XXX");
    assert_eq!(online[0]["features"]["temp"]["status"], "NOT_FOUND");

    let quarantine = shell.json("quarantine list");
    assert_eq!((&quarantine["total"], &quarantine["rows"][0]["failures"][0]["column"]), (&1.into(), &"temp".into()));
    assert_eq!(shell.ok("quarantine show 1 1").trim(), refused);

    shell.file("spine.csv", "origin,event_timestamp\nJFK,2013-01-01T06:00:00Z\nJFK,2013-01-01T04:00:00Z\n");
    let first = shell.json("dataset get --spine spine.csv --features weather -o out.parquet --save-as train");
    assert_eq!(first["rows"], 2);
    assert!(shell.path().join("out.parquet").exists());
    assert!(shell.ok("dataset list").contains("train"));

    shell.ok("branch create fix");
    shell.file("later.csv", "origin,time,temp,wind\nJFK,2013-01-01T05:30:00Z,12.5,\n");
    assert_eq!(shell.json("ingest later.csv --view weather --ref fix")[0]["ingested"]["rows"], 1);
    assert!(!shell.json("diff main fix")["differences"].as_array().unwrap().is_empty());
    assert_eq!(shell.json("merge fix")["outcome"], "fast_forward");
    assert!(shell.ok("get-online --features weather:temp --key origin=JFK").contains("12.5"));
    let commit = first["commit"].as_str().unwrap();
    let then = shell.json(&format!("dataset get --spine spine.csv --features weather -o again.parquet --ref {commit}"));
    assert_eq!(then["content_digest"], first["content_digest"]);
    shell.ok("tag create v1");
    assert!(shell.ok("log").lines().count() > 3);
    assert_eq!(shell.json("status")["pipeline"]["last_error"], "");
}

#[test]
fn what_is_wrong_is_told_on_stderr_with_a_status_that_says_what_to_do() {
    let shell = Shell::new();
    shell.ok("apply features.yaml");
    shell.file("wrong.yaml", &DEFINITIONS.replace("temp, type: f64", "temp, type: f65"));
    shell.file("torn.parquet", "PAR1 and not much more");
    shell.file("spine.csv", "airport,event_timestamp\nJFK,2013-01-01T06:00:00Z\n");
    shell.file("untimed.csv", "origin,event_timestamp\nJFK,2013-01-01T06:00:00Z\nJFK,\n");
    for (line, status, said) in [
        ("apply wrong.yaml", 1, "wrong.yaml:10:"),
        ("apply nothing.yaml", 1, "nothing.yaml"),
        ("apply", 2, "required"),
        ("show view/weather", 2, "feature_view"),
        ("show feature_view/wether", 1, "wether"),
        ("get-online --features wether --key origin=JFK", 1, "did you mean \"weather\""),
        ("get-online --features weather --key orgin=JFK", 2, "origin"),
        ("get-online --features weather --key origin=JFK --ref nowhere", 1, "nowhere"),
        ("ingest torn.parquet --view weather", 1, "torn.parquet"),
        ("dataset get --spine spine.csv --features weather", 1, "origin"),
        ("dataset get --spine untimed.csv --features weather", 1, "row 1"),
        ("dataset get --spine untimed.csv --features weather -o out.xls", 1, "out.xls"),
        ("merge nowhere", 1, "nowhere"),
        ("--url http://127.0.0.1:1 log", 75, "127.0.0.1:1"),
        ("--data features.yaml log", 1, "features.yaml"),
        ("serve --listen 0.0.0.0:0", 1, "loopback"),
        ("serve --set nonsense", 2, "NAME=VALUE"),
    ] {
        let (found, stderr) = shell.fails(line);
        assert_eq!(found, status, "{line}: {stderr}");
        assert!(stderr.contains(said), "{line}: {stderr}");
    }
    let (_, stderr) = shell.fails("merge nowhere --json");
    assert_eq!(serde_json::from_str::<Json>(&stderr).unwrap()["error"]["kind"], "not_found");
}

#[test]
fn datasets_are_created_described_refreshed_compared_and_exported() {
    let shell = Shell::new();
    shell.ok("apply features.yaml");
    let day = |day: i32| format!("JFK,2013-01-{day:02}T00:00:00Z,{day},1\nEWR,2013-01-{day:02}T00:00:00Z,-{day},1\n");
    shell.file("rows.csv", &format!("origin,time,temp,wind\n{}", (1..=20).map(day).collect::<String>()));
    shell.ok("ingest rows.csv --view weather");
    shell.file(
        "spine.csv",
        &format!("origin,event_timestamp\n{}", (1..=30).map(|day| format!("JFK,2013-01-{day:02}T06:00:00Z\n")).collect::<String>()),
    );
    let created = shell.json("dataset create first --spine spine.csv --features weather --splits train<2013-01-21,test");
    let spec = &created["manifest"]["spec"];
    assert_eq!((&spec["rows"], &spec["spine"]["file"], &spec["splits"]["parts"][0]["rows"]), (&30.into(), &"spine.csv".into(), &20.into()));
    assert!(shell.ok("dataset create events --spine-view weather --features weather --strict").starts_with("events: 40 rows from commit "));
    let listed = shell.ok("dataset list");
    assert!(listed.contains("train 20, test 10") && listed.lines().count() == 3, "{listed}");
    let described = shell.ok("dataset describe first");
    for said in ["file spine.csv", "split           train, 20 rows", "temp             f64        0      20         1    15       20  ", "1 parts"] {
        assert!(described.contains(said), "{said}: {described}");
    }

    shell.file("later.csv", "origin,time,temp,wind\nJFK,2013-01-28T00:00:00Z,99,\n");
    shell.ok("ingest later.csv --view weather");
    let refreshed = shell.ok("dataset refresh first --as second");
    assert!(refreshed.contains("; 3 of 30 rows joined again"), "{refreshed}");
    let diff = shell.ok("dataset diff first second");
    assert!(
        diff.contains("first -> second") && diff.contains("data: view weather has 1 rows more") && diff.contains("temp             moved"),
        "{diff}"
    );
    assert_eq!(shell.json("dataset diff first first")["same_content"], true);

    assert_eq!(shell.json("dataset export second -o second.parquet")[0]["rows"], 30);
    assert_eq!(shell.json("dataset export second -o test.csv --split test --columns temp")[0]["rows"], 10);
    assert_eq!(std::fs::read_to_string(shell.path().join("test.csv")).unwrap().lines().next_back(), Some("99.0"));
    assert_eq!(shell.json("dataset export second -o parts").as_array().unwrap().len(), 2);
    assert!(shell.path().join("parts/train.parquet").exists());
    for (line, status, said) in [
        ("dataset create first --spine spine.csv --features weather", 1, "another splits"),
        ("dataset create x --spine spine.csv --spine-view weather --features weather", 2, "--spine-view"),
        ("dataset create x --spine-view nothing --features weather", 1, "nothing"),
        ("dataset create x --spine spine.csv --features weather --splits train=0.8,test=0.3", 1, "add up to 1.1"),
        ("dataset export second -o out.xls", 1, "out.xls"),
        ("dataset export second -o out.csv --split tset", 1, "train, test"),
        ("dataset refresh nothing --as other", 1, "nothing"),
        ("dataset diff first nothing", 1, "nothing"),
    ] {
        let (found, stderr) = shell.fails(line);
        assert_eq!(found, status, "{line}: {stderr}");
        assert!(stderr.contains(said), "{line}: {stderr}");
    }
}

#[test]
fn a_second_server_on_a_folder_names_the_first() {
    let shell = Shell::new();
    let mut first = Command::new(env!("CARGO_BIN_EXE_anabranch"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(shell.path().join("data"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(first.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("serving")));
    assert_eq!(shell.json("status")["server"]["pid"], first.id());
    let (status, stderr) = shell.fails("serve --listen 127.0.0.1:0");
    assert_eq!(status, 75);
    assert!(stderr.contains(&format!("pid {}", first.id())), "{stderr}");
    Command::new("kill").arg(first.id().to_string()).status().unwrap();
    assert!(first.wait().unwrap().success());
}

#[test]
fn files_are_put_listed_read_moved_and_deleted() {
    let shell = Shell::new();
    std::fs::create_dir_all(shell.path().join("runs/deep")).unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 253) as u8).collect();
    std::fs::write(shell.path().join("runs/net.bin"), &big).unwrap();
    shell.file("runs/deep/notes.txt", "notes");
    let put = shell.json("object put -r runs experiments/1 -m first");
    assert_eq!((&put["changed"], put["objects"].as_array().unwrap().len()), (&true.into(), 2));
    assert_eq!(shell.json("log")[0]["message"], "first");
    let stdin = shell.run_with("object put - stdin.json --json", "{}");
    assert_eq!(serde_json::from_slice::<Json>(&stdin.stdout).unwrap()["objects"][0]["content_type"], "application/json");
    assert_eq!(shell.ok("object get stdin.json -"), "{}");
    assert!(shell.ok("object ls").contains("experiments/\n") && !shell.ok("object ls").contains("net.bin"));
    assert_eq!(shell.json("object ls experiments/ -r")["objects"].as_array().unwrap().len(), 2);
    assert_eq!(shell.json("object stat experiments/1/net.bin")["size"], 3_000_000);
    shell.ok("object get experiments/1/net.bin");
    assert!(std::fs::read(shell.path().join("net.bin")).unwrap() == big);
    assert_eq!(shell.ok("object get experiments/1/deep/notes.txt - --offset 1 --length 3"), "ote");
    shell.ok("object cp experiments/1/net.bin best.bin");
    shell.ok("object mv best.bin kept.bin --if-absent");
    shell.ok("object rm -r experiments/");
    assert_eq!(shell.json("object ls -r")["objects"].as_array().unwrap().len(), 2);
    shell.ok("object cp experiments/1/deep/notes.txt notes.txt --from-ref main~1");
    let objects = folder_of_packs(&shell.path().join("data"));
    std::fs::create_dir_all(objects.join("import")).unwrap();
    std::fs::write(objects.join("import/archive.tar"), &big).unwrap();
    assert_eq!(shell.json("object import import archive")["objects"][0]["path"], "archive/archive.tar");
    for (line, status, said) in [
        ("object get nothing -", 1, "nothing"),
        ("object put runs", 2, "-r"),
        ("object put features.yaml kept.bin --if-absent", 1, "kept.bin"),
        ("object put features.yaml a//b", 1, "a//b"),
        ("object put missing.bin", 1, "missing.bin"),
        ("object put -", 2, "stdin"),
        ("object rm -r nowhere/", 1, "nowhere"),
        ("object import blobs", 1, "blobs"),
        ("object get kept.bin --offset 3", 2, "--offset"),
        ("object rm kept.bin --ref main~1", 1, "main~1"),
    ] {
        let (found, stderr) = shell.fails(line);
        assert_eq!(found, status, "{line}: {stderr}");
        assert!(stderr.contains(said), "{line}: {stderr}");
    }
}

/// The object store of a data folder.
fn folder_of_packs(folder: &Path) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        if folder.join("packs").is_dir() {
            return folder;
        }
        folders.extend(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()));
    }
    panic!("there are no packs in {}", folder.display());
}

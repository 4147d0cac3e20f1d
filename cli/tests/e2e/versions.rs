//! Every verb of versions, by the Rust client and by the command line.

use std::path::Path;
use std::process::{Command, Output};

use anabranch_client::{
    Changes, Client, ClientConfig, Definition, DiffQuery, Entity, Error, ErrorKind, Kinded, LogQuery, MergeOptions, ReplayOptions, ResetOptions,
    Scalar, ShowQuery, Strategy,
};
use anabranch_server::RunningServer;
use serde_json::Value as Json;

use super::{client_of, server};

/// A command line that talks to a server in this process.
struct Shell<'a> {
    url: String,
    folder: &'a Path,
}

impl<'a> Shell<'a> {
    fn new(server: &RunningServer, folder: &'a Path) -> Self {
        Self { url: format!("http://{}", server.addr()), folder }
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
        command.args(["--url", &self.url]).args(args).current_dir(self.folder).env("ANABRANCH_AUTHOR", "ada");
        command.output().unwrap()
    }

    /// What a command that succeeds writes to stdout.
    fn ok(&self, line: &str) -> String {
        let output = self.run(&line.split_whitespace().collect::<Vec<_>>());
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, line: &str) -> Json {
        serde_json::from_str(&self.ok(&format!("{line} --json"))).unwrap()
    }

    /// The exit status of a command that fails, and what it writes to stdout and stderr.
    fn fails(&self, line: &str) -> (i32, String, String) {
        let output = self.run(&line.split_whitespace().collect::<Vec<_>>());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn define(&self, branch: &str, name: &str, owner: &str) {
        let yaml = format!("kind: entity\nname: {name}\njoin_key: k_{name}\ntype: string\nowner: {owner}\n");
        std::fs::write(self.folder.join("e.yaml"), yaml).unwrap();
        self.ok(&format!("apply e.yaml --ref {branch}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_has_every_verb() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder.path().join("data"), "127.0.0.1:0").await;
    let shell = Shell::new(&server, folder.path());
    shell.define("main", "airport", "nobody");
    assert!(shell.ok("branch create exp/a").starts_with("branch exp/a at "));
    shell.define("exp/a", "airport", "ada");
    shell.define("exp/a", "plane", "ada");
    shell.define("main", "carrier", "grace");

    assert!(shell.ok("diff main exp/a --kind feature").contains("owner nobody to ada"));
    assert!(shell.ok("diff main..exp/a").contains("removed  feature  entity/carrier"));
    assert!(!shell.ok("diff main...exp/a").contains("carrier"));
    assert_eq!(shell.ok("diff main...exp/a --summary"), "kind     added  removed  changed\nfeature  1      0        1\n");
    let diff = shell.json("diff main...exp/a --path feature/entity/airport");
    assert_eq!((&diff["differences"][0]["left"]["owner"], &diff["differences"][0]["right"]["owner"]), (&"nobody".into(), &"ada".into()));
    assert_eq!(shell.ok("merge-base main exp/a").trim(), diff["left_commit"]);

    let head = shell.json("branch show")["branch"]["commit"].as_str().unwrap().to_owned();
    assert!(shell.ok("merge exp/a --dry-run").contains("added    feature  entity/plane"));
    assert_eq!(shell.json("merge exp/a --dry-run")["outcome"], "merged");
    assert_eq!(shell.json("branch show main")["branch"]["commit"], head.as_str());
    assert!(shell.ok("merge exp/a -m worked").contains("a merge over"));
    let shown = shell.ok("show");
    assert!(shown.contains("author  ada") && shown.contains("worked") && shown.contains("entity/plane"), "{shown}");
    assert_eq!(shell.json("show main^2")["commit"]["id"], shell.json("log --ref exp/a -n 1")[0]["id"]);
    assert!(shell.ok("show entity/plane").contains("name: plane"));
    assert!(shell.ok("reflog").contains("merge"));
    assert_eq!(shell.json("log --path feature/entity/carrier").as_array().unwrap().len(), 1);
    assert_eq!(shell.json("log --first-parent --since 1d -n 2").as_array().unwrap().len(), 2);
    assert_eq!(shell.json("log --author nobody"), Json::Array(Vec::new()));

    // Both change the same: a table, status 1, and nothing is changed.
    shell.ok("branch create exp/b");
    shell.define("exp/b", "airport", "bob");
    shell.define("main", "airport", "eve");
    let (status, stdout, stderr) = shell.fails("merge exp/b");
    assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        stderr.contains("error: ") && stderr.contains("entity/airport") && stderr.contains("owner: eve") && stderr.contains("owner: bob"),
        "{stderr}"
    );
    let (status, _, stderr) = shell.fails("merge exp/b --json");
    let error: Json = serde_json::from_str(&stderr).unwrap();
    assert_eq!((status, &error["error"]["kind"]), (1, &"conflict".into()));
    assert_eq!(error["error"]["details"]["conflicts"][0]["theirs"]["owner"], "bob");
    let (status, stdout, stderr) = shell.fails("merge exp/b --dry-run");
    assert!(status == 1 && stdout.contains("entity/airport") && stderr.contains("1 keys"), "{stdout}{stderr}");
    assert_eq!(shell.json("merge exp/b --strategy theirs --squash")["outcome"], "merged");

    let squashed = shell.json("show")["commit"].clone();
    assert_eq!(squashed["parents"].as_array().unwrap().len(), 1);
    assert!(shell.ok("revert main -m back").starts_with("reverted in commit"));
    assert!(shell.ok("show entity/airport").contains("owner: eve"));
    assert!(shell.ok(&format!("cherry-pick {}", squashed["id"].as_str().unwrap())).starts_with("picked"));
    assert!(shell.ok("show entity/airport").contains("owner: bob"));
    let (status, _, stderr) = shell.fails(&format!("reset main~1 --expected {head}"));
    assert!(status == 1 && stderr.contains("moved"), "{stderr}");
    assert!(shell.ok("reset main~1 --expected main").contains("it was at"));
    assert!(shell.ok("show entity/airport").contains("owner: eve"));

    shell.ok("branch protect exp/b");
    assert!(shell.ok("branch list exp/").contains("exp/b") && shell.ok("branch show exp/b").contains("protected  yes"));
    shell.ok("tag create v1 main~1");
    assert!(shell.ok("tag list v").contains("v1"));
    for (line, status, said) in [
        ("branch rename exp/b exp/c", 1, "protected"),
        ("branch delete exp/b", 1, "protected"),
        ("reset exp/a --ref exp/b", 1, "protected"),
        ("branch rename exp/a main", 1, "exists"),
        ("branch create a~b", 1, "a~b"),
        ("show nowhere", 1, "nowhere"),
        ("show main~99", 1, "main~99"),
        ("show view/plane", 2, "feature_view"),
        ("show --parent 4", 1, "parents"),
        ("log --path view", 1, "feature"),
        ("log --since soon", 2, "7d"),
        ("diff main nowhere", 1, "nowhere"),
        ("merge exp/a --strategy mine", 2, "theirs"),
        ("revert nowhere", 1, "nowhere"),
        ("reflog nowhere", 1, "nowhere"),
        ("merge-base main nowhere", 1, "nowhere"),
        ("tag delete v2", 1, "v2"),
    ] {
        let (found, stdout, stderr) = shell.fails(line);
        assert!(found == status && stdout.is_empty() && stderr.contains(said), "{line}: {found} {stdout}{stderr}");
    }
    shell.ok("branch unprotect exp/b");
    assert!(shell.ok("branch rename exp/b экс/ü").contains("экс/ü"));
    assert_eq!(shell.json("branch list экс")[0]["name"], "экс/ü");
    shell.ok("branch delete экс/ü");
    server.shutdown().await.unwrap();
}

async fn define(client: &Client, name: &str, owner: &str) {
    let entity = Entity { owner: owner.to_owned(), ..Entity::new(name, format!("k_{name}"), Scalar::String) };
    client.apply(&Changes::new().define(Definition::Entity(entity)), false, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_reads_long_lists_by_pages() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), "127.0.0.1:0").await;
    let config = ClientConfig { page_size: 2, author: "ada".into(), ..ClientConfig::default() };
    let client = Client::connect_with(&server.addr().to_string(), config).await.unwrap();
    let first = client.commit().await.unwrap().id;
    for i in 0..5 {
        define(&client, &format!("e{i}"), "x").await;
        client.create_branch(&format!("b/{i}"), "").await.unwrap();
        client.create_tag(&format!("t/{i}"), "").await.unwrap();
    }
    let whole = client_of(&server).await;
    assert_eq!(client.branches("b/").await.unwrap(), whole.branches("b/").await.unwrap());
    assert_eq!((client.branches("").await.unwrap().len(), client.tags("t/").await.unwrap().len()), (6, 5));
    let log = client.log(0).await.unwrap();
    assert_eq!((log.len(), &log), (6, &whole.log(0).await.unwrap()));
    assert_eq!(client.log(5).await.unwrap(), log[..5]);
    assert_eq!(client.reflog("", 5).await.unwrap(), whole.reflog("main", 5).await.unwrap());
    let diff = client.diff(&first, "main", 0).await.unwrap();
    assert_eq!(diff, whole.diff(&first, "main", 0).await.unwrap());
    assert_eq!((diff.differences.len(), diff.truncated, diff.summary[0].added), (5, false, 5));
    let cut = client.diff(&first, "main", 3).await.unwrap();
    assert_eq!((cut.differences.len(), cut.truncated, cut.summary[0].added), (3, true, 3));
    let counted = client.diff_with(&first, "main", &DiffQuery { summary_only: true, ..DiffQuery::default() }).await.unwrap();
    assert_eq!((counted.differences.len(), &counted.summary), (0, &diff.summary));
    let path = LogQuery { paths: vec!["feature/entity/e1".into(), "feature/entity/e3".into()], ..LogQuery::default() };
    assert_eq!(client.log_with(&path).await.unwrap().len(), 2);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_tells_conflicts_from_other_failures() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), "127.0.0.1:0").await;
    let main = client_of(&server).await;
    let side = main.at("side");
    define(&main, "airport", "nobody").await;
    main.create_branch("side", "").await.unwrap();
    define(&side, "airport", "ada").await;
    define(&main, "airport", "grace").await;
    let Err(Error::Conflicts(found)) = main.merge("side", "", "").await else { panic!("no conflict") };
    assert_eq!((found.total, found.conflicts[0].key.as_str()), (1, "entity/airport"));
    assert_eq!(found.conflicts[0].ours.as_ref().unwrap().to_json()["owner"], "grace");
    let error = main.cherry_pick("side", "", &ReplayOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), &error.details()["conflicts"][0]["theirs"]["owner"]), (ErrorKind::Conflict, &Json::from("ada")));
    let dry = main.merge_with("side", "", &MergeOptions { dry_run: true, values: true, ..MergeOptions::default() }).await.unwrap();
    assert_eq!((dry.outcome.as_str(), dry.conflict_count, &dry.conflicts), ("conflict", 1, &found.conflicts));

    // The client's own ref is the branch that is worked on.
    let options = MergeOptions { strategy: Strategy::Ours, message: "mine".into(), ..MergeOptions::default() };
    let merged = side.merge_with("main", "", &options).await.unwrap();
    assert_eq!((merged.outcome.as_str(), side.branch("").await.unwrap().commit), ("merged", merged.commit.clone()));
    let shown = side.show(&ShowQuery { values: true, parent: 2, ..ShowQuery::default() }).await.unwrap();
    assert_eq!((shown.commit.message.as_str(), shown.changes.differences.len()), ("mine", 1));
    assert_eq!(shown.changes.differences[0].fields[0].right, Some("ada".into()));
    let error = side.revert("side", "", &ReplayOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let back = side.reset("side~1", "", &ResetOptions { expected: merged.commit.clone(), ..ResetOptions::default() }).await.unwrap();
    assert_eq!(
        (back.from, side.merge_base("side", "main").await.unwrap().unwrap().id),
        (merged.commit, main.at("main~1").commit().await.unwrap().id)
    );
    assert_eq!(main.branch("nowhere").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(main.rename_branch("side", "a b").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    server.shutdown().await.unwrap();
}

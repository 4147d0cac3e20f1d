//! Merge, revert, cherry-pick, reset, and what a history is asked, over gRPC and HTTP.

use anabranch_proto::metadata::ERROR_DETAILS;
use anabranch_proto::v1;
use anabranch_proto::v1::versioning_client::VersioningClient;
use serde_json::{Value as Json, json};
use tonic::Code;
use tonic::transport::Channel;

use crate::support::{TestServer, WEATHER, at, floats, historical, kind, push, spine};

fn versioning(server: &TestServer) -> VersioningClient<Channel> {
    VersioningClient::new(server.channel.clone())
}

/// A definition of an entity that stands alone.
fn entity(name: &str, owner: &str) -> String {
    format!("kind: entity\nname: {name}\njoin_key: k_{name}\ntype: string\nowner: {owner}\n")
}

impl TestServer {
    async fn get(&self, path: &str) -> Json {
        let (status, reply) = self.http("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {reply}");
        reply
    }

    async fn post(&self, path: &str, body: Json) -> Json {
        let (status, reply) = self.http("POST", path, &body.to_string()).await;
        assert_eq!(status, 200, "{path}: {reply}");
        reply
    }

    /// The status and the error of a request that is refused.
    async fn refused(&self, method: &str, path: &str, body: Json) -> (u16, Json) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, mut reply) = self.http(method, path, &body).await;
        assert!(status >= 400, "{path}: {reply}");
        (status, reply["error"].take())
    }

    async fn head(&self, branch: &str) -> String {
        self.get(&format!("/v1/branches/show?name={branch}")).await["commit"].as_str().unwrap().to_owned()
    }

    /// Applies an entity on a branch; the commit.
    async fn define(&self, branch: &str, name: &str, owner: &str) -> String {
        self.apply_on(branch, &entity(name, owner)).await.unwrap().commit
    }
}

#[tokio::test]
async fn an_experiment_goes_from_branch_to_merge_and_is_taken_back() {
    let server = TestServer::with_weather().await;
    server.push(r#"{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 1}"#).await;
    server.flush().await;
    server.post("/v1/branches", json!({"name": "exp/a", "author": "ada"})).await;
    let correction = v1::PushRequest { target: at("exp/a"), ..push(r#"{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 2}"#) };
    server.ingest().push(correction).await.unwrap();
    server.ingest().flush(v1::FlushRequest { target: at("exp/a") }).await.unwrap();
    server.apply_on("exp/a", &WEATHER.replace("max: 60", "max: 50")).await.unwrap();
    let main = server.define("main", "carrier", "grace").await;

    // Two dots tell what main has, too; three dots only what the experiment did.
    let two = server.get("/v1/diff?left=main&right=exp/a&path=feature").await;
    let keys = |diff: &Json| diff["differences"].as_array().unwrap().iter().map(|d| d["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(keys(&two), ["check/temp_range", "entity/carrier"], "{two}");
    assert_eq!(two["summary"], json!({"feature": {"added": 0, "removed": 1, "changed": 1}}));
    let three = server.get("/v1/diff?left=main&right=exp/a&three_dot=true&path=feature&values=true").await;
    let check = &three["differences"][0];
    assert_eq!((keys(&three), &check["summary"]), (vec!["check/temp_range".to_owned()], &json!("rule.range.max 60 to 50")), "{three}");
    assert_eq!(check["fields"], json!([{"path": "rule.range.max", "left": 60, "right": 50}]));
    assert_eq!((&check["left"]["rule"]["range"]["max"], &check["right"]["name"]), (&json!(60), &json!("temp_range")));
    let base = server.get("/v1/merge-base?left=main&right=exp/a").await;
    assert_eq!(base["commit"]["id"], three["left"]);
    let tables = server.get("/v1/diff?left=main&right=exp/a&path=table/features").await;
    assert_eq!(tables["differences"][0]["summary"], "1 to 2 rows, 1 to 2 files", "{tables}");

    // A dry run says what would come and changes nothing.
    let dry = server.post("/v1/merge", json!({"source": "exp/a", "dry_run": true})).await;
    assert_eq!((&dry["outcome"], &dry["commit"], &dry["base"]), (&json!("merged"), &json!(main), &base["commit"]["id"]), "{dry}");
    assert!(keys(&dry["changes"]).contains(&"check/temp_range".to_owned()), "{dry}");
    assert_eq!((&dry["conflicts"], server.head("main").await), (&json!([]), main.clone()));

    let merge = json!({"source": "exp/a", "author": "ada", "message": "the experiment worked"});
    let merged = server.post("/v1/merge", merge.clone()).await;
    assert_eq!((&merged["outcome"], &merged["from"]), (&json!("merged"), &json!(main)), "{merged}");
    // Its definitions judge from then on, which the pipeline writes down in a commit of its own.
    let merge_commit = merged["commit"].as_str().unwrap().to_owned();
    let shown = server.get(&format!("/v1/show?ref={merge_commit}")).await;
    assert_eq!((&shown["commit"]["id"], &shown["commit"]["message"]), (&merged["commit"], &json!("the experiment worked")));
    assert_eq!((&shown["commit"]["author"], shown["commit"]["parents"].as_array().unwrap().len()), (&json!("ada"), 2));
    assert!(keys(&shown["changes"]).contains(&"check/temp_range".to_owned()), "{shown}");
    let other = server.get(&format!("/v1/show?parent=2&ref={merge_commit}")).await;
    let came = other["changes"]["differences"].as_array().unwrap().iter().filter(|found| found["kind"] == "feature");
    assert_eq!(came.map(|found| &found["key"]).collect::<Vec<_>>(), ["entity/carrier"], "{other}");
    let temp = async |reference: &str| {
        let ask = v1::HistoricalCommand { target: at(reference), ..historical(&["weather:temp"]) };
        floats(&server.historical(ask, spine(&["JFK"], &[1])).await.unwrap().0, "temp")
    };
    let parents = (temp(&format!("{merge_commit}^1")).await, temp(&format!("{merge_commit}^2")).await);
    assert_eq!((temp("main").await, parents), (vec![Some(2.0)], (vec![Some(1.0)], vec![Some(2.0)])));
    let lookup = json!({"service": "model", "keys": {"origin": ["JFK"]}});
    assert_eq!(server.post("/v1/online-features", lookup.clone()).await["columns"][0]["values"][0], 2.0);
    assert_eq!(server.post("/v1/merge", merge).await["outcome"], "up_to_date");

    // What the definitions' commit did is taken back, and made again.
    let narrowed = server.get("/v1/log?ref=exp/a&path=feature/check/temp_range&limit=1").await["commits"][0]["id"].clone();
    let head = server.head("main").await;
    let reverted = server.post("/v1/revert", json!({"commit": narrowed, "author": "grace"})).await;
    assert_eq!(reverted["from"], head.as_str());
    let range = async || {
        let listed = server.get("/v1/definitions?kind=check").await;
        listed["definitions"][0]["spec"]["rule"]["range"]["max"].clone()
    };
    assert_eq!(range().await, 60);
    let shown = server.get(&format!("/v1/show?ref={}", reverted["commit"].as_str().unwrap())).await;
    assert_eq!((&shown["commit"]["author"], keys(&shown["changes"])), (&json!("grace"), vec!["check/temp_range".to_owned()]), "{shown}");
    let again = server.refused("POST", "/v1/revert", json!({"commit": narrowed})).await;
    assert_eq!((again.0, &again.1["kind"]), (412, &json!("failed_precondition")), "{}", again.1);
    server.post("/v1/cherry-pick", json!({"commit": narrowed})).await;
    assert_eq!(range().await, 50);
    let unsaid = server.refused("POST", "/v1/revert", json!({"commit": merged["commit"]})).await;
    assert_eq!(unsaid.0, 400, "{}", unsaid.1);
}

#[tokio::test]
async fn a_conflict_lists_every_key_with_both_values_and_changes_nothing() {
    let server = TestServer::start().await;
    let base = server.define("", "carrier", "nobody").await;
    server.post("/v1/branches", json!({"name": "side"})).await;
    server.define("side", "carrier", "ada").await;
    let head = server.define("", "carrier", "grace").await;

    let (status, error) = server.refused("POST", "/v1/merge", json!({"source": "side"})).await;
    assert_eq!((status, &error["kind"], &error["details"]["total"]), (409, &json!("conflict"), &json!(1)), "{error}");
    let conflict = &error["details"]["conflicts"][0];
    assert_eq!((&conflict["kind"], &conflict["key"]), (&json!("feature"), &json!("entity/carrier")));
    let owners = ["base", "ours", "theirs"].map(|side| conflict[side]["owner"].clone());
    assert_eq!(owners, [json!("nobody"), json!("grace"), json!("ada")], "{conflict}");
    assert!(!conflict["reason"].as_str().unwrap().is_empty());
    assert_eq!(server.head("main").await, head);

    // A status carries as much of it as a header holds; who asks for it gets all of it in the answer.
    let merge = |report_conflicts| v1::MergeRequest { source: "side".into(), report_conflicts, ..v1::MergeRequest::default() };
    let status = versioning(&server).merge(merge(false)).await.unwrap_err();
    assert_eq!((status.code(), kind(&status)), (Code::Aborted, "conflict".to_owned()));
    let details: Json = serde_json::from_slice(&status.metadata().get_bin(ERROR_DETAILS).unwrap().to_bytes().unwrap()).unwrap();
    assert_eq!(details["conflicts"][0]["key"], "entity/carrier");
    let reply = versioning(&server).merge(merge(true)).await.unwrap().into_inner();
    assert_eq!((reply.outcome.as_str(), reply.commit.as_str()), ("conflict", head.as_str()));
    let found = reply.conflicts.unwrap();
    assert_eq!((found.total, found.conflicts[0].key.as_str()), (1, "entity/carrier"));
    let theirs: Json = serde_json::from_str(&found.conflicts[0].theirs.as_ref().unwrap().json).unwrap();
    assert_eq!(theirs["owner"], "ada");

    let dry = server.post("/v1/merge", json!({"source": "side", "dry_run": true})).await;
    assert_eq!((&dry["outcome"], &dry["conflict_count"], &dry["conflicts"][0]), (&json!("conflict"), &json!(1), conflict));
    let pick = v1::ReplayRequest { commit: "side".into(), report_conflicts: true, ..v1::ReplayRequest::default() };
    let reply = versioning(&server).cherry_pick(pick).await.unwrap().into_inner();
    assert_eq!((reply.commit.as_str(), reply.conflicts.unwrap().total), (head.as_str(), 1));
    assert_eq!(server.refused("POST", "/v1/revert", json!({"commit": base})).await.0, 409);
    assert_eq!(server.head("main").await, head);

    // A side that is chosen wins; squashed, the source is no parent.
    server.post("/v1/branches", json!({"name": "kept"})).await;
    let ours = json!({"source": "side", "into": "kept", "strategy": "ours"});
    assert_eq!(server.post("/v1/merge", ours).await["outcome"], "merged");
    let squashed = server.post("/v1/merge", json!({"source": "side", "strategy": "theirs", "squash": true})).await;
    assert_eq!(squashed["outcome"], "merged");
    let owner = async |reference: &str| server.get(&format!("/v1/definitions?ref={reference}")).await["definitions"][0]["spec"]["owner"].clone();
    assert_eq!((owner("kept").await, owner("main").await), (json!("grace"), json!("ada")));
    assert_eq!(server.get("/v1/show").await["commit"]["parents"], json!([head]));
    assert_eq!(server.refused("POST", "/v1/merge", json!({"source": "side", "strategy": "mine"})).await.0, 400);
}

#[tokio::test]
async fn lists_come_in_pages_and_every_page_has_its_own() {
    let server = TestServer::start().await;
    for i in 0..7 {
        server.post("/v1/branches", json!({"name": format!("page/{i}")})).await;
        server.post("/v1/tags", json!({"name": format!("page/{i}")})).await;
        server.define("", &format!("e{i}"), if i % 2 == 0 { "ada" } else { "grace" }).await;
    }
    server.post("/v1/branches", json!({"name": "paget"})).await;
    let all = async |path: &str, list: &str, field: &str| {
        let (mut found, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = server.get(&format!("{path}&page_token={token}")).await;
            found.extend(page[list].as_array().unwrap().iter().map(|item| item[field].as_str().unwrap().to_owned()));
            pages += 1;
            match page.get("next_page_token") {
                Some(next) => token = next.as_str().unwrap().to_owned(),
                None => return (found, pages),
            }
        }
    };
    let names: Vec<_> = (0..7).map(|i| format!("page/{i}")).collect();
    assert_eq!(all("/v1/branches?prefix=page/&limit=3", "branches", "name").await, (names.clone(), 3));
    assert_eq!(all("/v1/tags?prefix=page/&limit=7", "tags", "name").await, (names, 1));
    let (whole, _) = all("/v1/log?limit=1000", "commits", "id").await;
    assert_eq!(whole.len(), 8);
    let (paged, pages) = all("/v1/log?limit=3", "commits", "id").await;
    assert!(paged == whole && pages >= 3, "{pages}");
    let (moves, pages) = all("/v1/reflog?limit=3", "moves", "to").await;
    assert!(moves == whole && pages == 3, "{moves:?}");
    let first = whole.last().unwrap();
    let (keys, pages) = all(&format!("/v1/diff?left={first}&right=main&limit=2&path=feature"), "differences", "key").await;
    assert_eq!((keys, pages), ((0..7).map(|i| format!("entity/e{i}")).collect(), 4));
    // The pages of a difference stay those of the two commits that it began with.
    let page = server.get(&format!("/v1/diff?left={first}&right=main&limit=5&path=feature")).await;
    server.define("", "e9", "ada").await;
    let token = page["next_page_token"].as_str().unwrap();
    let rest = server.get(&format!("/v1/diff?left={first}&right=main&limit=5&path=feature&page_token={token}")).await;
    assert_eq!((rest["differences"].as_array().unwrap().len(), &rest["right"]), (2, &page["right"]));
    let counted = server.get(&format!("/v1/diff?left={first}&right=main&summary_only=true")).await;
    assert_eq!((&counted["summary"]["feature"]["added"], &counted["differences"]), (&json!(8), &json!([])));
    for path in ["/v1/log?", "/v1/diff?left=main&", "/v1/show?", "/v1/reflog?"] {
        let (status, error) = server.refused("GET", &format!("{path}page_token=nonsense"), Json::Null).await;
        assert_eq!((status, &error["details"]["field"]), (400, &json!("page_token")), "{path}");
    }
}

#[tokio::test]
async fn a_history_is_asked_by_path_author_and_time() {
    let server = TestServer::start().await;
    let apply = async |branch: &str, name: &str, author: &str| {
        let files = vec![v1::YamlFile { name: "e.yaml".into(), text: entity(name, "x") }];
        let request = v1::ApplyRequest { target: at(branch), files, author: author.into(), ..v1::ApplyRequest::default() };
        anabranch_proto::v1::registry_client::RegistryClient::new(server.channel.clone()).apply(request).await.unwrap().into_inner().commit
    };
    let first = apply("", "a", "ada").await;
    server.post("/v1/branches", json!({"name": "side"})).await;
    let side = apply("side", "b", "grace").await;
    let last = apply("", "c", "ada").await;
    let merged = server.post("/v1/merge", json!({"source": "side", "author": "ada"})).await["commit"].as_str().unwrap().to_owned();
    let log = async |query: &str| {
        let found = server.get(&format!("/v1/log?{query}")).await;
        found["commits"].as_array().unwrap().iter().map(|commit| commit["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(log("path=feature/entity/b").await, std::slice::from_ref(&side));
    assert_eq!(log("author=grace").await, std::slice::from_ref(&side));
    assert_eq!(log("first_parent=true&limit=3").await, [merged.clone(), last.clone(), first.clone()]);
    assert!(log("limit=10").await.contains(&side));
    let time = |id: &str| {
        let path = format!("/v1/show?ref={id}");
        let server = &server;
        async move { server.get(&path).await["commit"]["time"].as_str().unwrap().to_owned() }
    };
    assert_eq!(log(&format!("since={}", time(&merged).await)).await, std::slice::from_ref(&merged));
    assert_eq!(log(&format!("until={}&author=ada", time(&first).await)).await, std::slice::from_ref(&first));
    // Refs by steps and by time, wherever a ref is taken.
    let id = async |reference: &str| server.get(&format!("/v1/show?ref={reference}")).await["commit"]["id"].as_str().unwrap().to_owned();
    assert_eq!((id("main~1").await, id("main%5E2").await, id("main%5E2~1").await), (last.clone(), side, first.clone()));
    let then = server.get("/v1/reflog").await["moves"][1]["time"].as_str().unwrap().to_owned();
    assert_eq!(id(&format!("main@%7B{then}%7D")).await, last);
    let diff = server.get(&format!("/v1/diff?left=main~2&right=main@%7B{then}%7D")).await;
    assert_eq!((&diff["left"], &diff["right"]), (&json!(first), &json!(last)));
    for (query, field) in [("path=view/x", "path"), ("since=noon", "since"), ("limit=-1", "query")] {
        let (status, error) = server.refused("GET", &format!("/v1/log?{query}"), Json::Null).await;
        assert_eq!((status, &error["details"]["field"]), (400, &json!(field)), "{error}");
    }
    for path in
        ["/v1/log?ref=nowhere", "/v1/show?ref=main~99", "/v1/diff?left=nowhere", "/v1/merge-base?left=main&right=nowhere", "/v1/reflog?branch=no"]
    {
        assert_eq!(server.refused("GET", path, Json::Null).await.0, 404, "{path}");
    }
    assert_eq!(server.refused("GET", "/v1/show?parent=3", Json::Null).await.0, 400);
    assert_eq!(server.refused("GET", "/v1/reflog?branch=main~1", Json::Null).await.0, 400);
}

#[tokio::test]
async fn a_branch_is_reset_and_a_protected_one_is_not() {
    let server = TestServer::start().await;
    let first = server.define("", "a", "ada").await;
    server.post("/v1/branches", json!({"name": "side"})).await;
    let second = server.define("side", "b", "ada").await;
    let reset = |body: Json| {
        let server = &server;
        async move { server.http("POST", "/v1/reset", &body.to_string()).await }
    };
    let (status, reply) = reset(json!({"branch": "side", "to": "side~1", "expected": first})).await;
    assert_eq!((status, &reply["error"]["kind"]), (409, &json!("conflict")), "{reply}");
    server.post("/v1/branches/protect", json!({"name": "side", "protected": true})).await;
    let (status, reply) = reset(json!({"branch": "side", "to": first})).await;
    assert_eq!(status, 412, "{reply}");
    let (status, _) = server.refused("POST", "/v1/branches/rename", json!({"name": "side", "new_name": "other"})).await;
    let (deleted, _) = server.refused("DELETE", "/v1/branches?name=side", Json::Null).await;
    assert_eq!((status, deleted, server.head("side").await), (412, 412, second.clone()));
    assert_eq!(server.post("/v1/branches/protect", json!({"name": "side", "protected": false})).await["protected"], false);
    let (status, reply) = reset(json!({"branch": "side", "to": "side~1", "expected": "side", "author": "grace"})).await;
    assert_eq!((status, reply), (200, json!({"from": second, "to": first})));
    let last = &server.get("/v1/reflog?branch=side").await["moves"][0];
    assert_eq!((&last["from"], &last["to"], &last["author"]), (&json!(second), &json!(first), &json!("grace")), "{last}");
    // What was reset is not lost.
    assert_eq!(reset(json!({"branch": "side", "to": second})).await.0, 200);
    assert_eq!(reset(json!({"branch": "side", "to": ""})).await.0, 400);
    assert_eq!(reset(json!({"branch": "side", "to": "nowhere"})).await.0, 404);
    assert_eq!(reset(json!({"branch": "side~1", "to": first})).await.0, 412);
}

#[tokio::test]
async fn a_renamed_branch_keeps_its_id_and_what_was_pushed_to_it() {
    let server = TestServer::with_weather().await;
    let made = server.post("/v1/branches", json!({"name": "fix"})).await;
    let row =
        |temp: u32| v1::PushRequest { target: at("fix"), ..push(&format!(r#"{{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": {temp}}}"#)) };
    server.ingest().push(row(1)).await.unwrap();
    let renamed = server.post("/v1/branches/rename", json!({"name": "fix", "new_name": "ä/б.1@x"})).await;
    assert_eq!((&renamed["id"], &renamed["name"]), (&made["id"], &json!("ä/б.1@x")));
    assert_eq!(kind(&server.ingest().push(row(2)).await.unwrap_err()), "not_found");
    // The old name may be another's; rows of the renamed one never get there.
    server.post("/v1/branches", json!({"name": "fix"})).await;
    let name = "%C3%A4/%D0%B1.1@x";
    server.ingest().push(v1::PushRequest { target: at("ä/б.1@x"), ..row(3) }).await.unwrap();
    server.ingest().flush(v1::FlushRequest { target: at("ä/б.1@x") }).await.unwrap();
    server.ingest().flush(v1::FlushRequest { target: at("fix") }).await.unwrap();
    let rows = server.get(&format!("/v1/diff?left=main&right={name}&path=table/features")).await;
    assert_eq!(rows["differences"][0]["summary"].as_str().unwrap().split(" rows").next(), Some("0 to 2"), "{rows}");
    assert_eq!(server.head("fix").await, server.head("main").await);
    let actions = server.get(&format!("/v1/reflog?branch={name}")).await;
    assert_eq!(actions["moves"].as_array().unwrap().last().unwrap()["action"], "create");

    assert_eq!(server.refused("POST", "/v1/branches/rename", json!({"name": "fix", "new_name": "ä/б.1@x"})).await.0, 409);
    assert_eq!(server.refused("POST", "/v1/branches/rename", json!({"name": "nowhere", "new_name": "x"})).await.0, 404);
    assert_eq!(server.refused("POST", "/v1/branches/rename", json!({"name": "main", "new_name": "x"})).await.0, 412);
    for bad in ["", "a b", "a..", "a~1", "-x", "a//b", "a\u{7}", "@{1}", &"x".repeat(256)] {
        // "a.." is odd, and a name all the same.
        let wanted = if bad == "a.." { 200 } else { 400 };
        for (path, body) in [("/v1/branches", json!({"name": bad})), ("/v1/tags", json!({"name": bad}))] {
            let (status, reply) = server.http("POST", path, &body.to_string()).await;
            assert_eq!(status, wanted, "{path} {bad:?}: {reply}");
        }
    }
    assert_eq!(server.refused("POST", "/v1/branches/rename", json!({"name": "fix", "new_name": "a b"})).await.0, 400);
    assert_eq!(server.refused("DELETE", "/v1/tags?name=nothing", Json::Null).await.0, 404);
    assert_eq!(server.http("DELETE", "/v1/tags?name=a..", "").await.0, 200);
    assert_eq!(server.http("DELETE", &format!("/v1/branches?name={name}"), "").await.0, 200);
}

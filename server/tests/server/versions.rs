//! Branches, tags, history, differences, merges and definitions.

use anabranch_proto::v1;
use anabranch_proto::v1::registry_client::RegistryClient;
use anabranch_proto::v1::versioning_client::VersioningClient;
use serde_json::json;

use crate::support::{TestServer, WEATHER, at, floats, historical, kind, push, spine};

#[tokio::test]
async fn a_branch_is_corrected_and_merged_and_then_served() {
    let server = TestServer::with_weather().await;
    server.push(r#"{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 1}"#).await;
    let before = server.flush().await;
    let mut versioning = VersioningClient::new(server.channel.clone());
    let request = v1::CreateBranchRequest { name: "fix".into(), ..v1::CreateBranchRequest::default() };
    assert_eq!(versioning.create_branch(request).await.unwrap().into_inner().commit, before);
    let correction = v1::PushRequest { target: at("fix"), ..push(r#"{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 2}"#) };
    server.ingest().push(correction).await.unwrap();
    server.ingest().flush(v1::FlushRequest { target: at("fix") }).await.unwrap();
    server.apply_on("fix", &WEATHER.replace("max: 60", "max: 50")).await.unwrap();

    let temp = async |reference: &str| {
        let ask = v1::HistoricalCommand { target: at(reference), ..historical(&["weather:temp"]) };
        floats(&server.historical(ask, spine(&["JFK"], &[1])).await.unwrap().0, "temp")
    };
    assert_eq!(temp("main").await, [Some(1.0)]);
    assert_eq!(temp("fix").await, [Some(2.0)]);

    let diff = v1::DiffRequest { left: "main".into(), right: "fix".into(), ..v1::DiffRequest::default() };
    let differences = versioning.diff(diff).await.unwrap().into_inner().differences;
    let check = differences.iter().find(|difference| difference.key == "check/temp_range").unwrap();
    assert_eq!((check.kind.as_str(), check.change.as_str(), check.summary.as_str()), ("feature", "changed", "rule.range.max 60 to 50"));

    let merge = || v1::MergeRequest { source: "fix".into(), author: "ada".into(), ..v1::MergeRequest::default() };
    let merged = versioning.merge(merge()).await.unwrap().into_inner();
    assert_eq!(merged.outcome, "fast_forward");
    assert_eq!(temp("main").await, [Some(2.0)]);
    assert_eq!(temp(&format!("commit:{before}")).await, [Some(1.0)]);
    let body = json!({"service": "model", "keys": {"origin": ["JFK"]}});
    let (_, reply) = server.http("POST", "/v1/online-features", &body.to_string()).await;
    assert_eq!(reply["columns"][0]["values"][0], 2.0, "{reply}");
    // Further rows are judged by the merged definitions.
    server.push(r#"{"origin": "JFK", "at": "2024-01-01T05:00:00Z", "temp": 55}"#).await;
    server.flush().await;
    let (_, reply) = server.http("GET", "/v1/quarantine", "").await;
    assert_eq!(reply["total"], 1, "{reply}");
}

#[tokio::test]
async fn branches_and_tags_are_made_listed_and_deleted() {
    let server = TestServer::with_weather().await;
    let (status, branch) = server.http("POST", "/v1/branches", r#"{"name": "exp/a"}"#).await;
    assert_eq!(status, 200, "{branch}");
    let (status, tag) = server.http("POST", "/v1/tags", r#"{"name": "v1", "from": "exp/a"}"#).await;
    assert_eq!((status, &tag["commit"]), (200, &branch["commit"]), "{tag}");
    let (_, branches) = server.http("GET", "/v1/branches?prefix=exp/", "").await;
    assert_eq!(branches["branches"], json!([branch]));
    let (_, tags) = server.http("GET", "/v1/tags", "").await;
    assert_eq!(tags["tags"], json!([tag]));
    let mut versioning = VersioningClient::new(server.channel.clone());
    let resolved = versioning.resolve(v1::ResolveRequest { target: at("tag:v1") }).await.unwrap().into_inner();
    assert_eq!(json!(resolved.id), tag["commit"]);
    versioning.delete_branch(v1::DeleteBranchRequest { repository: String::new(), name: "exp/a".into() }).await.unwrap();
    versioning.delete_tag(v1::DeleteTagRequest { repository: String::new(), name: "v1".into() }).await.unwrap();
    assert!(versioning.list_tags(v1::ListTagsRequest::default()).await.unwrap().into_inner().tags.is_empty());
    let error = versioning.delete_branch(v1::DeleteBranchRequest { repository: String::new(), name: "main".into() }).await.unwrap_err();
    assert_eq!(kind(&error), "failed_precondition");
}

#[tokio::test]
async fn every_apply_is_a_commit_and_the_same_again_is_none() {
    let server = TestServer::start().await;
    let first = server.apply(WEATHER).await.unwrap();
    let plan = first.plan.unwrap();
    assert!(plan.changes && !plan.breaking);
    let second = server.apply(WEATHER).await.unwrap();
    assert_eq!(second.commit, first.commit);
    assert!(!second.plan.unwrap().changes);
    let (_, log) = server.http("GET", "/v1/log", "").await;
    assert_eq!(log["commits"][0]["id"], json!(first.commit));
    let (_, listed) = server.http("GET", "/v1/definitions?kind=feature_view", "").await;
    assert_eq!(listed["definitions"][0]["spec"]["name"], "weather", "{listed}");
    let request = v1::ListDefinitionsRequest { kind: "entity".into(), ..v1::ListDefinitionsRequest::default() };
    let listed = RegistryClient::new(server.channel.clone()).list_definitions(request).await.unwrap().into_inner();
    let again = v1::ApplyRequest { definitions: vec![listed.definitions[0].canonical.clone()], ..v1::ApplyRequest::default() };
    let again = RegistryClient::new(server.channel.clone()).apply(again).await.unwrap().into_inner();
    assert_eq!(again.commit, first.commit);
}

#[tokio::test]
async fn a_breaking_change_is_planned_and_refused_unless_told() {
    let server = TestServer::with_weather().await;
    let yaml = WEATHER.replace("  - {name: wind, type: f64}\n", "");
    let files = vec![v1::YamlFile { name: "f.yaml".into(), text: yaml.clone() }];
    let plan = v1::PlanRequest { files: files.clone(), ..v1::PlanRequest::default() };
    let plan = RegistryClient::new(server.channel.clone()).plan(plan).await.unwrap().into_inner();
    assert!(plan.breaking && plan.text.contains("wind"), "{}", plan.text);
    let error = server.apply(&yaml).await.unwrap_err();
    assert_eq!(kind(&error), "failed_precondition", "{error}");
    let told = v1::ApplyRequest { files, allow_breaking: true, ..v1::ApplyRequest::default() };
    RegistryClient::new(server.channel.clone()).apply(told).await.unwrap();
}

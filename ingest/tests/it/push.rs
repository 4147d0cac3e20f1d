use std::time::Duration;

use anabranch_core::{ErrorKind, Kinded};
use anabranch_ingest::{PayloadFormat, Push, RecordKind, Token, Visibility};
use bytes::Bytes;

use crate::world::{LONG, Parts, World, definitions, rows, weather};

#[tokio::test]
async fn pushed_rows_reach_both_stores_and_refused_ones_quarantine() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    let good = [weather("JFK", 1, 20.0, 1), weather("JFK", 2, 21.0, 2), weather("LGA", 1, 22.0, 3)];
    let payload = format!("[{},{},{}]", good.join(","), weather("JFK", 3, 99.0, 4), r#"{"origin":"EWR","hour":"noon","temp":"hot"}"#);
    let pushed = world.push("weather", payload).await.unwrap();
    assert_eq!((pushed.rows, pushed.duplicate, pushed.token.next), (5, false, 5));
    world.ingest.wait_visible(&pushed.token, Visibility::Online, LONG).await.unwrap();
    let commit = world.ingest.flush("main").await.unwrap();
    assert_eq!(commit, world.head().await);
    assert_eq!(world.offline_ids("weather").await, [1, 2, 3]);
    let refused = world.refused().await;
    assert_eq!(refused.len(), 2);
    assert_eq!((refused[0].2, refused[0].3.as_str()), (3, weather("JFK", 3, 99.0, 4).as_str()));
    assert!(refused[0].4.contains("temp_range"), "{}", refused[0].4);
    // Every failed check is named, and the null that a misread cell left is not blamed twice.
    let failures: Vec<serde_json::Value> = serde_json::from_str(&refused[1].4).unwrap();
    let checks: Vec<_> = failures.iter().map(|failure| (failure["check"].as_str().unwrap(), failure["column"].as_str().unwrap())).collect();
    assert_eq!(checks, [("_type", "hour"), ("_type", "temp")]);
    world.check_law().await;
    world.check_positions().await;
    let status = &world.ingest.status()[0];
    assert_eq!((status.appended, status.published, status.committed, status.last_error.as_deref()), (5, 5, 5, None));
}

#[tokio::test]
async fn many_producers_and_views_lose_and_double_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    let mut tasks = Vec::new();
    for producer in 0..8_i64 {
        let ingest = world.ingest.clone();
        tasks.push(tokio::spawn(async move {
            for i in 0..20_i64 {
                let n = producer * 100 + i;
                let fare = format!(r#"{{"origin":"a{}","carrier":{},"day":{i},"told":{},"fare":1.5,"n":{n}}}"#, i % 3, producer % 2, i + 1);
                let temp = weather(&format!("a{}", i % 5), i % 7, 10.0, n);
                ingest.push("main", rows("weather", temp)).await.unwrap();
                ingest.push("main", rows("fares", fare)).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    world.check_law().await;
    world.check_positions().await;
    let wanted: Vec<i64> = (0..8).flat_map(|producer| (0..20).map(move |i| producer * 100 + i)).collect();
    assert_eq!(world.offline_ids("weather").await, wanted);
    assert_eq!(world.offline_ids("fares").await, wanted);
}

#[tokio::test]
async fn a_deleted_entity_is_a_tombstone_in_both_stores() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    world.push("weather", weather("JFK", 1, 20.0, 1)).await.unwrap();
    let delete = |view: &str, json: &str| Push { kind: RecordKind::Tombstones, ..rows(view, json) };
    // The checks of the view do not hold for tombstones; a known time that is left out is the arrival.
    world.ingest.push("main", delete("weather", r#"{"origin":"JFK","hour":2}"#)).await.unwrap();
    world.ingest.push("main", delete("fares", r#"{"origin":"JFK","carrier":1,"day":2}"#)).await.unwrap();
    world.ingest.push("main", delete("weather", r#"{"hour":2}"#)).await.unwrap();
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1], "a tombstone has no features");
    assert_eq!(world.refused().await.len(), 1);
}

#[tokio::test]
async fn a_push_that_cannot_be_rows_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    let arrow = Push { format: PayloadFormat::Arrow, ..rows("weather", "nonsense") };
    let large = Push { payload: Bytes::from(vec![b' '; (64 << 20) + 1]), ..rows("weather", "") };
    for (push, kind, says) in [
        (rows("wether", "{}"), ErrorKind::InvalidArgument, "did you mean \"weather\""),
        (rows("weather", "[{]"), ErrorKind::InvalidArgument, "json"),
        (rows("weather", "[]"), ErrorKind::InvalidArgument, "no rows"),
        (arrow, ErrorKind::InvalidArgument, "arrow"),
        (large, ErrorKind::Exhausted, "split it"),
    ] {
        let error = world.ingest.push("main", push).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(world.ingest.push("no-such", rows("weather", "{}")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(world.ingest.status()[0].appended, 0);
}

#[tokio::test]
async fn a_repeated_idempotency_key_is_one_push() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    let keyed = |json: String| Push { idempotency_key: Some(Bytes::from_static(b"k1")), ..rows("weather", json) };
    let first = world.ingest.push("main", keyed(weather("JFK", 1, 1.0, 1))).await.unwrap();
    let world = world.restart().await;
    let again = world.ingest.push("main", keyed(weather("JFK", 1, 1.0, 1))).await.unwrap();
    assert_eq!((again.token, again.duplicate), (first.token, true));
    assert_eq!(world.ingest.push("main", keyed(weather("JFK", 1, 2.0, 1))).await.unwrap_err().kind(), ErrorKind::Conflict);
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1]);
}

#[tokio::test]
async fn a_token_waits_for_its_rows_and_one_from_elsewhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    let pushed = world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    let token: Token = pushed.token.to_string().parse().unwrap();
    world.ingest.wait_visible(&token, Visibility::Online, Duration::ZERO).await.unwrap();
    let beyond = Token { next: token.next + 1, ..token };
    assert_eq!(world.ingest.wait_visible(&beyond, Visibility::Online, LONG).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let elsewhere = Token { source: anabranch_core::SourceId::new(77).unwrap(), ..token };
    assert_eq!(world.ingest.wait_visible(&elsewhere, Visibility::Online, LONG).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn every_branch_has_a_log_and_only_main_is_online() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    world.repository.create_branch("what-if", &anabranch_versioning::RefSpec::branch("main"), "ada").await.unwrap();
    let pushed = world.ingest.push("what-if", rows("weather", weather("JFK", 2, 2.0, 2))).await.unwrap();
    assert_eq!(world.ingest.wait_visible(&pushed.token, Visibility::Online, LONG).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    world.ingest.wait_visible(&pushed.token, Visibility::Committed, LONG).await.unwrap();
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1]);
    let sources: Vec<_> = world.ingest.status().iter().map(|status| (status.branch.clone(), status.committed)).collect();
    assert_eq!(sources, [("main".to_owned(), 1), ("what-if".to_owned(), 1)]);
    world.ingest.delete_branch("what-if").await.unwrap();
    assert_eq!(world.ingest.status().len(), 1);
    assert_eq!(world.restart().await.ingest.status().len(), 1);
}

#[tokio::test]
async fn a_restart_goes_on_from_the_offset_and_the_log_is_cut_below_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = Parts::in_memory(folder.path());
    // Nothing is committed unless asked for.
    parts.config.commit_every = anabranch_core::Span::seconds(3600);
    parts.config.commit_rows = 1_000_000;
    let world = World::open(parts).await;
    world.apply(definitions(60)).await.unwrap();
    for n in 0..40 {
        world.push("weather", weather("JFK", n, 1.0, n)).await.unwrap();
    }
    world.ingest.flush("main").await.unwrap();
    let last = world.push("weather", weather("JFK", 90, 1.0, 90)).await.unwrap();
    world.ingest.wait_visible(&last.token, Visibility::Online, LONG).await.unwrap();
    let status = world.ingest.status()[0].clone();
    assert_eq!((status.published, status.committed), (41, 40));
    let segments = || std::fs::read_dir(folder.path().join("1")).unwrap().count();
    assert!(segments() <= 2, "{} segments are left", segments());
    let world = world.restart().await;
    world.ingest.wait_visible(&last.token, Visibility::Online, LONG).await.unwrap();
    assert_eq!(world.ingest.status()[0].committed, 40);
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await.len(), 41);
    world.check_positions().await;
}

//! Moves of a head that are no fast-forwards, with a pipeline and an online store behind them.

use anabranch_core::{ErrorKind, Kinded};
use anabranch_ingest::Visibility;
use anabranch_online_store::OnlineStoreExt;
use anabranch_versioning::{CommitId, Merge, MergeRequest, RefSpec, ReplayRequest, ResetRequest, Strategy};

use crate::world::{LONG, World, definitions, rows, weather};

fn fare(n: i64) -> String {
    format!(r#"{{"origin":"JFK","carrier":1,"day":{n},"told":{n},"fare":1.5,"n":{n}}}"#)
}

async fn push_on(world: &World, branch: &str, view: &str, json: String) {
    let pushed = world.ingest.push(branch, rows(view, json)).await.unwrap();
    world.ingest.wait_visible(&pushed.token, Visibility::Committed, LONG).await.unwrap();
}

async fn fork(world: &World, name: &str) {
    world.repository.create_branch(name, &RefSpec::branch("main"), "ada").await.unwrap();
}

fn merge(source: &str) -> MergeRequest {
    MergeRequest::new(RefSpec::branch(source), "ada")
}

fn replay(commit: CommitId) -> ReplayRequest {
    ReplayRequest::new(RefSpec::commit(commit), "ada")
}

async fn head_of(world: &World, branch: &str) -> CommitId {
    world.repository.branch(branch).await.unwrap().head
}

#[tokio::test]
async fn rows_of_unlike_tables_merge_come_online_and_no_offset_moves() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    fork(&world, "fix").await;
    push_on(&world, "fix", "fares", fare(1)).await;
    world.push_through("weather", weather("JFK", 2, 1.0, 2)).await;
    assert!(matches!(world.ingest.merge("main", merge("fix")).await.unwrap(), Merge::Merged { .. }));
    world.check_law().await;
    assert_eq!((world.offline_ids("weather").await, world.offline_ids("fares").await), (vec![1, 2], vec![1]));
    // Both go on where they were, the branch after a fast-forward to the merge too.
    world.push_through("weather", weather("JFK", 3, 1.0, 3)).await;
    assert!(matches!(world.ingest.merge("fix", merge("main")).await.unwrap(), Merge::FastForward { .. }));
    push_on(&world, "fix", "fares", fare(2)).await;
    world.ingest.merge("main", merge("fix")).await.unwrap();
    let world = world.restart().await;
    world.push_through("weather", weather("JFK", 4, 1.0, 4)).await;
    world.check_law().await;
    world.check_positions().await;
    assert_eq!((world.offline_ids("weather").await, world.offline_ids("fares").await), (vec![1, 2, 3, 4], vec![1, 2]));
}

#[tokio::test]
async fn tables_that_both_sides_wrote_to_conflict_and_a_side_is_taken_whole() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    fork(&world, "fix").await;
    push_on(&world, "fix", "weather", weather("JFK", 2, 1.0, 2)).await;
    push_on(&world, "fix", "fares", fare(2)).await;
    world.push_through("weather", weather("JFK", 3, 1.0, 3)).await;
    let error = world.ingest.merge("main", merge("fix")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("both sides wrote rows"), "{error}");
    world.check_law().await;
    let before = world.head().await;
    world.ingest.merge("main", MergeRequest { strategy: Strategy::Ours, ..merge("fix") }).await.unwrap();
    world.check_law().await;
    world.check_positions().await;
    assert_eq!((world.offline_ids("weather").await, world.offline_ids("fares").await), (vec![1, 3], vec![2]));
    // Theirs takes main's row 3 away, which is online.
    world.ingest.reset("main", ResetRequest::new(RefSpec::commit(before), "ada")).await.unwrap();
    world.ingest.merge("main", MergeRequest { strategy: Strategy::Theirs, ..merge("fix") }).await.unwrap();
    world.check_law().await;
    assert_eq!((world.offline_ids("weather").await, world.offline_ids("fares").await), (vec![1, 2], vec![2]));
}

#[tokio::test]
async fn what_takes_rows_from_what_is_served_makes_another_generation() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    let start = world.head().await;
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    let bad = world.head().await;
    world.push_through("fares", fare(1)).await;
    let generation = |world: &World, view: &str| world.ingest.served().unwrap().views[view].generation;
    let (weather_was, fares_was) = (generation(&world, "weather"), generation(&world, "fares"));
    world.ingest.revert("main", replay(bad)).await.unwrap();
    world.check_law().await;
    assert_eq!((world.offline_ids("weather").await, world.offline_ids("fares").await), (vec![], vec![1]));
    assert_ne!(generation(&world, "weather"), weather_was);
    assert_eq!(generation(&world, "fares"), fares_was, "nothing was taken from it");
    world.push_through("weather", weather("JFK", 3, 1.0, 3)).await;
    world.check_law().await;
    // What was dropped is gone from the store.
    let gone = async {
        while !world.parts.online.scan_all(weather_was).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
    world.ingest.reset("main", ResetRequest::new(RefSpec::commit(start), "ada")).await.unwrap();
    world.check_law().await;
    world.push_through("weather", weather("JFK", 4, 1.0, 4)).await;
    let world = world.restart().await;
    world.check_law().await;
    assert_eq!((world.offline_ids("weather").await, world.offline_ids("fares").await), (vec![4], vec![]));
}

#[tokio::test]
async fn definitions_that_a_merge_or_revert_brings_judge_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    fork(&world, "fix").await;
    world.apply_on("fix", definitions(5)).await.unwrap();
    world.push_through("weather", weather("JFK", 2, 50.0, 2)).await;
    let Merge::Merged { to: merged, .. } = world.ingest.merge("main", merge("fix")).await.unwrap() else { panic!("no three-way merge") };
    world.push_through("weather", weather("JFK", 3, 6.0, 3)).await;
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1, 2], "the merged check refuses row 3");
    world.ingest.revert("main", ReplayRequest { parent: Some(1), ..replay(merged) }).await.unwrap();
    world.push_through("weather", weather("JFK", 4, 7.0, 4)).await;
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1, 2, 4]);
    let applied = world.repository.resolve(&"fix".parse().unwrap()).await.unwrap().commit;
    world.ingest.cherry_pick("main", replay(applied)).await.unwrap();
    world.push_through("weather", weather("JFK", 5, 8.0, 5)).await;
    world.check_law().await;
    assert_eq!((world.offline_ids("weather").await, world.refused().await.len()), (vec![1, 2, 4], 2));
}

#[tokio::test]
async fn a_reset_branch_goes_on_behind_what_it_dropped_or_takes_it_in_again_when_rewound() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    fork(&world, "fix").await;
    push_on(&world, "fix", "weather", weather("JFK", 1, 1.0, 1)).await;
    let kept = head_of(&world, "fix").await;
    push_on(&world, "fix", "weather", weather("JFK", 2, 1.0, 2)).await;
    let ids = async |world: &World| {
        let columns = world.layout("weather").await.table_columns();
        let request = anabranch_offline_store::ScanRequest::all(anabranch_offline_store::TableName::features("weather"), columns);
        let batches = world.scan_at(&head_of(world, "fix").await, &request).await;
        let column = |batch: &arrow::array::RecordBatch| {
            arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column_by_name("n").unwrap()).values().to_vec()
        };
        let mut ids: Vec<i64> = batches.iter().flat_map(column).collect();
        ids.sort_unstable();
        ids
    };
    world.ingest.reset("fix", ResetRequest::new(RefSpec::commit(kept), "ada")).await.unwrap();
    push_on(&world, "fix", "weather", weather("JFK", 3, 1.0, 3)).await;
    assert_eq!(ids(&world).await, [1, 3], "row 2 is dropped on purpose");
    world.ingest.reset("fix", ResetRequest { rewind_offsets: true, ..ResetRequest::new(RefSpec::commit(kept), "ada") }).await.unwrap();
    push_on(&world, "fix", "weather", weather("JFK", 4, 1.0, 4)).await;
    assert_eq!(ids(&world).await, [1, 2, 3, 4], "the log is read again");
    world.ingest.merge("main", merge("fix")).await.unwrap();
    world.check_law().await;
    world.check_positions().await;
}

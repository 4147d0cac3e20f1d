//! Merges of tables that were compacted on one side, or on both.

use anabranch_core::definition::Partition;
use anabranch_versioning::{CommitId, Committed, Error, Merge, MergeRequest, RefSpec, ReplayRequest};

use super::{compact, full, many_small};
use crate::evolution::evolve;
use crate::support::{World, batch, clicks, clicks_view, expected};

async fn branched() -> (World, Vec<String>) {
    let world = World::memory().await;
    let rows = many_small(&world, Partition::None, 4).await;
    world.repository.create_branch("fix", &RefSpec::branch("main"), "test").await.unwrap();
    (world, rows)
}

async fn merge(world: &World) -> Result<Merge, Error> {
    world.repository.merge("main", MergeRequest::new(RefSpec::branch("fix"), "test")).await
}

fn with(mut rows: Vec<String>, id: u32) -> Vec<String> {
    rows.extend(expected(&[batch(id, 0..5)]));
    rows.sort();
    rows
}

#[tokio::test]
async fn a_compaction_here_and_rows_from_there_merge() {
    let (world, rows) = branched().await;
    compact(&world, &full()).await;
    world.append("fix", batch(2, 0..5)).await;
    let before = world.head("main").await;
    assert!(matches!(merge(&world).await.unwrap(), Merge::Merged { .. }));
    let head = world.head("main").await;
    assert_eq!(world.clicks(&head).await, with(rows, 2));
    // Five rows came, and none went.
    let added = world.store.added_files(Some(&before), &head, &clicks()).await.unwrap();
    assert_eq!((added.files.len(), added.files[0].rows, added.removed), (1, 5, false));
    assert_eq!(compact(&world, &full()).await.files_after, 1);
}

#[tokio::test]
async fn rows_here_and_a_compaction_there_merge() {
    let (world, rows) = branched().await;
    world.append("main", batch(2, 0..5)).await;
    world.store.compact("fix", &clicks(), &full()).await.unwrap();
    merge(&world).await.unwrap();
    assert_eq!(world.clicks(&world.head("main").await).await, with(rows, 2));
}

#[tokio::test]
async fn compactions_on_both_sides_merge_and_so_do_columns_with_one() {
    let (world, rows) = branched().await;
    compact(&world, &full()).await;
    world.store.compact("fix", &clicks(), &full()).await.unwrap();
    merge(&world).await.unwrap();
    assert_eq!(world.clicks(&world.head("main").await).await, rows);
    evolve(&world, "fix", clicks_view().field("extra", "i64".parse().unwrap())).await;
    merge(&world).await.unwrap();
    let head = world.head("main").await;
    assert!(world.store.table(&head, &clicks()).await.unwrap().field("extra").is_some());
    assert_eq!(world.clicks(&head).await, rows);
}

#[tokio::test]
async fn rows_on_both_sides_are_still_a_conflict() {
    let (world, _) = branched().await;
    compact(&world, &full()).await;
    world.append("main", batch(2, 0..5)).await;
    world.append("fix", batch(3, 0..5)).await;
    let head = world.head("main").await;
    let error = merge(&world).await.unwrap_err();
    assert!(matches!(error, Error::Conflicts { .. }), "{error:?}");
    assert_eq!(world.head("main").await, head);
}

#[tokio::test]
async fn a_revert_of_a_compaction_takes_no_rows_away() {
    let (world, rows) = branched().await;
    let compacted = compact(&world, &full()).await.commits[0];
    revert(&world, compacted).await;
    assert_eq!(world.clicks(&world.head("main").await).await, rows);
    let compacted = compact(&world, &full()).await.commits[0];
    world.append("main", batch(2, 0..5)).await;
    // Behind other rows there is nothing to be taken back.
    let refused = try_revert(&world, compacted).await.unwrap_err();
    assert!(matches!(refused, Error::NothingChanged { .. }), "{refused}");
    assert_eq!(world.clicks(&world.head("main").await).await, with(rows, 2));
}

async fn revert(world: &World, commit: CommitId) {
    try_revert(world, commit).await.unwrap();
}

async fn try_revert(world: &World, commit: CommitId) -> Result<Committed, Error> {
    let request = ReplayRequest {
        commit: RefSpec::commit(commit),
        parent: None,
        author: "test".into(),
        message: None,
        strategy: anabranch_versioning::Strategy::Default,
        metadata_writes: Vec::new(),
        guard: None,
    };
    world.repository.revert("main", request).await
}

#[tokio::test]
async fn a_revert_of_dropped_columns_brings_them_back_past_a_compaction() {
    let (world, _) = branched().await;
    let rows = world.clicks(&world.head("main").await).await;
    evolve(&world, "main", crate::evolution::widened()).await;
    let dropped = world.head("main").await;
    // Their values are in no file of the head any more.
    compact(&world, &full()).await;
    revert(&world, dropped).await;
    assert_eq!(world.clicks(&world.head("main").await).await, rows);
}

//! Compactions beside the pipeline: no row comes online twice, none goes, and what was in stays in.

use anabranch_offline_store::{CompactOptions, Compaction, CompactionScope, TableName};
use anabranch_versioning::{Merge, MergeRequest, RefSpec, ReplayRequest};

use crate::load::{csv, load};
use crate::world::{World, rows, weather};

async fn compact(world: &World) -> Compaction {
    let options = CompactOptions { scope: CompactionScope::Full, ..CompactOptions::default() };
    world.offline.compact("main", &TableName::features("weather"), &options).await.unwrap()
}

async fn some_rows(world: &World, range: std::ops::Range<i64>) {
    for n in range {
        world.push_through("weather", weather(["JFK", "LGA"][n as usize % 2], n % 3, 1.0, n)).await;
    }
}

#[tokio::test]
async fn the_stores_agree_beside_compactions_pushes_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    some_rows(&world, 0..6).await;
    let before = world.head().await;
    let done = compact(&world).await;
    assert_eq!((done.files_before, done.files_after), (6, 1));
    // Nothing was added for whoever publishes.
    let added = world.offline.added_files(Some(&before), &done.commits[0], &TableName::features("weather")).await.unwrap();
    assert!(added.files.is_empty() && !added.removed);
    // Whether the pipeline or the server is first to see the new commit.
    some_rows(&world, 6..8).await;
    world.check_law().await;
    compact(&world).await;
    world.ingest.publish().await.unwrap();
    assert_eq!(world.ingest.served().unwrap().commit, world.head().await);
    world.check_law().await;
    compact(&world).await;
    let world = world.restart().await;
    some_rows(&world, 8..10).await;
    world.check_law().await;
    world.check_positions().await;
    assert_eq!(world.offline_ids("weather").await, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_store_that_is_filled_anew_from_a_compacted_table_has_every_row() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    some_rows(&world, 0..5).await;
    compact(&world).await;
    some_rows(&world, 5..7).await;
    let mut parts = world.parts.clone();
    world.end().await;
    parts.online = std::sync::Arc::new(anabranch_online_store::MemoryOnlineStore::new(parts.ids.as_ref()));
    let world = World::open(parts).await;
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, (0..7).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_file_that_was_loaded_before_a_compaction_is_still_in() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    let content = format!("{}a1,noon,1,100\n", csv(0..40, 20.0));
    load(&world, "main", "w.csv", content.clone()).await.unwrap();
    some_rows(&world, 40..43).await;
    compact(&world).await;
    let again = load(&world, "main", "w.csv", content).await.unwrap();
    assert_eq!((again.rows, again.duplicates), (0, 41));
    world.check_law().await;
    world.check_positions().await;
}

#[tokio::test]
async fn moves_that_drop_a_compaction_take_no_rows_from_what_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    some_rows(&world, 0..4).await;
    world.repository.create_branch("fix", &RefSpec::branch("main"), "ada").await.unwrap();
    let pushed = world.ingest.push("fix", rows("weather", weather("EWR", 1, 1.0, 4))).await.unwrap();
    world.ingest.wait_visible(&pushed.token, anabranch_ingest::Visibility::Committed, crate::world::LONG).await.unwrap();
    compact(&world).await;
    let merged = world.ingest.merge("main", MergeRequest::new(RefSpec::branch("fix"), "ada")).await.unwrap();
    assert!(matches!(merged, Merge::Merged { .. }));
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, (0..5).collect::<Vec<_>>());
    let compacted = compact(&world).await.commits[0];
    world.ingest.revert("main", ReplayRequest::new(RefSpec::commit(compacted), "ada")).await.unwrap();
    world.check_law().await;
    some_rows(&world, 5..7).await;
    world.check_law().await;
    world.check_positions().await;
    assert_eq!(world.offline_ids("weather").await, (0..7).collect::<Vec<_>>());
}

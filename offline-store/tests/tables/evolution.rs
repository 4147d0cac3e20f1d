use anabranch_core::definition::{FeatureView, Partition};
use anabranch_core::{DataType, Scalar};
use anabranch_offline_store::{ScanRequest, TableShape};
use anabranch_versioning::RefSpec;

use crate::support::{World, batch, clicks, clicks_append, clicks_view, layout, layout_of};

pub(crate) async fn evolve(world: &World, branch: &str, view: FeatureView) {
    let head = world.head(branch).await;
    let changes = world.store.evolve_table(&head, &clicks(), &TableShape::from(layout_of(view).as_ref())).await.unwrap();
    assert!(!changes.is_empty());
    world.commit(branch, changes).await;
}

fn of(data_type: &str) -> DataType {
    data_type.parse().unwrap()
}

/// The clicks with `count` and `score` widened, `tags` dropped and `rank` new.
pub(crate) fn widened() -> FeatureView {
    let mut view = clicks_view();
    view.fields[0].data_type = of("i64");
    view.fields[1].data_type = of("f64");
    view.fields.remove(2);
    view.field("rank", of("list<i32>"))
}

#[tokio::test]
async fn old_rows_read_under_new_columns_and_old_commits_under_their_own() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let old = world.append("main", batch(1, 1..3)).await.committed.commit;
    evolve(&world, "main", widened()).await;
    let layout = layout_of(widened());
    let head = world.head("main").await;
    assert_eq!(
        world.rows(&head, &ScanRequest::all(clicks(), layout.columns().to_vec())).await,
        [
            r#"["eu",2,"1970-01-03T00:00:00.000005Z","1970-01-03T00:00:00.000009Z",2,1.0,[2.0,-1.0],null]"#,
            r#"["us",1,"1970-01-02T00:00:00.000005Z","1970-01-02T00:00:00.000009Z",1,0.5,[1.0,-1.0],null]"#
        ]
    );
    // Rows of before still fit, those with a dropped column do not.
    let dropped = world.store.append("main", clicks_append(batch(1, 3..5))).await.unwrap_err();
    assert!(dropped.to_string().contains(r#"no column "tags""#), "{dropped}");
    let mut narrow = batch(1, 3..5);
    narrow.remove_column(6);
    let commit = world.append("main", narrow).await.committed.commit;
    assert_eq!(world.rows(&commit, &ScanRequest::all(clicks(), layout.columns().to_vec())).await.len(), 4);
    assert_eq!(world.clicks(&old).await, crate::support::expected(&[batch(1, 1..3)]));
    let metadata = world.store.table_metadata(&commit, &clicks()).await.unwrap();
    assert_eq!(metadata.snapshots().map(|snapshot| snapshot.schema_id()).collect::<std::collections::BTreeSet<_>>(), [Some(0), Some(1)].into());
}

#[tokio::test]
async fn a_column_that_comes_again_is_a_new_one() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    world.append("main", batch(1, 1..3)).await;
    evolve(&world, "main", widened()).await;
    evolve(&world, "main", clicks_view()).await;
    let head = world.head("main").await;
    // `tags` came again, and neither `count` nor `score` can be narrowed in place: all three are new.
    let expected = [
        r#"["eu",2,"1970-01-03T00:00:00.000005Z","1970-01-03T00:00:00.000009Z",null,null,null,[2.0,-1.0]]"#,
        r#"["us",1,"1970-01-02T00:00:00.000005Z","1970-01-02T00:00:00.000009Z",null,null,null,[1.0,-1.0]]"#,
    ];
    assert_eq!(world.rows(&head, &ScanRequest::all(clicks(), layout(Partition::None).columns().to_vec())).await, expected);
}

#[tokio::test]
async fn branches_that_evolve_apart_never_share_a_field_id() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    world.repository.create_branch("other", &RefSpec::branch("main"), "test").await.unwrap();
    evolve(&world, "main", clicks_view().field("a", of("i64"))).await;
    evolve(&world, "other", clicks_view().field("b", of("list<i64>"))).await;
    let (main, other) = (world.head("main").await, world.head("other").await);
    let a = world.store.packed_fields(&main, &clicks(), &["count", "a"]).await.unwrap();
    let b = world.store.packed_fields(&other, &clicks(), &["count", "b"]).await.unwrap();
    assert_eq!(a[0], b[0]);
    assert_eq!((a[1].1, b[1].1), (of("i64"), of("list<i64>")));
    assert!(a[1].0 != b[1].0);
    // Both publish the one mark, so that an outside writer proposes an id that neither has.
    let last = |commit| {
        let (store, name) = (std::sync::Arc::clone(&world.store), clicks());
        async move { store.table_metadata(&commit, &name).await.unwrap().last_column_id() }
    };
    assert_eq!(last(main).await, last(other).await);
    assert_eq!(last(main).await, b[1].0 + 1);
}

#[tokio::test]
async fn nothing_to_evolve_is_no_change_and_keys_cannot_change() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let head = world.head("main").await;
    let same = world.store.evolve_table(&head, &clicks(), &TableShape::from(layout(Partition::None).as_ref())).await.unwrap();
    assert!(same.is_empty());
    let mut other = clicks_view();
    other.event_timestamp = "when".into();
    let error = world.store.evolve_table(&head, &clicks(), &TableShape::from(layout_of(other).as_ref())).await.unwrap_err();
    assert!(error.to_string().contains("event timestamp would change"), "{error}");
}

#[tokio::test]
async fn a_known_time_that_joins_later_is_the_event_time_of_older_rows() {
    let world = World::memory().await;
    let mut before = clicks_view();
    before.known_timestamp = None;
    world.create(&layout_of(before)).await;
    let mut rows = batch(1, 1..2);
    rows.remove_column(3);
    world.append("main", rows).await;
    evolve(&world, "main", clicks_view()).await;
    let commit = world.append("main", batch(1, 2..3)).await.committed.commit;
    let columns = layout(Partition::None).columns()[2..4].to_vec();
    assert_eq!(
        world.rows(&commit, &ScanRequest::all(clicks(), columns)).await,
        [r#"["1970-01-02T00:00:00.000005Z","1970-01-02T00:00:00.000005Z"]"#, r#"["1970-01-03T00:00:00.000005Z","1970-01-03T00:00:00.000009Z"]"#]
    );
}

#[tokio::test]
async fn partitions_can_change_and_both_kinds_of_file_are_read() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    world.append("main", batch(1, 0..40)).await;
    for partition in [Partition::Month, Partition::Day, Partition::None] {
        evolve(&world, "main", FeatureView { partition, ..clicks_view() }).await;
        world.append("main", batch(partition as u32 + 2, 0..40)).await;
    }
    let head = world.head("main").await;
    assert_eq!(world.clicks(&head).await.len(), 160);
    let metadata = world.store.table_metadata(&head, &clicks()).await.unwrap();
    assert_eq!((metadata.partition_specs_iter().len(), metadata.last_partition_id()), (4, 1001));
}

#[tokio::test]
async fn rows_written_while_the_columns_change_are_kept() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let head = world.head("main").await;
    let shape = TableShape::from(layout_of(clicks_view().field("extra", DataType::Scalar(Scalar::Bool))).as_ref());
    let changes = world.store.evolve_table(&head, &clicks(), &shape).await.unwrap();
    world.append("main", batch(1, 0..5)).await;
    // Planned before the rows came, committed after: the rows stay.
    let commit = world.commit("main", changes).await;
    assert_eq!(world.clicks(&commit).await.len(), 5);
    // Planned on columns that are no longer there: refused.
    let stale = world.store.evolve_table(&head, &clicks(), &shape).await.unwrap();
    let refused = world.repository.commit("main", anabranch_versioning::CommitRequest::new("test", "test", stale)).await.unwrap_err();
    assert!(matches!(refused, anabranch_versioning::Error::Stale { .. }), "{refused}");
}

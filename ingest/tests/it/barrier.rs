use anabranch_core::definition::{Definition, FeatureView};
use anabranch_core::{DataType, ErrorKind, Kinded, Scalar};
use anabranch_ingest::Visibility;
use anabranch_registry::{ApplyRequest, PlanOptions};
use anabranch_versioning::{Merge, MergeRequest, RefSpec};

use crate::world::{LONG, Parts, World, definitions, rows, weather};

fn merge(source: &str) -> MergeRequest {
    MergeRequest::new(RefSpec::branch(source), "ada")
}

#[tokio::test]
async fn rows_are_judged_by_the_definitions_of_their_offset_not_by_the_heads() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = Parts::in_memory(folder.path());
    parts.config.commit_every = anabranch_core::Span::seconds(3600);
    let world = World::open(parts).await;
    world.apply(definitions(60)).await.unwrap();
    let first = world.push("weather", weather("JFK", 1, 50.0, 1)).await.unwrap();
    world.ingest.wait_visible(&first.token, Visibility::Online, LONG).await.unwrap();
    // The row is online and in no commit. Definitions that would refuse it come to the head behind ingest's back, and the process ends.
    let request = ApplyRequest { definitions: definitions(40), author: "eve".into(), allow_breaking: true, ..ApplyRequest::default() };
    anabranch_registry::apply(&world.repository, "main", request).await.unwrap();
    let world = world.restart().await;
    world.push("weather", weather("JFK", 2, 51.0, 2)).await.unwrap();
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1, 2], "the offset still names the old definitions");
    // An apply that passes the barrier moves the offset too.
    world.apply(definitions(41)).await.unwrap();
    world.push("weather", weather("JFK", 3, 52.0, 3)).await.unwrap();
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1, 2]);
    assert_eq!(world.refused().await.len(), 1);
}

#[tokio::test]
async fn an_apply_commits_what_is_published_and_loses_no_push_that_comes_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    let producer = tokio::spawn({
        let ingest = world.ingest.clone();
        async move {
            for n in 0..120 {
                ingest.push("main", rows("weather", weather("JFK", n, 50.0, n))).await.unwrap();
            }
        }
    });
    for max in [40, 60, 45, 70] {
        world.apply(definitions(max)).await.unwrap();
        tokio::task::yield_now().await;
    }
    producer.await.unwrap();
    world.check_law().await;
    world.check_positions().await;
    assert_eq!(world.offline_ids("weather").await.len() + world.refused().await.len(), 120);
}

#[tokio::test]
async fn a_view_gets_its_table_grows_a_column_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    let mut wider = definitions(60);
    if let Definition::FeatureView(view) = &mut wider[2] {
        view.fields.push(anabranch_core::definition::Field::new("rain", DataType::Scalar(Scalar::F64)));
    }
    world.apply(wider).await.unwrap();
    world.push("weather", r#"{"origin":"LGA","hour":1,"temp":1,"n":2,"rain":0.5}"#).await.unwrap();
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1, 2]);
    let delete = ApplyRequest {
        options: PlanOptions {
            delete: vec![
                (anabranch_core::definition::DefinitionKind::FeatureView, "weather".to_owned()),
                (anabranch_core::definition::DefinitionKind::Check, "temp_range".to_owned()),
            ],
            ..PlanOptions::default()
        },
        allow_breaking: true,
        ..ApplyRequest::default()
    };
    world.ingest.apply("main", delete).await.unwrap();
    assert_eq!(world.push("weather", "{}").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    world.check_law().await;
    // Made anew it begins with nothing, online too.
    world.apply(definitions(60)).await.unwrap();
    world.check_law().await;
    assert!(world.offline_ids("weather").await.is_empty());
    world.push_through("weather", weather("JFK", 1, 1.0, 7)).await;
    world.check_law().await;
}

#[tokio::test]
async fn an_apply_that_is_refused_changes_nothing_and_the_pipeline_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    let before = world.head().await;
    let narrower = FeatureView::new("weather", "hour").entity("airport").field("temp", DataType::Scalar(Scalar::F64));
    let request = ApplyRequest { definitions: vec![Definition::FeatureView(narrower)], author: "ada".into(), ..ApplyRequest::default() };
    assert_eq!(world.ingest.apply("main", request).await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    // Another key: the rows that are there cannot follow.
    let rekeyed =
        FeatureView::new("weather", "hour").entity("carrier").field("temp", DataType::Scalar(Scalar::F64)).field("n", DataType::Scalar(Scalar::I64));
    assert_eq!(world.apply(vec![Definition::FeatureView(rekeyed)]).await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert_eq!(world.head().await, before);
    world.push_through("weather", weather("JFK", 2, 1.0, 2)).await;
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1, 2]);
}

#[tokio::test]
async fn a_merge_brings_rows_online_and_its_definitions_judge_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    world.repository.create_branch("fix", &RefSpec::branch("main"), "ada").await.unwrap();
    world.apply_on("fix", definitions(5)).await.unwrap();
    let pushed = world.ingest.push("fix", rows("weather", weather("JFK", 1, 2.0, 2))).await.unwrap();
    world.ingest.wait_visible(&pushed.token, Visibility::Committed, LONG).await.unwrap();
    assert!(matches!(world.ingest.merge("main", merge("fix")).await.unwrap(), Merge::FastForward { .. }));
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1, 2]);
    world.push("weather", weather("JFK", 3, 6.0, 3)).await.unwrap();
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1, 2], "the merged check refuses it");
    // Now main has gone on, and fix too: that is no fast-forward.
    let pushed = world.ingest.push("fix", rows("weather", weather("JFK", 4, 2.0, 4))).await.unwrap();
    world.ingest.wait_visible(&pushed.token, Visibility::Committed, LONG).await.unwrap();
    // On main only the quarantine has a row more.
    assert!(matches!(world.ingest.merge("main", merge("fix")).await.unwrap(), Merge::Merged { .. }));
    world.push_through("weather", weather("JFK", 5, 1.0, 5)).await;
    world.check_law().await;
    world.check_positions().await;
    assert_eq!(world.offline_ids("weather").await, [1, 2, 4, 5]);
}

//! The law of the two stores over random histories.

use std::sync::Arc;

use anabranch_core::{ManualClock, Timestamp};
use anabranch_ingest::{Push, RecordKind};
use anabranch_versioning::{MergeRequest, RefSpec};
use proptest::prelude::*;

use crate::load::load;
use crate::world::{Parts, World, at, definitions, rows, weather};

#[derive(Debug, Clone)]
enum Step {
    /// Rows of few entities and few times, so that they tie, come late and are refused.
    Push(Vec<(u8, i64, i64)>),
    Fare(u8, i64, i64),
    Delete(u8, i64),
    Load(i64),
    BranchAndMerge(i64, bool),
    Apply(i64),
    Clock(i64),
    Flush,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let row = (0u8..3, 0i64..6, 40i64..80);
    prop_oneof![
        6 => proptest::collection::vec(row.clone(), 1..6).prop_map(Step::Push),
        2 => row.clone().prop_map(|(key, day, fare)| Step::Fare(key, day, fare)),
        2 => (0u8..3, 0i64..6).prop_map(|(key, hour)| Step::Delete(key, hour)),
        2 => (0i64..3).prop_map(Step::Load),
        1 => (3i64..6, any::<bool>()).prop_map(|(file, apply)| Step::BranchAndMerge(file, apply)),
        1 => (50i64..70).prop_map(Step::Apply),
        1 => (-5i64..5).prop_map(Step::Clock),
        2 => Just(Step::Flush),
        2 => Just(Step::Restart),
    ]
}

/// Runs steps; answers the world and how many rows were acknowledged.
async fn run(steps: Vec<Step>, wal: &std::path::Path) {
    let clock = Arc::new(ManualClock::new(at(1_000_000)));
    let world = World::open(Parts { clock: clock.clone(), ..Parts::in_memory(wal) }).await;
    world.apply(definitions(60)).await.unwrap();
    let (mut world, mut pushed, mut branches, mut n) = (world, 0, 0, 0);
    for step in steps {
        match step {
            Step::Push(batch) => {
                let json: Vec<_> = batch.iter().map(|(key, hour, temp)| weather(&format!("a{key}"), *hour, *temp as f64, n)).collect();
                n += 1;
                pushed += batch.len();
                world.push("weather", format!("[{}]", json.join(","))).await.unwrap();
            }
            Step::Fare(key, day, fare) => {
                let json = format!(r#"{{"origin":"a{key}","carrier":{key},"day":{day},"told":{},"fare":{fare},"n":{n}}}"#, fare % 7);
                pushed += 1;
                world.push("fares", json).await.unwrap();
            }
            Step::Delete(key, hour) => {
                let push = Push { kind: RecordKind::Tombstones, ..rows("weather", format!(r#"{{"origin":"a{key}","hour":{hour}}}"#)) };
                pushed += 1;
                world.ingest.push("main", push).await.unwrap();
            }
            Step::Load(file) => drop(load(&world, "main", "f.csv", crate::load::csv(file * 10..file * 10 + 7, 55.0)).await.unwrap()),
            Step::BranchAndMerge(file, apply) => {
                world.ingest.flush("main").await.unwrap();
                branches += 1;
                let name = format!("b{branches}");
                world.repository.create_branch(&name, &RefSpec::branch("main"), "ada").await.unwrap();
                if apply {
                    world.apply_on(&name, definitions(file * 17)).await.unwrap();
                }
                load(&world, &name, "f.csv", crate::load::csv(file * 10..file * 10 + 7, 55.0)).await.unwrap();
                let request = MergeRequest::new(RefSpec::branch(&name), "ada");
                world.ingest.merge("main", request).await.unwrap();
            }
            Step::Apply(max) => drop(world.apply(definitions(max)).await.unwrap()),
            Step::Clock(by) => clock.set(Timestamp(1_000_000 + by)),
            Step::Flush => drop(world.ingest.flush("main").await.unwrap()),
            Step::Restart => world = world.restart().await,
        }
    }
    world.check_law().await;
    world.check_positions().await;
    let source = world.ingest.status().iter().find(|status| status.branch == "main").map(|status| (status.source, status.committed));
    assert_eq!(source.map_or(0, |(_, committed)| committed), pushed as u64, "every acknowledged row has its position");
    world.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn both_stores_agree_after_any_history(steps in proptest::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        runtime.block_on(run(steps, folder.path()));
    }
}

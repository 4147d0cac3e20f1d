//! The law of the two stores over random histories.

use std::sync::Arc;

use anabranch_core::{ErrorKind, Kinded, ManualClock, Timestamp};
use anabranch_ingest::{Push, Rebuild, RecordKind};
use anabranch_versioning::{MergeRequest, RefSpec, ReplayRequest, ResetRequest};
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
    /// Remembers the head.
    Mark,
    /// Goes back to the head that was remembered, reading the log again or not.
    Reset(bool),
    /// Takes a commit of rows back, where that is possible.
    Revert,
    Rebuild,
    /// Serves a branch at the head, or no longer.
    Serve,
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
        2 => Just(Step::Mark),
        2 => any::<bool>().prop_map(Step::Reset),
        1 => Just(Step::Revert),
        1 => Just(Step::Rebuild),
        1 => Just(Step::Serve),
    ]
}

/// Runs steps; answers the world and how many rows were acknowledged.
async fn run(steps: Vec<Step>, wal: &std::path::Path) {
    let clock = Arc::new(ManualClock::new(at(1_000_000)));
    let world = World::open(Parts { clock: clock.clone(), ..Parts::in_memory(wal) }).await;
    world.apply(definitions(60)).await.unwrap();
    let (mut world, mut pushed, mut branches, mut n, mut mark) = (world, 0, 0, 0, None);
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
            Step::Mark => mark = Some(world.ingest.flush("main").await.unwrap()),
            Step::Reset(rewind) => {
                let Some(mark) = mark else { continue };
                let request = ResetRequest { rewind_offsets: rewind, ..ResetRequest::new(RefSpec::commit(mark), "ada") };
                if let Err(error) = world.ingest.reset("main", request).await {
                    assert!(rewind && error.to_string().contains("rewound"), "{error}");
                }
            }
            Step::Revert => {
                n += 1;
                pushed += 1;
                world.ingest.flush("main").await.unwrap();
                world.push("weather", weather("a2", n, 41.0, n)).await.unwrap();
                let last = world.ingest.flush("main").await.unwrap();
                if let Err(error) = world.ingest.revert("main", ReplayRequest::new(RefSpec::commit(last), "ada")).await {
                    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::FailedPrecondition | ErrorKind::InvalidArgument), "{error}");
                }
            }
            Step::Rebuild => match world.ingest.rebuild("main", &Rebuild::default()).await {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            },
            Step::Serve => {
                if world.ingest.served_on("side").await.is_ok() {
                    world.ingest.unserve("side").await.unwrap();
                    world.ingest.delete_branch("side").await.unwrap();
                } else if world.repository.branch("side").await.is_err() {
                    world.repository.create_branch("side", &RefSpec::branch("main"), "ada").await.unwrap();
                    world.ingest.serve("side").await.unwrap();
                    world.ingest.push("side", rows("weather", weather("a1", 3, 42.0, n))).await.unwrap();
                }
            }
        }
    }
    for served in world.ingest.serving().await.unwrap() {
        world.wait_filled(&served.branch).await;
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
    fn both_stores_agree_after_any_history(steps in proptest::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        runtime.block_on(run(steps, folder.path()));
    }
}

//! Loss of power at many operations of the log and of the object writer, with an online store that loses what was not synced.
//!
//! The metadata database stands outside: its transactions are durable when they return, and what is lost here is what was not synced before them.

use std::sync::Arc;

use anabranch_core::RandomIds;
use anabranch_offline_store::Locations;
use anabranch_online_store::{MemoryOnlineStore, OnlineStore};
use anabranch_versioning::testkit::LossyFiles;
use anabranch_versioning::{Files, local_objects_on};

use crate::world::{Parts, World, definitions, weather};

/// Works until the power goes; answers the ids of the rows that were acknowledged.
async fn work(world: &World) -> Vec<i64> {
    let mut acknowledged = Vec::new();
    for n in 0..24 {
        let json = weather(&format!("a{}", n % 3), n % 5, if n % 4 == 3 { 99.0 } else { 1.0 }, n);
        if world.push("weather", json).await.is_err() {
            break;
        }
        acknowledged.push(n);
        if n % 8 == 7 && tokio::time::timeout(std::time::Duration::from_millis(300), world.ingest.flush("main")).await.is_err() {
            break;
        }
    }
    acknowledged
}

#[tokio::test]
async fn what_was_acknowledged_survives_loss_of_power_in_both_stores() {
    let mut finished = false;
    for cut in (1..).step_by(9) {
        let folder = tempfile::tempdir().unwrap();
        let lossy = LossyFiles::default();
        let files: Arc<dyn Files> = Arc::new(lossy.clone());
        let online = Arc::new(MemoryOnlineStore::new(&RandomIds::seeded(cut)));
        let mut parts = Parts {
            objects: local_objects_on(Arc::clone(&files), &folder.path().join("objects")).unwrap(),
            locations: Locations::local(&folder.path().join("objects")).unwrap(),
            online: Arc::clone(&online) as Arc<dyn OnlineStore>,
            files,
            ..Parts::in_memory(&folder.path().join("wal"))
        };
        parts.config.commit_rows = 5;
        let world = World::open(parts.clone()).await;
        world.apply(definitions(60)).await.unwrap();
        lossy.cut_power_after(cut);
        let acknowledged = work(&world).await;
        world.end().await;
        finished |= acknowledged.len() == 24 && lossy.operations() < cut;
        lossy.lose_power_keeping(|tail| tail / 2).unwrap();
        online.crash();

        // The object store is opened anew, as after a start of the machine.
        let objects = local_objects_on(Arc::new(lossy.clone()), &folder.path().join("objects")).unwrap();
        let world = World::open(Parts { objects, ..parts }).await;
        world.push("weather", weather("a0", 9, 1.0, 1_000)).await.unwrap();
        world.check_law().await;
        world.check_positions().await;
        let (kept, refused) = (world.offline_ids("weather").await, world.refused().await);
        for n in acknowledged {
            let quarantined = refused.iter().filter(|row| row.3.contains(&format!("\"n\":{n}}}"))).count();
            assert_eq!(kept.iter().filter(|id| **id == n).count() + quarantined, 1, "row {n}, power cut after {cut} operations");
        }
        world.end().await;
        if finished {
            return;
        }
    }
}

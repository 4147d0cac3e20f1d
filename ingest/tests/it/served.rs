//! Branches that are served besides `main`, and rebuilds.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::{ErrorKind, Generation, Kinded, Position, RandomIds, RowOrder};
use anabranch_ingest::{AuditRequest, Rebuild, Visibility};
use anabranch_online_store::{Error, MemoryOnlineStore, MovingStore, OnlineStore, OnlineStoreExt, PackedRow, ReadGroup, Write};
use anabranch_versioning::{MergeRequest, RefSpec, ResetRequest};

use crate::world::{LONG, Parts, World, definitions, rows, weather};

async fn push_on(world: &World, branch: &str, json: String) {
    let pushed = world.ingest.push(branch, rows("weather", json)).await.unwrap();
    world.ingest.wait_visible(&pushed.token, Visibility::Committed, LONG).await.unwrap();
}

async fn generations(world: &World, branch: &str) -> BTreeMap<String, Generation> {
    let served = world.ingest.served_on(branch).await.unwrap();
    served.views.iter().map(|(name, view)| (name.clone(), view.generation)).collect()
}

async fn wait_gone(world: &World, generations: impl IntoIterator<Item = Generation>) {
    for generation in generations {
        let gone = async {
            while !world.parts.online.scan_all(generation).await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, gone).await.unwrap();
    }
}

#[tokio::test]
async fn a_branch_is_served_on_request_followed_and_freed() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    world.push_through("weather", weather("JFK", 1, 1.0, 1)).await;
    world.repository.create_branch("fix", &RefSpec::branch("main"), "ada").await.unwrap();
    push_on(&world, "fix", weather("EWR", 2, 2.0, 2)).await;
    let refused = world.ingest.served_on("fix").await.unwrap_err();
    assert!(refused.kind() == ErrorKind::FailedPrecondition && refused.to_string().contains("not served"), "{refused}");
    // What its pipeline holds in no commit must come along.
    let pushed = world.ingest.push("fix", rows("weather", weather("LGA", 3, 3.0, 3))).await.unwrap();
    world.ingest.serve("fix").await.unwrap();
    world.wait_filled("fix").await;
    world.ingest.wait_visible(&pushed.token, Visibility::Online, LONG).await.unwrap();
    world.check_law().await;
    assert_eq!(world.ingest.serving().await.unwrap().iter().map(|served| served.branch.as_str()).collect::<Vec<_>>(), ["fix", "main"]);
    // It is followed: by what is pushed, merged and reset; and `main` is another.
    push_on(&world, "fix", weather("JFK", 4, 4.0, 4)).await;
    world.push_through("fares", r#"{"origin":"JFK","carrier":1,"day":1,"told":1,"fare":1.5,"n":1}"#).await;
    world.ingest.merge("fix", MergeRequest::new(RefSpec::branch("main"), "ada")).await.unwrap();
    world.check_law().await;
    let kept = world.repository.branch("fix").await.unwrap().head;
    push_on(&world, "fix", weather("JFK", 9, 9.0, 9)).await;
    world.ingest.reset("fix", ResetRequest::new(RefSpec::commit(kept), "ada")).await.unwrap();
    world.check_law().await;
    world.ingest.rename_branch("fix", "better").await.unwrap();
    push_on(&world, "better", weather("JFK", 5, 5.0, 5)).await;
    let world = world.restart().await;
    world.wait_filled("better").await;
    world.check_law().await;
    let online = generations(&world, "better").await;
    world.ingest.unserve("better").await.unwrap();
    assert!(world.ingest.served_on("better").await.is_err());
    wait_gone(&world, online.into_values()).await;
    push_on(&world, "better", weather("JFK", 6, 6.0, 6)).await;
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, [1]);
    // Again, and its branch is deleted.
    world.ingest.serve("better").await.unwrap();
    world.wait_filled("better").await;
    world.check_law().await;
    let online = generations(&world, "better").await;
    world.ingest.delete_branch("better").await.unwrap();
    wait_gone(&world, online.into_values()).await;
    let refused = world.ingest.unserve("main").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    world.restart().await.check_law().await;
}

#[tokio::test]
async fn a_rebuild_replaces_what_is_online_while_rows_come_in_and_lookups_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    for n in 0..50 {
        world.push("weather", weather(&format!("a{}", n % 7), n, 1.0, n)).await.unwrap();
    }
    world.ingest.flush("main").await.unwrap();
    world.check_law().await;
    let before = world.ingest.served().unwrap();
    let generation = before.views["weather"].generation;
    // What should not be there, as a bug or a hand would leave it.
    let held = world.parts.online.scan_all(generation).await.unwrap();
    let (key, row) = held[0].clone();
    let later = [&[0xff; 36][..], &row[36..]].concat();
    let wrong = anabranch_online_store::Write { generation, key: key.clone(), row: later.into() };
    world.parts.online.write(&[wrong]).await.unwrap();
    world.ingest.rebuild("main", &Rebuild::default()).await.unwrap();
    for n in 50..100 {
        world.push("weather", weather(&format!("a{}", n % 7), n, 1.0, n)).await.unwrap();
    }
    world.wait_filled("main").await;
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await, (0..100).collect::<Vec<_>>());
    let after = generations(&world, "main").await;
    assert!(before.views.iter().all(|(name, view)| after[name] != view.generation));
    // Who still looks in the old generation is told.
    let read = before.store.read(&[ReadGroup { generations: &[generation], keys: &[key] }]).await;
    assert!(matches!(read, Err(Error::Replaced)), "{read:?}");
    let unknown = world.ingest.rebuild("main", &Rebuild { views: vec!["wether".into()], rows_per_second: None }).await.unwrap_err();
    assert!(unknown.kind() == ErrorKind::InvalidArgument && unknown.to_string().contains("wether"), "{unknown}");
    let never = world.ingest.rebuild("main", &Rebuild { views: Vec::new(), rows_per_second: Some(0) }).await.unwrap_err();
    assert_eq!(never.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_rebuild_goes_on_after_a_restart_and_keeps_to_its_rate() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(Parts::in_memory(folder.path())).await;
    world.apply(definitions(60)).await.unwrap();
    for n in 0..40 {
        world.push("weather", weather(&format!("a{n}"), n, 1.0, n)).await.unwrap();
    }
    world.ingest.flush("main").await.unwrap();
    let before = generations(&world, "main").await;
    // At one row a second it is not done before the restart.
    world.ingest.rebuild("main", &Rebuild { views: vec!["weather".into()], rows_per_second: Some(1) }).await.unwrap();
    let told = async {
        while !world.ingest.serving().await.unwrap()[0]
            .views
            .iter()
            .any(|view| view.fill.as_ref().is_some_and(|fill| fill.rows_per_second == Some(1)))
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, told).await.unwrap();
    world.check_law().await;
    let world = world.restart().await;
    world.ingest.publish().await.unwrap();
    assert_eq!(generations(&world, "main").await, before);
    assert!(world.ingest.serving().await.unwrap()[0].filling);
    // A reset takes rows away that the rebuild has written: it begins anew, and as fast as it can, for the move waits for it.
    let head = world.head().await;
    world.push_through("weather", weather("a1", 100, 1.0, 100)).await;
    world.ingest.reset("main", ResetRequest::new(RefSpec::commit(head), "ada")).await.unwrap();
    world.check_law().await;
    world.wait_filled("main").await;
    assert_ne!(generations(&world, "main").await["weather"], before["weather"]);
    assert_eq!(world.offline_ids("weather").await, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_audit_finds_what_differs_and_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with_views(folder.path()).await;
    for n in 0..60 {
        world.push("weather", weather(&format!("a{n}"), n, 1.0, n)).await.unwrap();
    }
    world.ingest.flush("main").await.unwrap();
    let audit = async |repair: bool| {
        let views = vec!["weather".to_owned()];
        world.ingest.audit("main", &AuditRequest { views, repair }).await.unwrap().pop().unwrap()
    };
    let clean = audit(false).await;
    assert_eq!((clean.entities, clean.differing(), clean.pending), (60, 0, 0));
    // A row beyond the offsets is none that differs.
    let view = world.ingest.served().unwrap().views["weather"].clone();
    let held = world.parts.online.scan_all(view.generation).await.unwrap();
    let rows: Vec<_> = held.iter().map(|(key, row)| (key.clone(), PackedRow::parse(row).unwrap().order().unwrap(), row.clone())).collect();
    let with = |place: usize, order: RowOrder| {
        let (key, _, row) = &rows[place];
        Write { generation: view.generation, key: key.clone(), row: [&order.to_bytes()[..], &row[RowOrder::LEN..]].concat().into() }
    };
    let later = |order: RowOrder, position: i64| RowOrder {
        event_time: anabranch_core::Timestamp(order.event_time.micros() + 1),
        position: Position::new(position as u64).unwrap(),
        ..order
    };
    // A row that history does not have, one that the log has not reached, and a value that is another.
    let last = rows.iter().map(|(_, order, _)| order.position.get()).max().unwrap() as i64;
    let unexplained = with(0, later(rows[0].1, 0));
    let pending = with(1, later(rows[1].1, last + 1));
    let mut different = with(2, rows[2].1);
    let bytes: Vec<u8> = different.row.iter().enumerate().map(|(i, byte)| if i + 1 == different.row.len() { byte ^ 0x40 } else { *byte }).collect();
    different.row = bytes.into();
    let kept = world.parts.online.get(view.generation, &different.key).await.unwrap().unwrap();
    let wins = different.row > kept;
    world.parts.online.write(&[unexplained, pending, different]).await.unwrap();
    let found = audit(false).await;
    assert_eq!((found.unexplained, found.pending, found.different), (1, 1, u64::from(wins)), "{found:?}");
    assert_eq!((found.entities, found.repaired, found.rebuilding), (60, 0, false));
    assert_eq!(found.examples.len() as u64, found.differing());
    let mended = audit(true).await;
    assert!(mended.rebuilding);
    world.wait_filled("main").await;
    assert_eq!(audit(false).await.differing(), 0);
    world.check_law().await;
    // A store that lost rows and does not know it.
    let view = world.ingest.served().unwrap().views["weather"].clone();
    world.parts.online.drop_generation(view.generation).await.unwrap();
    let sampled = world.ingest.sample(3).await.unwrap();
    assert!(sampled.iter().all(|(_, _, looked, skewed)| looked == skewed), "{sampled:?}");
    let lost = audit(false).await;
    assert_eq!((lost.missing, lost.entities), (60, 60));
    assert_eq!(audit(true).await.repaired, 60);
    assert_eq!(audit(false).await.differing(), 0);
    assert!(world.ingest.sample(3).await.unwrap().iter().all(|(_, _, looked, skewed)| *looked > 0 && *skewed == 0));
    let unknown = world.ingest.audit("main", &AuditRequest { views: vec!["wether".into()], repair: false }).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn what_is_online_moves_to_another_store_while_rows_come_in() {
    let folder = tempfile::tempdir().unwrap();
    let old = Parts::in_memory(folder.path());
    let (a, b) = (Arc::clone(&old.online), Arc::new(MemoryOnlineStore::new(&RandomIds::seeded(9))));
    let moving = Arc::new(MovingStore::new(Arc::clone(&a), Arc::clone(&b) as _));
    let world = World::open(Parts { online: Arc::clone(&moving) as _, ..old.clone() }).await;
    world.apply(definitions(60)).await.unwrap();
    for n in 0..50 {
        world.push("weather", weather(&format!("a{}", n % 9), n, 1.0, n)).await.unwrap();
    }
    world.ingest.flush("main").await.unwrap();
    let compared = world.ingest.move_online(&moving, false).await.unwrap();
    assert!(!compared.moved && compared.copied == 9 && !moving.has_moved());
    let pushes = async {
        for n in 50..150 {
            world.push("weather", weather(&format!("a{}", n % 9), n, 1.0, n)).await.unwrap();
        }
    };
    let (moved, ()) = tokio::join!(world.ingest.move_online(&moving, true), pushes);
    assert!(moved.unwrap().moved && moving.has_moved());
    world.check_law().await;
    let served = world.ingest.served().unwrap();
    assert_eq!(served.incarnation, b.incarnation().await.unwrap());
    let generation = served.views["weather"].generation;
    assert_eq!(b.scan_all(generation).await.unwrap(), a.scan_all(generation).await.unwrap());
    // Started with the new store alone, and with the old one alone, which is behind.
    world.end().await;
    let world = World::open(Parts { online: Arc::clone(&b) as _, ..old.clone() }).await;
    world.push_through("weather", weather("a1", 500, 1.0, 500)).await;
    world.check_law().await;
    world.end().await;
    let world = World::open(old).await;
    world.check_law().await;
    assert_eq!(world.offline_ids("weather").await.len(), 151);
}

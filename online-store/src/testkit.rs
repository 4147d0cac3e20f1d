//! The laws that every online store keeps, a short function for each. Every back-end runs [`every_law`], and so does a client against a real server.
//!
//! A law uses generations of its own, so that all can run on one store. A broken law panics where it is broken.

#![expect(clippy::unwrap_used, reason = "a law that cannot be tried is a failed test")]

pub mod cql;
pub mod redis;

use std::sync::Arc;

use anabranch_core::{DataType, EntityKey, ErrorKind, Generation, Kinded, Position, RowOrder, Scalar, SourceId, Timestamp, Value};
use async_trait::async_trait;
use bytes::Bytes;

use crate::row::{MAX_ROW_BYTES, PackedRow, encode_tombstone};
use crate::{Incarnation, Layout, MAX_COMMIT_BYTES, MAX_KEY_BYTES, OnlineStore, OnlineStoreExt, ReadGroup, Write};

/// A store, and the way to bring it down.
#[async_trait]
pub trait StoreUnderTest: Send {
    /// The store as it runs now.
    fn store(&self) -> Arc<dyn OnlineStore>;

    /// Ends the store as abruptly as its medium allows, losing what it may lose, and opens it again.
    async fn crash(&mut self);
}

/// Tries every law.
pub async fn every_law(under_test: &mut dyn StoreUnderTest) {
    let store = under_test.store();
    the_greatest_row_stays_in_every_order_of_writes(&*store).await;
    ties_fall_to_the_next_part_of_the_order(&*store).await;
    one_row_under_two_layouts_ends_alike(&*store).await;
    a_tombstone_is_a_row_like_any_other(&*store).await;
    a_batch_is_read_in_the_order_asked_for(&*store).await;
    generations_are_apart(&*store).await;
    a_dropped_generation_is_gone(&*store).await;
    a_generation_answers_for_the_commit_it_was_advanced_to(&*store).await;
    a_read_sees_every_write_that_returned(&*store).await;
    a_scan_gives_every_row_and_no_other(&*store).await;
    large_rows_and_keys_come_back_whole(&*store).await;
    what_is_over_a_limit_is_refused_before_anything_is_written(&*store).await;
    concurrent_writers_converge(&store).await;
    writers_that_replay_leave_what_one_writer_leaves(&store).await;
    a_batch_of_many_sizes_is_kept_whole(&*store).await;
    drop(store);
    what_was_synced_survives_a_crash(under_test).await;
    an_advance_never_outlives_the_rows_before_it(under_test).await;
    the_incarnation_names_the_content(under_test).await;
}

/// The key of an entity with one integer for a key.
pub fn entity(i: i64) -> EntityKey {
    EntityKey::encode(&[Value::I64(i)]).unwrap().unwrap()
}

/// An order by event time alone.
pub fn at(event_time: i64) -> RowOrder {
    order([event_time, event_time, event_time], 1, 0)
}

/// An order by all its parts: the times are event, known and arrival.
pub fn order(times: [i64; 3], source: u32, position: u64) -> RowOrder {
    let [event_time, known_time, arrival] = times.map(Timestamp);
    RowOrder { event_time, known_time, arrival, source: SourceId::new(source).unwrap(), position: Position::new(position).unwrap() }
}

/// A row of that order; what follows the order means nothing to a store.
pub fn row(order: RowOrder, payload: &[u8]) -> Bytes {
    [&order.to_bytes()[..], payload].concat().into()
}

/// A write of [`row`] for an [`entity`].
pub fn write(generation: Generation, i: i64, order: RowOrder, payload: &[u8]) -> Write {
    Write { generation, key: entity(i), row: row(order, payload) }
}

/// Advances a generation under the incarnation that the store is.
pub async fn advance(store: &dyn OnlineStore, generation: Generation, commit: &[u8]) {
    let incarnation = store.incarnation().await.unwrap();
    store.advance(generation, commit, incarnation).await.unwrap();
}

/// Whatever the order of writes, and however often they come again, the greatest row stays.
pub async fn the_greatest_row_stays_in_every_order_of_writes(store: &dyn OnlineStore) {
    let g = Generation(100);
    for (i, permutation) in permutations(&[1, 2, 3, 4]).into_iter().enumerate() {
        let i = i as i64;
        for time in permutation.iter().chain(&permutation[..2]) {
            store.write(&[write(g, i, at(*time), b"x")]).await.unwrap();
        }
        assert_eq!(store.get(g, &entity(i)).await.unwrap(), Some(row(at(4), b"x")), "written as {permutation:?}");
        let batch: Vec<_> = permutation.iter().map(|time| write(g, i + 1_000, at(*time), b"x")).collect();
        store.write(&batch).await.unwrap();
        assert_eq!(store.get(g, &entity(i + 1_000)).await.unwrap(), Some(row(at(4), b"x")), "written at once as {permutation:?}");
    }
}

/// Rows of one event time are ordered by known time, then arrival, source and position; times before 1970 are less than later ones.
pub async fn ties_fall_to_the_next_part_of_the_order(store: &dyn OnlineStore) {
    let g = Generation(101);
    let ascending = [
        order([-5, 9, 9], 9, 9),
        order([5, -1, 9], 9, 9),
        order([5, 5, 6], 9, 9),
        order([5, 5, 7], 1, 9),
        order([5, 5, 7], 2, 3),
        order([5, 5, 7], 2, 4),
    ];
    for (i, pair) in ascending.windows(2).enumerate() {
        for (i, [first, second]) in [(i as i64, [pair[0], pair[1]]), (i as i64 + 100, [pair[1], pair[0]])] {
            store.write(&[write(g, i, first, b"")]).await.unwrap();
            store.write(&[write(g, i, second, b"")]).await.unwrap();
            assert_eq!(store.get(g, &entity(i)).await.unwrap(), Some(row(pair[1], b"")));
        }
    }
}

/// One row that was packed twice, under two layouts, leaves the same bytes whichever comes first.
pub async fn one_row_under_two_layouts_ends_alike(store: &dyn OnlineStore) {
    let g = Generation(102);
    for (i, payloads) in [(0, [b"a", b"b"]), (1, [b"b", b"a"])] {
        for payload in payloads {
            store.write(&[write(g, i, at(1), payload)]).await.unwrap();
        }
        assert_eq!(store.get(g, &entity(i)).await.unwrap(), Some(row(at(1), b"b")));
    }
}

/// A tombstone stays against older rows and gives way to newer ones.
pub async fn a_tombstone_is_a_row_like_any_other(store: &dyn OnlineStore) {
    let (g, key) = (Generation(103), entity(1));
    let layout = Layout::new(vec![(1, DataType::Scalar(Scalar::I64))]).unwrap();
    let mut tombstone = Vec::new();
    encode_tombstone(at(2), &layout, &mut tombstone);
    store.write(&[Write { generation: g, key: key.clone(), row: tombstone.into() }, write(g, 1, at(1), b"late")]).await.unwrap();
    let held = store.get(g, &key).await.unwrap().unwrap();
    assert!(PackedRow::parse(&held).unwrap().is_tombstone());
    store.write(&[write(g, 1, at(3), b"back")]).await.unwrap();
    assert_eq!(store.get(g, &key).await.unwrap(), Some(row(at(3), b"back")));
}

/// Rows come group by group, generation by generation and key by key, with what is asked for twice and what is not there.
pub async fn a_batch_is_read_in_the_order_asked_for(store: &dyn OnlineStore) {
    let (g, h) = (Generation(104), Generation(105));
    store.write(&[write(g, 1, at(1), b"g1"), write(g, 2, at(1), b"g2"), write(h, 2, at(1), b"h2")]).await.unwrap();
    let groups = [
        ReadGroup { generations: &[g, h], keys: &[entity(2), entity(3), entity(1), entity(2)] },
        ReadGroup { generations: &[h, g, h], keys: &[entity(2)] },
        ReadGroup { generations: &[], keys: &[entity(2)] },
        ReadGroup { generations: &[g], keys: &[] },
    ];
    let some = |payload: &[u8]| Some(row(at(1), payload));
    let expected = [some(b"g2"), None, some(b"g1"), some(b"g2"), some(b"h2"), None, None, some(b"h2"), some(b"h2"), some(b"g2"), some(b"h2")];
    // Twice: a store that keeps what it read must give the same again.
    for _ in 0..2 {
        assert_eq!(store.read(&groups).await.unwrap(), expected);
    }
    assert_eq!(store.read(&[]).await.unwrap(), []);
    store.write(&[]).await.unwrap();
}

/// What is written under one generation is not seen under another.
pub async fn generations_are_apart(store: &dyn OnlineStore) {
    let generations = [Generation(0), Generation(106), Generation(u64::MAX)];
    for g in generations {
        store.write(&[write(g, 1, at(g.0 as i64), &g.0.to_le_bytes())]).await.unwrap();
    }
    for g in generations {
        assert_eq!(store.get(g, &entity(1)).await.unwrap(), Some(row(at(g.0 as i64), &g.0.to_le_bytes())));
        assert_eq!(store.scan_all(g).await.unwrap().len(), 1);
    }
}

/// Dropping a generation forgets its rows and its commit, and no others.
pub async fn a_dropped_generation_is_gone(store: &dyn OnlineStore) {
    let (g, other) = (Generation(107), Generation(108));
    let rows: Vec<_> = (0..5_000).map(|i| write(g, i, at(9), b"x")).chain([write(other, 1, at(9), b"x")]).collect();
    store.write(&rows).await.unwrap();
    advance(store, g, b"c1").await;
    advance(store, other, b"c1").await;
    for _ in 0..2 {
        store.drop_generation(g).await.unwrap();
        assert_eq!(store.scan_all(g).await.unwrap(), []);
        assert_eq!(store.get(g, &entity(4_999)).await.unwrap(), None);
        assert_eq!(store.published_to(g).await.unwrap(), None);
    }
    assert_eq!(store.get(other, &entity(1)).await.unwrap(), Some(row(at(9), b"x")));
    assert_eq!(store.published_to(other).await.unwrap().as_deref(), Some(&b"c1"[..]));
}

/// The commit is the last one advanced to; a generation that was never advanced answers for none.
pub async fn a_generation_answers_for_the_commit_it_was_advanced_to(store: &dyn OnlineStore) {
    let g = Generation(109);
    assert_eq!(store.published_to(g).await.unwrap(), None);
    for commit in [&b"c1"[..], b"c0", &[0xFF; MAX_COMMIT_BYTES]] {
        advance(store, g, commit).await;
        assert_eq!(store.published_to(g).await.unwrap().as_deref(), Some(commit));
    }
    let incarnation = store.incarnation().await.unwrap();
    assert!(store.advance(g, &[0; MAX_COMMIT_BYTES + 1], incarnation).await.is_err());
    let lost = store.advance(g, b"c2", Incarnation(!incarnation.0)).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Unavailable, "{lost}");
    assert_eq!(store.published_to(g).await.unwrap().as_deref(), Some(&[0xFF; MAX_COMMIT_BYTES][..]));
    assert_eq!(store.published_to(Generation(110)).await.unwrap(), None);
}

/// A row that was looked for before it was there is found once its write has returned.
pub async fn a_read_sees_every_write_that_returned(store: &dyn OnlineStore) {
    let g = Generation(111);
    for time in 0..50 {
        let before = store.get(g, &entity(time % 3)).await.unwrap();
        assert_eq!(before, (time >= 3).then(|| row(at(time - 3), b"")));
        store.write(&[write(g, time % 3, at(time), b"")]).await.unwrap();
        assert_eq!(store.get(g, &entity(time % 3)).await.unwrap(), Some(row(at(time), b"")));
    }
}

/// Pages of any size give every row of a generation, at least once, and none of another.
pub async fn a_scan_gives_every_row_and_no_other(store: &dyn OnlineStore) {
    let g = Generation(112);
    let rows: Vec<_> = (-20..20).map(|i| write(g, i, at(i), b"x")).collect();
    store.write(&rows).await.unwrap();
    for limit in [1, 7, 40, 1_000] {
        let mut scanned = Vec::new();
        let mut after = None;
        loop {
            let page = store.scan(g, after.as_ref(), limit).await.unwrap();
            assert!(page.rows.len() <= limit);
            scanned.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        scanned.sort();
        scanned.dedup();
        assert_eq!(scanned, rows.iter().map(|write| (write.key.clone(), write.row.clone())).collect::<Vec<_>>(), "pages of {limit}");
    }
}

/// A vector of vectors' size and the longest key are no trouble.
pub async fn large_rows_and_keys_come_back_whole(store: &dyn OnlineStore) {
    let g = Generation(113);
    let key = EntityKey::encode(&[Value::Bytes(vec![7; MAX_KEY_BYTES - 3])]).unwrap().unwrap();
    assert_eq!(key.as_bytes().len(), MAX_KEY_BYTES);
    let large = row(at(1), &vec![0xAB; 3 << 20]);
    store.write(&[Write { generation: g, key: key.clone(), row: large.clone() }]).await.unwrap();
    store.write(&[Write { generation: g, key: key.clone(), row: row(at(0), b"") }]).await.unwrap();
    assert_eq!(store.get(g, &key).await.unwrap(), Some(large));
}

/// A batch with one row over a limit is refused whole.
pub async fn what_is_over_a_limit_is_refused_before_anything_is_written(store: &dyn OnlineStore) {
    let g = Generation(114);
    let long = EntityKey::encode(&[Value::Bytes(vec![7; MAX_KEY_BYTES])]).unwrap().unwrap();
    let bad = [
        Write { generation: g, key: long, row: row(at(1), b"") },
        Write { generation: g, key: entity(2), row: vec![0; MAX_ROW_BYTES + 1].into() },
        Write { generation: g, key: entity(2), row: vec![0; RowOrder::LEN - 1].into() },
    ];
    for bad in bad {
        let error = store.write(&[write(g, 1, at(1), b"x"), bad]).await.unwrap_err();
        assert!(!error.to_string().is_empty() && error.kind() != ErrorKind::Unavailable, "{error}");
        assert_eq!(store.get(g, &entity(1)).await.unwrap(), None);
    }
}

/// Writers that bring the same rows in orders of their own, at the same time, leave the greatest.
pub async fn concurrent_writers_converge(store: &Arc<dyn OnlineStore>) {
    let g = Generation(115);
    let rows: Vec<_> = (0..2_000).map(|n: i64| write(g, n % 17, at(n * 7_919 % 2_000), &n.to_le_bytes())).collect();
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (store, mut rows) = (Arc::clone(store), rows.clone());
        writers.push(tokio::spawn(async move {
            rows.rotate_left(writer * 431);
            if writer % 2 == 0 {
                rows.reverse();
            }
            for batch in rows.chunks(50 + writer * 13) {
                store.write(batch).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for i in 0..17 {
        let greatest = rows.iter().filter(|write| write.key == entity(i)).map(|write| &write.row).max();
        assert_eq!(store.get(g, &entity(i)).await.unwrap().as_ref(), greatest);
    }
}

/// Writers of several views that fall back and begin again from an earlier row, each at places of its own, leave what the rows say; a reader beside them
/// never sees an entity go back.
pub async fn writers_that_replay_leave_what_one_writer_leaves(store: &Arc<dyn OnlineStore>) {
    let views = [Generation(119), Generation(120), Generation(121)];
    let rows: Vec<_> = (0..900_i64).map(|n| write(views[(n % 3) as usize], n * 31 % 23, at(n * 523 % 900), &n.to_le_bytes())).collect();
    let mut writers = Vec::new();
    for writer in 0..3_usize {
        let (store, rows) = (Arc::clone(store), rows.clone());
        writers.push(tokio::spawn(async move {
            let (mut from, mut replays) = (0, 0);
            while from < rows.len() {
                let to = (from + 40 + 17 * writer).min(rows.len());
                store.write(&rows[from..to]).await.unwrap();
                let falls_back = replays < 6 && (to / 100 + writer) % 2 == 0;
                (from, replays) = if falls_back { (to.saturating_sub(150), replays + 1) } else { (to, replays) };
            }
        }));
    }
    let keys: Vec<_> = (0..23).map(entity).collect();
    let mut before = vec![None; views.len() * keys.len()];
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let now = store.read(&[ReadGroup { generations: &views, keys: &keys }]).await.unwrap();
        assert!(before.iter().zip(&now).all(|(before, now)| before <= now), "a row went back");
        before = now;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let held = store.read(&[ReadGroup { generations: &views, keys: &keys }]).await.unwrap();
    for (i, held) in held.iter().enumerate() {
        let (view, key) = (views[i / keys.len()], &keys[i % keys.len()]);
        let greatest = rows.iter().filter(|write| write.generation == view && write.key == *key).map(|write| &write.row).max();
        assert_eq!(held.as_ref(), greatest, "entity {}", i % keys.len());
    }
}

/// Small and large rows of one batch come through, whatever a store cuts the batch into; rows that differ behind a long start are told apart.
pub async fn a_batch_of_many_sizes_is_kept_whole(store: &dyn OnlineStore) {
    let g = Generation(122);
    let size = |i: i64| [0, 1, 5_000, 300_000][(i % 4) as usize];
    let rows: Vec<_> = (0..60).map(|i| write(g, i, at(i), &vec![i as u8; size(i)])).collect();
    store.write(&rows).await.unwrap();
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(store.get(g, &entity(i as i64)).await.unwrap().as_ref(), Some(&row.row));
    }
    let alike = |last: &[u8]| [&[7; 3_000][..], last].concat();
    for (i, [lesser, greater]) in [(100, [&b"a"[..], b"b"]), (101, [b"", b"a"]), (102, [b"\x7F", b"\x80"]), (103, [b"\0a", b"\0b"])] {
        for payload in [greater, lesser] {
            store.write(&[write(g, i, at(1), &alike(payload))]).await.unwrap();
        }
        assert_eq!(store.get(g, &entity(i)).await.unwrap(), Some(row(at(1), &alike(greater))));
    }
}

/// Rows, their absence and the commit are there after a crash if they were synced before.
pub async fn what_was_synced_survives_a_crash(under_test: &mut dyn StoreUnderTest) {
    let (g, dropped) = (Generation(116), Generation(117));
    let store = under_test.store();
    store.write(&[write(dropped, 1, at(1), b"x")]).await.unwrap();
    advance(&*store, dropped, b"c1").await;
    store.sync().await.unwrap();
    store.write(&(0..500).map(|i| write(g, i, at(i), b"x")).collect::<Vec<_>>()).await.unwrap();
    advance(&*store, g, b"c1").await;
    store.drop_generation(dropped).await.unwrap();
    store.sync().await.unwrap();
    drop(store);
    for _ in 0..2 {
        under_test.crash().await;
        let store = under_test.store();
        for i in 0..500 {
            assert_eq!(store.get(g, &entity(i)).await.unwrap(), Some(row(at(i), b"x")));
        }
        assert_eq!(store.published_to(g).await.unwrap().as_deref(), Some(&b"c1"[..]));
        assert_eq!(store.get(dropped, &entity(1)).await.unwrap(), None);
        assert_eq!(store.published_to(dropped).await.unwrap(), None);
        store.write(&[write(g, 0, at(-1), b"older")]).await.unwrap();
    }
}

/// What was not synced may be lost, but a generation never answers for a commit whose rows it lost.
pub async fn an_advance_never_outlives_the_rows_before_it(under_test: &mut dyn StoreUnderTest) {
    let g = Generation(118);
    for round in 1..=5_i64 {
        let store = under_test.store();
        store.write(&[write(g, round, at(round), b"x")]).await.unwrap();
        advance(&*store, g, &round.to_le_bytes()).await;
        drop(store);
        under_test.crash().await;
        let store = under_test.store();
        let commit = store.published_to(g).await.unwrap();
        let answers_for = commit.map_or(0, |commit| i64::from_le_bytes(commit[..].try_into().unwrap()));
        if answers_for > 0 {
            let held = store.get(g, &entity(answers_for)).await.unwrap();
            assert_eq!(held, Some(row(at(answers_for), b"x")), "the commit of round {answers_for} survives without its row");
        }
    }
}

/// The incarnation stays through a crash that lost nothing synced.
pub async fn the_incarnation_names_the_content(under_test: &mut dyn StoreUnderTest) {
    let before = under_test.store().incarnation().await.unwrap();
    under_test.store().sync().await.unwrap();
    under_test.crash().await;
    assert_eq!(under_test.store().incarnation().await.unwrap(), before);
}

fn permutations(items: &[i64]) -> Vec<Vec<i64>> {
    let Some((first, rest)) = items.split_first() else {
        return vec![Vec::new()];
    };
    let insert = |shorter: Vec<i64>| (0..=shorter.len()).map(move |at| [&shorter[..at], &[*first], &shorter[at..]].concat());
    permutations(rest).into_iter().flat_map(insert).collect()
}

//! The cache.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_core::{Generation, ManualClock, RandomIds, Span, Timestamp};
use anabranch_online_store::testkit::{at, entity, row, write};
use anabranch_online_store::{CachedOnlineStore, OnlineStore, ReadGroup, Result};
use bytes::Bytes;
use proptest::prelude::*;

use crate::gated::{Gated, Stepped};

const G: Generation = Generation(1);

fn cached(medium: &Arc<Gated>, bytes: usize, staleness: Option<Span>, clock: &Arc<ManualClock>) -> CachedOnlineStore {
    CachedOnlineStore::new(Arc::clone(medium) as _, bytes as u64, staleness, Arc::clone(clock) as _)
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp(1_000_000_000)))
}

fn read(store: &dyn OnlineStore, generation: Generation, i: i64) -> Result<Option<Bytes>> {
    let (keys, generations) = ([entity(i)], [generation]);
    let groups = [ReadGroup { generations: &generations, keys: &keys }];
    Stepped::new(store.read(&groups)).finish().map(|mut rows| rows.pop().flatten())
}

fn put(store: &dyn OnlineStore, generation: Generation, i: i64, time: i64) -> Result<()> {
    Stepped::new(store.write(&[write(generation, i, at(time), b"")])).finish()
}

fn at_time(time: i64) -> Option<Bytes> {
    Some(row(at(time), b""))
}

#[test]
fn what_was_read_once_is_not_asked_for_again_nor_is_what_is_not_there() {
    let medium = Gated::new();
    let store = cached(&medium, 1 << 20, None, &clock());
    put(&*medium, G, 1, 7).unwrap();
    for _ in 0..3 {
        assert_eq!(read(&store, G, 1).unwrap(), at_time(7));
        assert_eq!(read(&store, G, 2).unwrap(), None);
    }
    assert_eq!(medium.reads.load(Ordering::Relaxed), 2);
    assert_eq!(store.hits_and_misses(), (4, 2));
    put(&store, G, 2, 5).unwrap();
    assert_eq!(read(&store, G, 2).unwrap(), at_time(5));
    put(&store, G, 2, 4).unwrap();
    assert_eq!(read(&store, G, 2).unwrap(), at_time(5), "a lesser row changes nothing");
}

#[test]
fn an_entity_that_is_known_in_part_is_read_whole_and_the_rest_of_the_batch_is_not() {
    let medium = Gated::new();
    let store = cached(&medium, 1 << 20, None, &clock());
    let other = Generation(2);
    for (generation, i) in [(G, 1), (other, 1), (G, 2), (other, 2)] {
        put(&*medium, generation, i, i + generation.0 as i64).unwrap();
    }
    assert_eq!(read(&store, G, 1).unwrap(), at_time(2));
    assert_eq!((read(&store, G, 2).unwrap(), read(&store, other, 2).unwrap()), (at_time(3), at_time(4)));
    let keys = [entity(2), entity(1), entity(3), entity(1)];
    let groups = [ReadGroup { generations: &[G, other], keys: &keys }, ReadGroup { generations: &[], keys: &keys }];
    let found = Stepped::new(store.read(&groups)).finish().unwrap();
    assert_eq!(found, [at_time(3), at_time(2), None, at_time(2), at_time(4), at_time(3), None, at_time(3)]);
}

#[test]
fn what_others_wrote_is_seen_once_the_staleness_is_over_or_on_request() {
    let (medium, clock) = (Gated::new(), clock());
    let store = cached(&medium, 1 << 20, Some(Span::seconds(1)), &clock);
    put(&*medium, G, 1, 1).unwrap();
    assert_eq!(read(&store, G, 1).unwrap(), at_time(1));
    put(&*medium, G, 1, 2).unwrap();
    clock.advance(Span::seconds(1));
    assert_eq!(read(&store, G, 1).unwrap(), at_time(1));
    clock.advance(Span(1));
    assert_eq!(read(&store, G, 1).unwrap(), at_time(2));
    put(&*medium, G, 1, 3).unwrap();
    store.forget_cached(&[ReadGroup { generations: &[G], keys: &[entity(1)] }]);
    assert_eq!(read(&store, G, 1).unwrap(), at_time(3));
    // A clock that is set back does not make a row fresh for longer.
    put(&*medium, G, 1, 4).unwrap();
    clock.set(Timestamp(5));
    assert_eq!(read(&store, G, 1).unwrap(), at_time(4));
}

#[test]
fn a_write_that_failed_or_was_cancelled_is_read_from_the_medium() {
    let medium = Gated::new();
    let store = cached(&medium, 1 << 20, None, &clock());
    put(&store, G, 1, 1).unwrap();
    assert_eq!(read(&store, G, 1).unwrap(), at_time(1));
    medium.fails.store(true, Ordering::Relaxed);
    put(&store, G, 1, 2).unwrap_err();
    medium.fails.store(false, Ordering::Relaxed);
    assert_eq!(read(&store, G, 1).unwrap(), at_time(2));
    let rows = [write(G, 1, at(3), b"")];
    let mut cancelled = Stepped::new(store.write(&rows));
    assert!(cancelled.step().is_none() && cancelled.step().is_none());
    drop(cancelled);
    assert_eq!(read(&store, G, 1).unwrap(), at_time(3));
}

#[test]
fn a_generation_is_forgotten_even_where_its_drop_was_cancelled() {
    let medium = Gated::new();
    let store = cached(&medium, 1 << 20, None, &clock());
    put(&store, G, 1, 1).unwrap();
    put(&store, Generation(2), 1, 1).unwrap();
    assert_eq!((read(&store, G, 1).unwrap(), read(&store, Generation(2), 1).unwrap()), (at_time(1), at_time(1)));
    let mut cancelled = Stepped::new(store.drop_generation(G));
    assert!(cancelled.step().is_none() && cancelled.step().is_none());
    drop(cancelled);
    assert_eq!(read(&store, G, 1).unwrap(), None);
    assert_eq!(read(&store, Generation(2), 1).unwrap(), at_time(1));
}

#[test]
fn a_medium_that_lost_everything_is_read_anew() {
    let medium = Gated::new();
    let store = cached(&medium, 1 << 20, None, &clock());
    put(&store, G, 1, 1).unwrap();
    assert_eq!(read(&store, G, 1).unwrap(), at_time(1));
    let (keys, generations) = ([entity(2)], [G]);
    let groups = [ReadGroup { generations: &generations, keys: &keys }];
    let mut under_way = Stepped::new(store.read(&groups));
    assert!(under_way.step().is_none());
    medium.medium.lose(&RandomIds::seeded(2));
    assert_eq!(under_way.finish().unwrap(), [None]);
    put(&*medium, G, 2, 5).unwrap();
    assert_eq!(read(&store, G, 2).unwrap(), at_time(5), "what was read under two incarnations is not kept");
    assert_eq!(read(&store, G, 1).unwrap(), None);
}

/// What may happen next.
#[derive(Debug, Clone)]
enum Step {
    Read(usize),
    Write(usize, i64),
    /// A call under way goes on to its next pause.
    Go(usize),
    /// It is dropped.
    Cancel(usize),
    /// Another entity is read, for which others may have to go.
    Crowd(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..4_usize).prop_map(Step::Read),
        2 => (0..4_usize, 0..50_i64).prop_map(|(key, time)| Step::Write(key, time)),
        9 => (0..8_usize).prop_map(Step::Go),
        1 => (0..8_usize).prop_map(Step::Cancel),
        3 => (100..300_i64).prop_map(Step::Crowd),
    ];
    proptest::collection::vec(step, 1..120)
}

/// A call under way: the key that it is about, and for a write the row, for a read the least that it must find.
struct Call<'a> {
    key: usize,
    row: Option<Bytes>,
    is_write: bool,
    stepped: Stepped<'a, Result<Vec<Option<Bytes>>>>,
}

proptest! {
    /// Whatever is under way: a read that begins after a write has returned sees it or a greater row, and in the end the cache is the medium.
    #[test]
    fn a_read_sees_every_write_that_returned_before_it(steps in steps(), entities in 1..4_usize) {
        let medium = Gated::new();
        let store = cached(&medium, 64 * 360 * entities, None, &clock());
        let mut returned = vec![None; 4];
        let mut calls: Vec<Call<'_>> = Vec::new();
        for step in steps {
            match step {
                Step::Read(key) => {
                    let (store, i) = (&store, key as i64);
                    let read = async move { store.read(&[ReadGroup { generations: &[G], keys: &[entity(i)] }]).await };
                    calls.push(Call { key, row: returned[key].clone(), is_write: false, stepped: Stepped::new(read) });
                }
                Step::Write(key, time) => {
                    let (store, row) = (&store, write(G, key as i64, at(time), b""));
                    let bytes = row.row.clone();
                    let write = async move { store.write(&[row]).await.map(|()| Vec::new()) };
                    calls.push(Call { key, row: Some(bytes), is_write: true, stepped: Stepped::new(write) });
                }
                Step::Go(call) if call < calls.len() => {
                    if let Some(outcome) = calls[call].stepped.step() {
                        let Call { key, row, is_write, .. } = calls.swap_remove(call);
                        let found = outcome.unwrap();
                        match is_write {
                            true => returned[key] = returned[key].clone().max(row),
                            false => prop_assert!(found[0] >= row, "{:?} where {:?} was written", found[0], row),
                        }
                    }
                }
                Step::Cancel(call) if call < calls.len() => drop(calls.swap_remove(call)),
                Step::Crowd(i) => prop_assert_eq!(read(&store, G, i).unwrap(), None),
                Step::Go(_) | Step::Cancel(_) => {}
            }
        }
        drop(calls);
        for i in 0..4 {
            prop_assert_eq!(read(&store, G, i).unwrap(), read(&*medium, G, i).unwrap());
        }
    }
}

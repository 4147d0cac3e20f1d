//! Equal lookups.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_core::Generation;
use anabranch_online_store::testkit::{at, entity, row, write};
use anabranch_online_store::{CoalescingOnlineStore, OnlineStore, ReadGroup, Result};
use bytes::Bytes;

use crate::gated::{Gated, Stepped};

const G: Generation = Generation(1);

type Rows = Vec<Option<Bytes>>;

type Asked<'a> = Stepped<'a, Result<Rows>>;

fn ask(store: &CoalescingOnlineStore, i: i64) -> Asked<'_> {
    Stepped::new(async move { store.read(&[ReadGroup { generations: &[G], keys: &[entity(i)] }]).await })
}

fn put(medium: &Gated, time: i64) {
    Stepped::new(medium.write(&[write(G, 1, at(time), b"")])).finish().unwrap();
}

fn of(time: i64) -> Rows {
    vec![Some(row(at(time), b""))]
}

fn bed() -> (Arc<Gated>, CoalescingOnlineStore) {
    let medium = Gated::new();
    put(&medium, 1);
    (Arc::clone(&medium), CoalescingOnlineStore::new(medium))
}

/// Nobody is waited for who is no longer there.
fn goes_at_once(store: &CoalescingOnlineStore) {
    assert_eq!(ask(store, 1).finish().unwrap(), of(1));
}

/// A lookup that is under way behind what it read, and two that wait.
fn three(store: &CoalescingOnlineStore) -> [Asked<'_>; 3] {
    let mut asked = [ask(store, 1), ask(store, 1), ask(store, 1)];
    for asked in &mut asked {
        assert!(asked.step().is_none() && asked.step().is_none());
    }
    asked
}

#[test]
fn those_who_ask_for_the_same_go_together_once_the_one_before_is_back() {
    let (medium, store) = bed();
    let [first, second, mut third] = three(&store);
    assert_eq!(medium.reads.load(Ordering::Relaxed), 1);
    assert_eq!(first.finish().unwrap(), of(1));
    assert!(third.step().is_none());
    assert_eq!(second.finish().unwrap(), of(1));
    assert_eq!(third.finish().unwrap(), of(1));
    assert_eq!(medium.reads.load(Ordering::Relaxed), 2);
    goes_at_once(&store);
    assert_eq!(medium.reads.load(Ordering::Relaxed), 3);
}

#[test]
fn a_lookup_never_takes_an_answer_from_before_it_began() {
    let (medium, store) = bed();
    let [first, second, third] = three(&store);
    put(&medium, 2);
    let late = ask(&store, 1);
    assert_eq!(first.finish().unwrap(), of(1));
    assert_eq!(second.finish().unwrap(), of(2));
    assert_eq!(third.finish().unwrap(), of(2));
    assert_eq!(late.finish().unwrap(), of(2));
}

#[test]
fn others_do_not_wait() {
    let (medium, store) = bed();
    let [first, ..] = three(&store);
    assert_eq!(ask(&store, 2).finish().unwrap(), [None]);
    let many: Vec<_> = (0..100).map(entity).collect();
    let groups = [ReadGroup { generations: &[G], keys: &many }];
    let mut large = [Stepped::new(store.read(&groups)), Stepped::new(store.read(&groups))];
    let before = medium.reads.load(Ordering::Relaxed);
    large.iter_mut().for_each(|large| assert!(large.step().is_none()));
    assert_eq!(medium.reads.load(Ordering::Relaxed), before + 2);
    drop(first);
}

#[test]
fn those_who_wait_for_one_who_fails_go_by_themselves() {
    let (medium, store) = bed();
    let [first, mut second, mut third] = three(&store);
    medium.fails.store(true, Ordering::Relaxed);
    first.finish().unwrap_err();
    assert!(second.step().is_none() && third.step().is_none());
    assert_eq!(medium.reads.load(Ordering::Relaxed), 3);
    second.finish().unwrap_err();
    medium.fails.store(false, Ordering::Relaxed);
    assert_eq!(third.finish().unwrap(), of(1));
    goes_at_once(&store);
}

#[test]
fn one_who_is_cancelled_holds_nobody_up() {
    let (_, store) = bed();
    // Under way.
    let [first, second, third] = three(&store);
    drop(first);
    assert_eq!(second.finish().unwrap(), of(1));
    assert_eq!(third.finish().unwrap(), of(1));
    // While it waits, and when its turn has come and it has not heard of it.
    for heard in [false, true] {
        let [first, second, third] = three(&store);
        if heard {
            assert_eq!(first.finish().unwrap(), of(1));
            drop(second);
        } else {
            drop(second);
            assert_eq!(first.finish().unwrap(), of(1));
        }
        assert_eq!(third.finish().unwrap(), of(1));
    }
    // Under way for others.
    let [first, mut second, third] = three(&store);
    assert_eq!(first.finish().unwrap(), of(1));
    assert!(second.step().is_none());
    drop(second);
    assert_eq!(third.finish().unwrap(), of(1));
    goes_at_once(&store);
}

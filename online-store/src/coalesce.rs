//! Equal lookups at one time, sent once: for stores that are reached over a network.
//!
//! A lookup may take the answer of a round trip only where that has not been sent yet: one that is under way may have passed a write that returned before
//! the lookup began. So while one is under way, those that ask for the same gather, and the first of them goes for all when it is back.
//!
//! ```text
//! nobody asks for it            →  goes at once
//! somebody is under way for it  →  waits; the first of those who wait goes for all of them
//! whoever was under way failed  →  those who wait go by themselves, at the same time
//! ```
//!
//! A call ends within the medium's own limit and once more of it: it waits for one round trip at most before it is part of the next. Large lookups, which
//! are seldom equal, are not compared.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use anabranch_core::Generation;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{Cursor, Incarnation, OnlineStore, Page, ReadGroup, Result, Write};

/// Keys of a lookup beyond which it goes by itself.
const MOST_KEYS: usize = 16;

/// A store to which equal small lookups go once.
#[derive(Debug)]
pub struct CoalescingOnlineStore {
    medium: Arc<dyn OnlineStore>,
    under_way: Arc<UnderWay>,
}

/// For each question that somebody is under way with, those who wait for the next turn.
#[derive(Debug, Default)]
struct UnderWay(Mutex<Waiting>);

type Waiting = HashMap<Question, Vec<oneshot::Sender<Turn>>, RandomState>;

/// Generations and keys of a lookup, as bytes that differ where it does.
type Question = Arc<[u8]>;
type Rows = Vec<Option<Bytes>>;

/// What becomes of one who waited.
#[derive(Debug)]
enum Turn {
    Go(Trip),
    Answer(Rows),
}

/// One round trip. However it ends, those who wait hear of it.
#[derive(Debug)]
struct Trip {
    under_way: Arc<UnderWay>,
    question: Question,
    /// Those for whom it goes as well.
    followers: Vec<oneshot::Sender<Turn>>,
    done: bool,
}

impl CoalescingOnlineStore {
    /// Puts this layer above a store.
    pub fn new(medium: Arc<dyn OnlineStore>) -> Self {
        Self { medium, under_way: Arc::default() }
    }

    async fn go(&self, trip: Trip, groups: &[ReadGroup<'_>]) -> Result<Rows> {
        let rows = self.medium.read(groups).await?;
        trip.back(&rows);
        Ok(rows)
    }
}

impl UnderWay {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trip of one who need not wait, or what another waits for.
    fn ask(self: &Arc<Self>, question: Question) -> std::result::Result<Trip, oneshot::Receiver<Turn>> {
        let mut under_way = self.lock();
        if let Some(waiting) = under_way.get_mut(&question) {
            let (turn, wait) = oneshot::channel();
            // Who was cancelled meanwhile needs no answer.
            waiting.retain(|turn| !turn.is_closed());
            waiting.push(turn);
            return Err(wait);
        }
        under_way.insert(Arc::clone(&question), Vec::new());
        drop(under_way);
        Ok(Trip { under_way: Arc::clone(self), question, followers: Vec::new(), done: false })
    }
}

impl Trip {
    /// Hands the answer on, and the turn to the first who still waits.
    fn back(mut self, rows: &Rows) {
        self.done = true;
        for follower in std::mem::take(&mut self.followers) {
            drop(follower.send(Turn::Answer(rows.clone())));
        }
        let mut under_way = self.under_way.lock();
        let waiting = under_way.get_mut(&self.question).map(std::mem::take).unwrap_or_default();
        let mut waiting = waiting.into_iter().filter(|turn| !turn.is_closed());
        let Some(first) = waiting.next() else {
            under_way.remove(&self.question);
            return;
        };
        drop(under_way);
        let (question, followers) = (Arc::clone(&self.question), waiting.collect());
        // Where it is cancelled before it hears of this, the trip is dropped, and with it those who follow go by themselves.
        drop(first.send(Turn::Go(Self { under_way: Arc::clone(&self.under_way), question, followers, done: false })));
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        if !self.done {
            // Whoever waits hears of it by the end of the channel.
            drop(self.under_way.lock().remove(&self.question));
        }
    }
}

/// What a lookup asks for; `None` where it is too large to be compared.
fn question(groups: &[ReadGroup<'_>]) -> Option<Question> {
    if groups.iter().map(|group| group.keys.len()).sum::<usize>() > MOST_KEYS {
        return None;
    }
    let mut bytes = Vec::with_capacity(128);
    for group in groups {
        bytes.extend((group.generations.len() as u32).to_le_bytes());
        group.generations.iter().for_each(|generation| bytes.extend(generation.0.to_le_bytes()));
        bytes.extend((group.keys.len() as u32).to_le_bytes());
        for key in group.keys {
            bytes.extend((key.as_bytes().len() as u32).to_le_bytes());
            bytes.extend_from_slice(key.as_bytes());
        }
    }
    Some(bytes.into())
}

#[async_trait]
impl OnlineStore for CoalescingOnlineStore {
    async fn write(&self, rows: &[Write]) -> Result<()> {
        self.medium.write(rows).await
    }

    async fn read(&self, groups: &[ReadGroup<'_>]) -> Result<Rows> {
        let Some(question) = question(groups) else { return self.medium.read(groups).await };
        match self.under_way.ask(question) {
            Ok(trip) => self.go(trip, groups).await,
            Err(wait) => match wait.await {
                Ok(Turn::Go(trip)) => self.go(trip, groups).await,
                Ok(Turn::Answer(rows)) => Ok(rows),
                Err(_) => self.medium.read(groups).await,
            },
        }
    }

    fn forget_cached(&self, groups: &[ReadGroup<'_>]) {
        self.medium.forget_cached(groups);
    }

    async fn sync(&self) -> Result<()> {
        self.medium.sync().await
    }

    async fn published_to(&self, generation: Generation) -> Result<Option<Bytes>> {
        self.medium.published_to(generation).await
    }

    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> Result<()> {
        self.medium.advance(generation, commit, incarnation).await
    }

    async fn incarnation(&self) -> Result<Incarnation> {
        self.medium.incarnation().await
    }

    async fn drop_generation(&self, generation: Generation) -> Result<()> {
        self.medium.drop_generation(generation).await
    }

    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page> {
        self.medium.scan(generation, after, limit).await
    }
}

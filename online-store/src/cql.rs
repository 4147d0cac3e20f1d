//! The store on a cluster that speaks CQL: Cassandra 4 or newer, or Scylla.
//!
//! Every entity is one partition with a row for each generation, so that a lookup of an entity over any number of views is one read of one partition
//! ([`link`] draws the tables). A row is one cell, the packed row, and is only ever overwritten: of two cells the cluster keeps the later one by its rule for
//! timestamps and, where these are equal, by the bytes ([`keys`] says which timestamp a row has). So the greatest row stays on every replica, whatever the
//! order in which writes arrive, without a read before a write and without transactions. A tombstone is a row with a flag; nothing is ever given to the
//! cluster's own TTL, for a cell that expires wins a tie.
//!
//! [`claim`] finds losses, [`node`] is what a node says of itself, [`walk`] goes over a generation.
//!
//! # Consistency
//!
//! Reads and writes wait for most replicas, so that every read sees the writes that returned before it. With `local_quorum` this holds among servers that
//! use one data centre. What a generation answers for is changed by lightweight transactions: they are few, and no clock decides which was last.
//!
//! # Durability
//!
//! A node whose `commitlog_sync` is `batch` or `group` has every write on disk before it acknowledges it. The default, `periodic`, may lose the last ten
//! seconds with the node's power. Where a row lies on fewer than three nodes, such a node that began anew makes the store another incarnation, and no
//! generation answers for a commit until it is filled again. Where rows lie on three nodes or more, most of them have what was acknowledged, and the store
//! relies on the cluster: power that most of them lose in the same seconds may take rows, and nobody is told.
//!
//! `sync` looks whether the root and the nodes are what they were. A lookup that finds less than it asked for looks at the root, and, where a start of a
//! node may be a loss, at the nodes: what is not found is never what was lost.
//!
//! # Costs
//!
//! `drop_generation` and `scan` walk over all entities, because an index would cost every write a second one. A drop leaves a tombstone of the cluster for
//! each row, which lookups of other generations do not read, and which the cluster frees after `gc_grace_seconds`. A generation is a number that is given
//! once: rows that come for one after it was dropped are not kept.
//!
//! # Failure points
//!
//! - A node that does not answer: the call ends in [`Error::Timeout`] where no other replica answers instead.
//! - A cluster that is gone, or has too few replicas: [`Error::Storage`] until it is back; nothing has to be restarted.
//! - A keyspace or tables that are gone: they are made again, with another incarnation.
//! - Killed during a write: some rows of it are there, each whole. It is repeated.
//! - A row over what a cluster takes in one piece by default: [`Error::TooLarge`]. Where the cluster takes less: [`Error::Storage`].
//!
//! **Refused**: TLS, consistencies under a quorum, keyspaces without durable writes.

mod claim;
mod keys;
mod link;
mod node;
mod walk;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anabranch_core::{EntityKey, Generation, Ids};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::FutureExt;
use tokio::sync::Mutex;

use crate::call::Call;
use crate::store::check_commit;
use crate::{CqlConfig, Cursor, Error, Incarnation, OnlineStore, Page, ReadGroup, Result, Write};
use keys::{END, column, name, published, timestamp};
use link::{Attempt, Link, Trouble, each};
use walk::Walk;

/// Rows, and about how many of their bytes, that are written within one limit of time.
const CHUNK_ROWS: usize = 2_048;
const CHUNK_BYTES: usize = 4 << 20;
/// The largest row with its key: a cluster takes half of its `commitlog_segment_size`, 16 MiB by default, in one piece.
const MOST_BYTES: usize = (16 << 20) - (64 << 10);
/// Partitions that a call reads or writes at a time.
const AT_A_TIME: usize = 128;
/// Rows of one page of a walk.
const WALK: usize = 1_000;
/// How often what is changed, or prepared, may change under the hands of whoever does it.
const ROUNDS: usize = 16;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// Keeps rows on a cluster that speaks CQL.
pub struct CqlOnlineStore {
    config: CqlConfig,
    ids: Arc<dyn Ids>,
    current: RwLock<Option<Arc<Link>>>,
    /// Held by whoever makes the next link.
    turn: Mutex<()>,
}

impl fmt::Debug for CqlOnlineStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CqlOnlineStore").field("config", &self.config).finish_non_exhaustive()
    }
}

impl CqlOnlineStore {
    /// Connects, makes keyspace and tables where they are not there, and looks what may be relied on.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting, also one of the cluster's own, [`Error::NewerFormat`], and [`Error::Storage`] or [`Error::Timeout`] where it cannot
    /// be reached.
    pub async fn open(config: &CqlConfig, ids: Arc<dyn Ids>) -> Result<Self> {
        config.validate()?;
        let store = Self { config: config.clone(), ids, current: RwLock::default(), turn: Mutex::default() };
        store.link(&store.call("open")).await?;
        Ok(store)
    }

    fn call(&self, doing: &'static str) -> Call {
        Call::new(doing, self.config.timeout_ms)
    }

    fn limit_of_looking(&self) -> Duration {
        // So that a node that does not answer leaves time for the rest.
        Duration::from_millis((self.config.timeout_ms / 8).max(1))
    }

    fn current(&self) -> Option<Arc<Link>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The link as it was verified last, or the first one.
    async fn link(&self, call: &Call) -> Result<Arc<Link>> {
        match self.current() {
            Some(link) => Ok(link),
            None => self.next(None, call).await,
        }
    }

    /// The link after the one of which something was found to be no longer so. One caller at a time makes it.
    async fn next(&self, seen: Option<u64>, call: &Call) -> Result<Arc<Link>> {
        let _turn = call.within(self.turn.lock()).await?;
        let before = self.current();
        if let Some(before) = before.as_ref().filter(|before| Some(before.version) != seen) {
            return Ok(Arc::clone(before));
        }
        let version = before.as_ref().map_or(0, |before| before.version) + 1;
        let limit = Duration::from_millis(self.config.timeout_ms);
        let making = async {
            let mut tries = 0;
            loop {
                tries += 1;
                // Where others make tables meanwhile, statements are forgotten as soon as they are prepared, and the driver's wait for an agreed schema may
                // hang. All of it may be repeated.
                match tokio::time::timeout(limit / 3, self.make(version, limit, call).boxed()).await {
                    Ok(Err(Trouble::Stale(_))) if tries < ROUNDS => tokio::time::sleep(BETWEEN_TRIES).await,
                    Ok(made) => return made.map_err(Trouble::into_error),
                    Err(_) => {}
                }
            }
        };
        let link = call.within(making).await??;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&link));
        Ok(link)
    }

    async fn make(&self, version: u64, limit: Duration, call: &Call) -> Attempt<Arc<Link>> {
        let mut link = Link::connect(&self.config, call, limit).await?;
        link.version = version;
        link.claim(&*self.ids, self.limit_of_looking(), call).await?;
        Ok(Arc::new(link))
    }

    /// Works with the link, and once more with the next one where it was the link that failed.
    async fn with_link<T, F>(&self, call: &Call, work: impl Fn(Arc<Link>) -> F + Send + Sync) -> Result<T>
    where
        F: Future<Output = Attempt<T>> + Send,
    {
        let link = self.link(call).await?;
        let seen = link.version;
        match call.within(work(link)).await? {
            Ok(done) => Ok(done),
            Err(Trouble::Final(error)) => Err(error),
            Err(Trouble::Stale(_)) => {
                let next = self.next(Some(seen), call).await?;
                call.within(work(next)).await?.map_err(Trouble::into_error)
            }
        }
    }

    async fn write_chunk(&self, rows: &[Write]) -> Result<()> {
        let call = self.call("write");
        // Of several rows of an entity the greatest alone has to go.
        let mut greatest = HashMap::with_capacity(rows.len());
        for write in rows {
            let held = greatest.entry((&write.key, write.generation)).or_insert(&write.row);
            *held = (*held).max(&write.row);
        }
        let greatest: Vec<_> = greatest.into_iter().collect();
        let (greatest, call) = (&greatest, &call);
        self.with_link(call, |link| async move {
            let link = &*link;
            each(greatest.len(), AT_A_TIME, |i| async move {
                let ((key, generation), row) = &greatest[i];
                let values = (timestamp(row), &row[..], key.as_bytes(), column(*generation));
                link.run(&link.statements.write, values, call).await
            })
            .await
            .map(|_| ())
        })
        .await
    }

    /// Every row that is asked for; stale where what is not there may have been lost.
    async fn read_under(&self, link: &Link, groups: &[ReadGroup<'_>], call: &Call) -> Attempt<Vec<Option<Bytes>>> {
        let (mut asked, mut start) = (Vec::new(), 0);
        for group in groups.iter().filter(|group| !group.is_empty()) {
            asked.extend((0..group.keys.len()).map(|at| (group, at, start)));
            start += group.len();
        }
        let mut rows = vec![None; start];
        let found = each(asked.len(), AT_A_TIME, |i| {
            let (group, at, _) = asked[i];
            async move { read_entity(link, &group.keys[at], group.generations, call).await }
        });
        for (i, found) in found.await? {
            let (group, at, start) = asked[i];
            for (view, generation) in group.generations.iter().enumerate() {
                let row = found.iter().find(|(of, _)| *of == column(*generation));
                rows[start + view * group.keys.len() + at] = row.map(|(_, row)| row.clone());
            }
        }
        if rows.contains(&None) {
            let stands = if link.may_lose() { link.stands(self.limit_of_looking(), call).await? } else { link.has_its_root(call).await? };
            if !stands {
                return Err(Trouble::Stale(Error::Lost));
            }
        }
        Ok(rows)
    }

    /// Changes what a generation answers for.
    async fn publish(&self, link: &Link, generation: Generation, commit: Option<&[u8]>, call: &Call) -> Attempt<()> {
        let (part, name) = (published(link.incarnation), name(generation));
        for _ in 0..ROUNDS {
            let found = link.get(&part, &name, call).await?;
            if found.as_deref() == commit || link.swap(&part, &name, found.as_deref(), commit, call).await? {
                return Ok(());
            }
        }
        Err(call.failed("others change what the generation answers for").into())
    }
}

fn check_size(write: &Write) -> Result<()> {
    let bytes = write.key.as_bytes().len() + write.row.len();
    if bytes > MOST_BYTES {
        let what = "a row's number of bytes, with its key, for the online store on CQL".to_owned();
        return Err(Error::TooLarge { what, bytes: bytes as u64, limit: MOST_BYTES as u64 });
    }
    Ok(())
}

async fn read_entity(link: &Link, key: &EntityKey, generations: &[Generation], call: &Call) -> Attempt<Vec<(i64, Bytes)>> {
    let columns: Vec<_> = generations.iter().map(|generation| column(*generation)).collect();
    let rows = link.rows(&link.statements.read, (key.as_bytes(), columns), call).await?;
    let rows = rows.rows::<(i64, Bytes)>().map_err(|error| call.failed(error))?;
    Ok(rows.collect::<std::result::Result<_, _>>().map_err(|error| call.failed(error))?)
}

#[async_trait]
impl OnlineStore for CqlOnlineStore {
    async fn write(&self, rows: &[Write]) -> Result<()> {
        rows.iter().try_for_each(Write::check)?;
        rows.iter().try_for_each(check_size)?;
        for chunk in Write::chunks(rows, CHUNK_ROWS, CHUNK_BYTES) {
            self.write_chunk(chunk).await?;
        }
        Ok(())
    }

    async fn read(&self, groups: &[ReadGroup<'_>]) -> Result<Vec<Option<Bytes>>> {
        if groups.iter().all(ReadGroup::is_empty) {
            return Ok(Vec::new());
        }
        let call = &Call::new("read", self.config.lookup_timeout_ms);
        self.with_link(call, |link| async move { self.read_under(&link, groups, call).await }).await
    }

    async fn sync(&self) -> Result<()> {
        // What was acknowledged is as durable as it can be; what is left to find out is whether it is all there.
        let call = &self.call("sync");
        let work = |link: Arc<Link>| async move {
            let stands = link.stands(self.limit_of_looking(), call).await?;
            if stands { Ok(()) } else { Err(Trouble::Stale(Error::Lost)) }
        };
        self.with_link(call, work).await
    }

    async fn published_to(&self, generation: Generation) -> Result<Option<Bytes>> {
        let call = &self.call("read");
        let work = |link: Arc<Link>| async move {
            let found = link.get(&published(link.incarnation), &name(generation), call).await?;
            if found.is_some() || link.has_its_root(call).await? { Ok(found) } else { Err(Trouble::Stale(Error::Lost)) }
        };
        self.with_link(call, work).await
    }

    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> Result<()> {
        check_commit(commit)?;
        let call = &self.call("advance");
        let work = |link: Arc<Link>| async move {
            if link.incarnation != incarnation {
                return Err(Trouble::Final(Error::Lost));
            }
            if !link.has_its_root(call).await? {
                return Err(Trouble::Stale(Error::Lost));
            }
            // Should the store be another incarnation by the time that this arrives, nobody reads it.
            self.publish(&link, generation, Some(commit), call).await
        };
        self.with_link(call, work).await
    }

    async fn incarnation(&self) -> Result<Incarnation> {
        Ok(self.link(&self.call("open")).await?.incarnation)
    }

    async fn drop_generation(&self, generation: Generation) -> Result<()> {
        let doing = "drop a generation";
        let call = &self.call(doing);
        self.with_link(call, |link| async move { self.publish(&link, generation, None, call).await }).await?;
        let mut walk = Some(Walk::new());
        while let Some(at) = walk {
            let (call, at) = (&self.call(doing), &at);
            let work = |link: Arc<Link>| async move {
                let link = &*link;
                let (rows, next) = at.clone().step(link, &link.statements.scan_keys, generation, WALK, call).await?;
                let keys = rows.rows::<(&[u8],)>().map_err(|error| call.failed(error))?;
                let keys = &keys.collect::<std::result::Result<Vec<_>, _>>().map_err(|error| call.failed(error))?;
                let end = |i: usize| link.run(&link.statements.end, (END, keys[i].0, column(generation)), call);
                each(keys.len(), AT_A_TIME, end).await?;
                Ok(next)
            };
            walk = self.with_link(call, work).await?;
        }
        Ok(())
    }

    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page> {
        let (call, limit) = (&self.call("scan"), limit.clamp(1, WALK));
        let walk = &after.map_or(Ok(Walk::new()), |after| Walk::parse(&after.0))?;
        let work = |link: Arc<Link>| async move {
            let (rows, next) = walk.clone().step(&link, &link.statements.scan, generation, limit, call).await?;
            let rows = rows.rows::<(Bytes, Bytes)>().map_err(|error| call.failed(error))?;
            let rows = rows.collect::<std::result::Result<Vec<_>, _>>().map_err(|error| call.failed(error))?;
            let rows = rows.into_iter().map(|(key, row)| Ok((EntityKey::from_bytes(key)?, row))).collect::<Result<_>>()?;
            Ok(Page { rows, next: next.map(|walk| Cursor(walk.to_bytes())) })
        };
        self.with_link(call, work).await
    }
}

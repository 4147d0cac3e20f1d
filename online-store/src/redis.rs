//! The store on Redis 7 or newer, alone or as a cluster.
//!
//! Every entity is one hash with a field for each generation, so that a lookup of an entity over any number of views is one `HMGET`
//! ([`keys`] draws the layout). A row is kept by a script that compares it with what its field holds, byte by byte: the conditional write by the total
//! order is one step of the server, whoever else writes. Nothing is ever given to the server's own expiry: TTL is judged when read.
//!
//! [`cluster`] sends commands where their slots are and follows slots that move, [`claim`] finds losses, [`peer`] is one process and its connections,
//! [`line`] one of those for lookups.
//!
//! # Durability
//!
//! A Redis with `appendonly yes`, `appendfsync always` and `no-appendfsync-on-rewrite no` has every write on disk before it acknowledges it: what a
//! write, an advance or a drop did survives loss of power once the call has returned, and `sync` has only to see that this still holds. Any other Redis
//! (snapshots, a log synced every second, no persistence, or one that may not be asked for its configuration) cannot promise that, and becomes another
//! incarnation when one of its processes ends; so it does when a replica takes over, which may lack its master's last writes. Then no generation
//! answers for a commit until it is filled again. A flush of the whole database, or of one node, is a loss like any other.
//!
//! Lookups carry a marker of each process that they go to, read after the rows, so that what is not found is never what was lost.
//!
//! # Costs
//!
//! `drop_generation` and `scan` walk all entities under the prefix (`SCAN`, a bounded page at a time, on every node), because an index of each
//! generation's entities would cost every write a second one and about half as much memory again. A drop removes one field of each entity and begins anew
//! when it is repeated. Slots that move while a walk goes on may hide entities from it: repeat it.
//!
//! # Failure points
//!
//! - A process that does not answer: the call ends in [`Error::Timeout`], its connection is given up and the next call makes another.
//! - A process that is gone or refuses connections: [`Error::Storage`] until it is back; nothing has to be restarted.
//! - Memory at `maxmemory`: [`Error::OutOfMemory`]; rows stay, for a policy other than `noeviction` is refused when the store opens and whenever it
//!   connects again.
//! - Killed during a write: some rows of it are there, each whole. It is repeated.
//!
//! **Refused**: replicas, Redis before 7, TLS.

mod claim;
mod cluster;
mod keys;
mod line;
mod peer;

use std::fmt;
use std::sync::Arc;

use ::redis::{Value, cmd};
use anabranch_core::{Generation, Ids};
use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes};
use futures::future::join_all;
use futures::stream::{StreamExt, TryStreamExt, iter};
use redis_protocol::resp2::types::BytesFrame;

use crate::call::Call;
use crate::store::check_commit;
use crate::{Cursor, Error, Incarnation, OnlineStore, Page, ReadGroup, RedisConfig, Result, Write};
use cluster::{Cluster, Command, Topology};
use keys::{Keys, field};
use line::{Commands, Replies};
use peer::Peer;

/// Rows, and about how many of their bytes, that go out before an answer is waited for; twice that is under way.
const CHUNK_ROWS: usize = 2_048;
const CHUNK_BYTES: usize = 4 << 20;
/// Rows that one call of the script keeps: Redis does nothing else meanwhile.
const SCRIPT_ROWS: usize = 100;
const SCRIPT_BYTES: usize = 1 << 20;
/// Entities that one step of a walk looks at, about.
const WALK: usize = 1_000;

/// Keeps rows in Redis.
pub struct RedisOnlineStore {
    cluster: Cluster,
    config: RedisConfig,
}

impl fmt::Debug for RedisOnlineStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOnlineStore").field("url", &self.config.url).field("prefix", &self.config.prefix).finish_non_exhaustive()
    }
}

/// An entity that is asked for, and where its rows stand in the answer: the first view's, and so many further each of the next.
struct Asked<'a> {
    name: Vec<u8>,
    generations: &'a [Generation],
    first: usize,
    step: usize,
}

impl Asked<'_> {
    /// Puts what was found where it belongs.
    fn put(&self, found: impl ExactSizeIterator<Item = Option<Bytes>>, rows: &mut [Option<Bytes>], call: &Call) -> Result<()> {
        if found.len() != self.generations.len() {
            return Err(call.failed("it answered another number of rows"));
        }
        found.enumerate().for_each(|(view, row)| rows[self.first + view * self.step] = row);
        Ok(())
    }
}

/// What came of asking all processes at once.
enum AtOnce {
    Rows(Vec<Option<Bytes>>),
    /// Something is not as the topology says.
    Differs,
    /// The slot of a marker is another's, whose place only the next topology has.
    Moved,
}

/// Where a walk over all entities stands: at a process, the cursor that it gave, and keys that it gave already.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Walk {
    address: String,
    cursor: u64,
    pending: Vec<Vec<u8>>,
}

impl RedisOnlineStore {
    /// Connects, and checks that Redis can be relied on.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting, also one of Redis' own, [`Error::NewerFormat`], and [`Error::Storage`] or [`Error::Timeout`] where it cannot be
    /// reached.
    pub async fn open(config: &RedisConfig, ids: Arc<dyn Ids>) -> Result<Self> {
        config.validate()?;
        let call = Call::new("open", config.timeout_ms);
        let cluster = Cluster::open(config.url.parts()?, Keys::new(&config.prefix), ids, &call).await?;
        Ok(Self { cluster, config: config.clone() })
    }

    fn call(&self, doing: &'static str) -> Call {
        Call::new(doing, self.config.timeout_ms)
    }

    async fn write_chunk(&self, rows: &[Write]) -> Result<()> {
        let call = self.call("write");
        let topology = self.cluster.topology(&call).await?;
        let single = topology.slots.len() == 1;
        // In a cluster a script's keys share a slot; rows of one entity always do, also while their slot moves.
        let mut order: Vec<_> = rows.iter().collect();
        if !single {
            order.sort_by(|a, b| a.key.cmp(&b.key));
        }
        let mut commands = Vec::new();
        let mut rest = &order[..];
        while let Some(first) = rest.first() {
            let (mut count, mut bytes) = (0, 0);
            while let Some(row) = rest.get(count)
                && count < SCRIPT_ROWS
                && (count == 0 || bytes + row.row.len() <= SCRIPT_BYTES)
                && (single || row.key == first.key)
            {
                (count, bytes) = (count + 1, bytes + row.row.len());
            }
            let (script, after) = rest.split_at(count);
            rest = after;
            let names: Vec<_> = script.iter().map(|row| self.cluster.keys.entity(&row.key)).collect();
            let slot = topology.slot(&names[0]);
            let mut command = cmd("EVALSHA");
            command.arg(&*self.cluster.keep).arg(names.len()).arg(&names);
            for row in script {
                command.arg(&field(row.generation)).arg(&row.row[..]);
            }
            commands.push(Command { slot, command });
        }
        self.cluster.send(commands, &call).await.map(|_| ())
    }

    /// The entities of groups, in their order.
    fn asked<'a>(&self, groups: &[ReadGroup<'a>]) -> impl Iterator<Item = Asked<'a>> {
        let mut rows = 0;
        groups.iter().filter(|group| !group.is_empty()).flat_map(move |group| {
            let start = rows;
            rows += group.len();
            group.keys.iter().enumerate().map(move |(at, key)| Asked {
                name: self.cluster.keys.entity(key),
                generations: group.generations,
                first: start + at,
                step: group.keys.len(),
            })
        })
    }

    /// Reads rows and, behind them, a marker of every process that has some.
    async fn read_at_once(&self, topology: &Topology, groups: &[ReadGroup<'_>], call: &Call) -> Result<AtOnce> {
        let mut questions: Vec<_> = topology.peers.iter().map(|_| (Commands::default(), Vec::new())).collect();
        for asked in self.asked(groups) {
            let (commands, of_peer) = &mut questions[topology.peer(topology.slot(&asked.name))];
            commands.begin(2 + asked.generations.len());
            commands.part(b"HMGET");
            commands.part(&asked.name);
            asked.generations.iter().for_each(|generation| commands.part(&field(*generation)));
            of_peer.push(asked);
        }
        let questions = topology.peers.iter().zip(&topology.markers).zip(questions).filter(|(_, (commands, _))| !commands.is_empty());
        let replies = join_all(questions.map(|((peer, marker), (commands, of_peer))| async move {
            let replies = peer.lookups(call).await?.ask(commands, Some(marker.clone()), call).await?;
            Ok::<_, Error>((replies, of_peer))
        }));
        let mut rows = vec![None; groups.iter().map(ReadGroup::len).sum()];
        for answered in replies.await {
            let (Replies { frames, marker }, of_peer) = answered?;
            if matches!(&marker, Some(BytesFrame::Error(refusal)) if refusal.starts_with("MOVED ")) {
                return Ok(AtOnce::Moved);
            }
            if !topology.is_marked_by(marker.and_then(line::bytes).as_deref())? {
                return Ok(AtOnce::Differs);
            }
            for (frame, asked) in frames.into_iter().zip(of_peer) {
                let BytesFrame::Array(found) = frame else { return Ok(AtOnce::Differs) };
                asked.put(found.into_iter().map(line::bytes), &mut rows, call)?;
            }
        }
        Ok(AtOnce::Rows(rows))
    }

    /// The same with every slot followed to where it is now, also while it moves; `None` where a marker is not the topology's.
    async fn read_under(&self, topology: &Topology, groups: &[ReadGroup<'_>], call: &Call) -> Result<Option<Vec<Option<Bytes>>>> {
        let asked: Vec<_> = self.asked(groups).collect();
        let mut commands = Vec::with_capacity(asked.len() + topology.peers.len());
        for Asked { name, generations, .. } in &asked {
            let mut command = cmd("HMGET");
            command.arg(name);
            for generation in *generations {
                command.arg(&field(*generation));
            }
            commands.push(Command { slot: topology.slot(name), command });
        }
        let mut seen = vec![false; topology.peers.len()];
        let marked: Vec<u16> =
            commands.iter().map(|command| command.slot).filter(|slot| !std::mem::replace(&mut seen[topology.peer(*slot)], true)).collect();
        for slot in &marked {
            commands.push(Command { slot: *slot, command: cmd("GET").arg(self.cluster.keys.marker(*slot)).take() });
        }
        let mut replies = self.cluster.send(commands, call).await?;
        for marker in replies.split_off(asked.len()) {
            if !topology.is_marked_by(peer::bytes(marker).as_deref())? {
                return Ok(None);
            }
        }
        let mut rows = vec![None; groups.iter().map(ReadGroup::len).sum()];
        for (reply, asked) in replies.into_iter().zip(asked) {
            let found = reply.into_sequence().unwrap_or_default();
            asked.put(found.into_iter().map(|row| peer::bytes(row).map(Bytes::from)), &mut rows, call)?;
        }
        Ok(Some(rows))
    }

    /// Reads where the topology did not hold, `moved` as to the slot of a marker.
    async fn read_anew(&self, mut topology: Arc<Topology>, moved: bool, groups: &[ReadGroup<'_>], call: &Call) -> Result<Vec<Option<Bytes>>> {
        if moved {
            // This fails where slots move meanwhile. Then the old one will do for this once: whatever has moved is followed from there, too.
            topology = self.cluster.follow(&topology, call).await.unwrap_or(topology);
        }
        if !topology.peers.iter().all(Peer::is_alive) {
            topology = self.cluster.doubt(&topology, call).await?;
        }
        loop {
            match self.read_under(&topology, groups, call).await? {
                Some(rows) => return Ok(rows),
                None => topology = self.cluster.doubt(&topology, call).await?,
            }
        }
    }

    async fn one(&self, key: Vec<u8>, command: ::redis::Cmd, call: &Call) -> Result<Value> {
        let slot = self.cluster.topology(call).await?.slot(&key);
        let replies = self.cluster.send(vec![Command { slot, command }], call).await?;
        Ok(replies.into_iter().next().unwrap_or_default())
    }

    /// The next step of a walk over every entity: some keys, and where to go on.
    async fn step(&self, walk: Option<Walk>, call: &Call) -> Result<(Vec<Vec<u8>>, Option<Walk>)> {
        match self.try_step(walk.clone(), call).await {
            Err(Error::Storage { .. }) => self.try_step(walk, call).await,
            stepped => stepped,
        }
    }

    async fn try_step(&self, walk: Option<Walk>, call: &Call) -> Result<(Vec<Vec<u8>>, Option<Walk>)> {
        let topology = self.cluster.topology(call).await?;
        // A connection that broke since it was used last is made anew.
        let topology = if topology.peers.iter().all(Peer::is_alive) { topology } else { self.cluster.doubt(&topology, call).await? };
        let mut peers: Vec<&Peer> = topology.peers.iter().collect();
        peers.sort_by(|a, b| a.address.cmp(&b.address));
        // A process that is gone is passed over: its slots are another's now.
        let at = walk.as_ref().map_or(0, |walk| peers.partition_point(|peer| peer.address < walk.address));
        let Some(peer) = peers.get(at) else { return Ok((Vec::new(), None)) };
        let cursor = walk.filter(|walk| walk.address == peer.address).map_or(0, |walk| walk.cursor);
        let scan = cmd("SCAN").arg(cursor).arg("MATCH").arg(self.cluster.keys.entities()).arg("COUNT").arg(WALK).take();
        let mut reply = peer.ask(scan, call).await?.into_sequence().unwrap_or_default().into_iter();
        let cursor = peer::text(reply.next().unwrap_or_default()).parse().map_err(|_| call.failed("it gave no cursor"))?;
        let keys = reply.next().and_then(|keys| keys.into_sequence().ok()).unwrap_or_default();
        let keys = keys.into_iter().filter_map(peer::bytes).collect();
        let address = if cursor == 0 { peers.get(at + 1) } else { Some(peer) }.map(|peer| peer.address.clone());
        Ok((keys, address.map(|address| Walk { address, cursor, pending: Vec::new() })))
    }

    /// Sends one command for each key.
    async fn each(&self, keys: &[Vec<u8>], command: impl Fn(&[u8]) -> ::redis::Cmd, call: &Call) -> Result<Vec<Value>> {
        let topology = self.cluster.topology(call).await?;
        let commands = keys.iter().map(|key| Command { slot: topology.slot(key), command: command(key) }).collect();
        self.cluster.send(commands, call).await
    }
}

#[async_trait]
impl OnlineStore for RedisOnlineStore {
    async fn write(&self, rows: &[Write]) -> Result<()> {
        rows.iter().try_for_each(Write::check)?;
        let mut writes = Vec::new();
        for chunk in chunks(rows) {
            writes.push(self.write_chunk(chunk));
        }
        iter(writes).buffer_unordered(2).try_collect().await
    }

    async fn read(&self, groups: &[ReadGroup<'_>]) -> Result<Vec<Option<Bytes>>> {
        let call = Call::new("read", self.config.lookup_timeout_ms);
        let topology = self.cluster.topology(&call).await?;
        let moved = match self.read_at_once(&topology, groups, &call).await {
            Ok(AtOnce::Rows(rows)) => return Ok(rows),
            Err(error @ (Error::Timeout { .. } | Error::Corrupt { .. } | Error::NewerFormat { .. })) => return Err(error),
            Ok(AtOnce::Moved) => true,
            Ok(AtOnce::Differs) | Err(_) => false,
        };
        // Seldom: most lookups need no room for it.
        Box::pin(self.read_anew(topology, moved, groups, &call)).await
    }

    async fn sync(&self) -> Result<()> {
        // What was acknowledged is as durable as it can be; what is left to find out is whether it is all there, and still as durable.
        let call = self.call("sync");
        let topology = self.cluster.topology(&call).await?;
        if !self.cluster.stands(&topology, &call).await {
            self.cluster.doubt(&topology, &call).await?;
        }
        Ok(())
    }

    async fn published_to(&self, generation: Generation) -> Result<Option<Bytes>> {
        let call = self.call("read");
        let key = self.cluster.keys.published(self.cluster.topology(&call).await?.incarnation);
        let found = self.one(key.clone(), cmd("HGET").arg(key).arg(&field(generation)).take(), &call).await?;
        Ok(peer::bytes(found).map(Bytes::from))
    }

    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> Result<()> {
        check_commit(commit)?;
        let call = self.call("advance");
        if self.cluster.topology(&call).await?.incarnation != incarnation {
            return Err(Error::Lost);
        }
        // Should the store be another incarnation by the time that this arrives, nobody reads it.
        let key = self.cluster.keys.published(incarnation);
        self.one(key.clone(), cmd("HSET").arg(key).arg(&field(generation)).arg(commit).take(), &call).await.map(|_| ())
    }

    async fn incarnation(&self) -> Result<Incarnation> {
        Ok(self.cluster.topology(&self.call("open")).await?.incarnation)
    }

    async fn drop_generation(&self, generation: Generation) -> Result<()> {
        let doing = "drop a generation";
        let call = self.call(doing);
        let key = self.cluster.keys.published(self.cluster.topology(&call).await?.incarnation);
        self.one(key.clone(), cmd("HDEL").arg(key).arg(&field(generation)).take(), &call).await?;
        let mut walk = None;
        loop {
            let call = self.call(doing);
            let (keys, next) = self.step(walk, &call).await?;
            self.each(&keys, |key| cmd("HDEL").arg(key).arg(&field(generation)).take(), &call).await?;
            match next {
                Some(next) => walk = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page> {
        let (call, limit) = (self.call("scan"), limit.clamp(1, WALK));
        let walk = after.map(|after| Walk::parse(&after.0)).transpose()?;
        let (mut keys, mut next) = match walk {
            Some(walk) if !walk.pending.is_empty() => (walk.pending.clone(), Some(Walk { pending: Vec::new(), ..walk })),
            walk => self.step(walk, &call).await?,
        };
        let found = self.each(&keys, |key| cmd("HGET").arg(key).arg(&field(generation)).take(), &call).await?;
        let mut rows = Vec::new();
        let mut found = keys.drain(..).zip(found).filter_map(|(key, row)| Some((key, peer::bytes(row)?)));
        for (key, row) in found.by_ref().take(limit) {
            rows.push((self.cluster.keys.entity_of(&key)?, Bytes::from(row)));
        }
        let pending: Vec<_> = found.map(|(key, _)| key).collect();
        if !pending.is_empty() {
            // Behind the last process there is none whose address is greater.
            let end = || Walk { address: char::MAX.to_string(), cursor: 0, pending: Vec::new() };
            next = Some(Walk { pending, ..next.unwrap_or_else(end) });
        }
        Ok(Page { rows, next: next.map(|walk| Cursor(walk.to_bytes())) })
    }
}

impl Walk {
    fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::new();
        bytes.put_u64(self.cursor);
        for part in std::iter::once(self.address.as_bytes()).chain(self.pending.iter().map(Vec::as_slice)) {
            bytes.put_u32(part.len() as u32);
            bytes.put_slice(part);
        }
        bytes.into()
    }

    fn parse(mut bytes: &[u8]) -> Result<Self> {
        let corrupt = || Error::Corrupt { what: "a cursor of the online store in Redis", reason: "it was not given by it".to_owned() };
        let cursor = bytes.try_get_u64().map_err(|_| corrupt())?;
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            let length = bytes.try_get_u32().map_err(|_| corrupt())? as usize;
            let (part, rest) = bytes.split_at_checked(length).ok_or_else(corrupt)?;
            parts.push(part.to_vec());
            bytes = rest;
        }
        let pending = parts.split_off(parts.len().min(1));
        let address = parts.pop().and_then(|address| String::from_utf8(address).ok()).ok_or_else(corrupt)?;
        Ok(Self { address, cursor, pending })
    }
}

fn chunks(rows: &[Write]) -> Vec<&[Write]> {
    Write::chunks(rows, CHUNK_ROWS, CHUNK_BYTES)
}

#[cfg(test)]
mod tests;

//! Which process holds which slot, and the way of commands there: a single Redis is a cluster of one process that holds one slot.
//!
//! A *topology* never changes; whoever finds that it no longer fits (a connection died, a slot moved, a marker is not what it was) asks for the next one,
//! and one caller at a time makes it: it connects, reads the slots, has every slot's marker verified ([`super::claim`]) and only then puts it in place.
//! So no command ever goes to a slot of a process that was not verified since it started.
//!
//! Commands go out grouped by process, one pipeline for each. A command that is refused because its slot moved (`MOVED`) is sent again under the next
//! topology; one whose slot is moving (`ASK`) is sent once to where its key is now; a script that a process forgot (`NOSCRIPT`) is loaded again. A
//! connection that broke is made anew and its commands are sent again: all of them may be repeated.

use std::sync::{Arc, PoisonError, RwLock};

use ::redis::{Cmd, Pipeline, Value, cmd};
use anabranch_core::Ids;
use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::Mutex;

use super::keys::{Keys, Marker, SLOTS, slot_of};
use super::line::Commands;
use super::peer::{Peer, bytes, refused, text};
use crate::call::Call;
use crate::config::RedisUrlParts;
use crate::{Error, Incarnation, Result};

/// How often commands are sent again before the caller is told.
const ROUNDS: usize = 6;
const KEEP: &str = include_str!("keep.lua");

/// A command, and the slot of its keys.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) slot: u16,
    pub(super) command: Cmd,
}

/// Who holds what, verified.
#[derive(Debug)]
pub(super) struct Topology {
    version: u64,
    pub(super) peers: Vec<Peer>,
    /// The peer of each slot; one slot where it is no cluster.
    pub(super) slots: Vec<u16>,
    /// For each peer the question for the marker of one of its slots, as its lookups carry it.
    pub(super) markers: Vec<Bytes>,
    pub(super) incarnation: Incarnation,
}

impl Topology {
    /// The slot of a key; always 0 where it is no cluster.
    pub(super) fn slot(&self, key: &[u8]) -> u16 {
        if self.slots.len() == 1 { 0 } else { slot_of(key) }
    }

    pub(super) fn peer(&self, slot: u16) -> usize {
        usize::from(self.slots[usize::from(slot)])
    }

    /// Whether what was found in a marker's place is a marker of what this topology was verified to hold.
    ///
    /// # Errors
    /// Where it is no marker, or one of a newer format.
    pub(super) fn is_marked_by(&self, marker: Option<&[u8]>) -> Result<bool> {
        Ok(marker.map(Marker::parse).transpose()?.is_some_and(|marker| marker.incarnation == self.incarnation))
    }

    /// Sends one command without a second try.
    pub(super) async fn ask(&self, key: &[u8], command: Cmd, call: &Call) -> Result<Value> {
        self.peers[self.peer(self.slot(key))].ask(command, call).await
    }
}

/// Commands for one process.
struct Batch {
    peer: usize,
    places: Vec<usize>,
    slots: Vec<u16>,
    pipeline: Pipeline,
}

/// What is to be done about a refusal.
enum Refusal {
    Moved(Option<String>),
    Asked(String),
    Forgotten,
    Final(Error),
}

/// The processes behind a URL.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) url: RedisUrlParts,
    pub(super) keys: Keys,
    pub(super) ids: Arc<dyn Ids>,
    /// The name under which Redis knows the script that keeps rows.
    pub(super) keep: String,
    current: RwLock<Option<Arc<Topology>>>,
    /// Held by whoever makes the next topology.
    turn: Mutex<()>,
}

impl Cluster {
    pub(super) async fn open(url: RedisUrlParts, keys: Keys, ids: Arc<dyn Ids>, call: &Call) -> Result<Self> {
        let mut cluster = Self { url, keys, ids, keep: String::new(), current: RwLock::default(), turn: Mutex::default() };
        let topology = cluster.topology(call).await?;
        cluster.keep = text(topology.peers[0].ask(load(), call).await?);
        Ok(cluster)
    }

    fn current(&self) -> Option<Arc<Topology>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The topology as it was verified last, or the first one.
    pub(super) async fn topology(&self, call: &Call) -> Result<Arc<Topology>> {
        match self.current() {
            Some(topology) => Ok(topology),
            // Once: every call would have to make room for all that it takes.
            None => Box::pin(self.next(None, None, call)).await,
        }
    }

    /// The topology after `seen`, of which something was found to be no longer so. `doubted` markers are all read again.
    pub(super) async fn doubt(&self, seen: &Topology, call: &Call) -> Result<Arc<Topology>> {
        Box::pin(self.next_after(Some(seen.version), None, true, call)).await
    }

    /// The topology after `seen`, of which a slot was found to be another's.
    pub(super) async fn follow(&self, seen: &Topology, call: &Call) -> Result<Arc<Topology>> {
        Box::pin(self.next(Some(seen.version), None, call)).await
    }

    async fn next(&self, seen: Option<u64>, prefer: Option<String>, call: &Call) -> Result<Arc<Topology>> {
        self.next_after(seen, prefer, false, call).await
    }

    async fn next_after(&self, seen: Option<u64>, prefer: Option<String>, doubted: bool, call: &Call) -> Result<Arc<Topology>> {
        let _turn = call.within(self.turn.lock()).await?;
        let before = self.current();
        if let Some(before) = before.as_ref().filter(|before| Some(before.version) != seen) {
            return Ok(Arc::clone(before));
        }
        let mut next = self.discover(before.as_deref(), prefer, call).await?;
        next.version = before.as_ref().map_or(0, |before| before.version) + 1;
        self.claim(&mut next, before.as_deref().filter(|_| !doubted), call).await?;
        let next = Arc::new(next);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&next));
        Ok(next)
    }

    /// Connects to every process; nothing is verified yet.
    async fn discover(&self, before: Option<&Topology>, prefer: Option<String>, call: &Call) -> Result<Topology> {
        let mut addresses: Vec<_> = prefer.into_iter().collect();
        addresses.extend(before.into_iter().flat_map(|before| &before.peers).map(|peer| peer.address.clone()));
        addresses.extend_from_slice(&self.url.hosts);
        let mut failure = None;
        for address in addresses {
            match self.discover_from(&address, before, call).await {
                Ok(topology) => return Ok(topology),
                // One process that is away must not hide what the others know; the first to fail is the likeliest to tell why.
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| call.failed("no address is known")))
    }

    async fn discover_from(&self, address: &str, before: Option<&Topology>, call: &Call) -> Result<Topology> {
        let old = |address: &str| before.and_then(|before| before.peers.iter().find(|peer| peer.address == address));
        let first = Peer::connect(&self.url, address, old(address), call).await?;
        let new = |peers: Vec<_>, slots: Vec<u16>| {
            // Slots that move are mostly a process's first.
            let slot = |peer| slots.iter().rposition(|of| usize::from(*of) == peer).unwrap_or_default();
            let marker = |peer| Commands::command(&[b"GET", &self.keys.marker(slot(peer) as u16)]).into_bytes();
            let markers = (0..peers.len()).map(marker).collect();
            Topology { version: 0, peers, slots, markers, incarnation: Incarnation(0) }
        };
        if !first.identity.cluster {
            if self.url.hosts.len() > 1 {
                let reason = format!("it names {} hosts, and Redis at {address} is no node of a cluster: name one", self.url.hosts.len());
                return Err(Error::Config { setting: "redis.url", reason });
            }
            first.ask(load(), call).await?;
            return Ok(new(vec![first], vec![0]));
        }
        let (slots, addresses) = owners(first.ask(cmd("CLUSTER").arg("SLOTS").take(), call).await?, address, call)?;
        let connect = addresses.iter().map(async |address| {
            let peer = Peer::connect(&self.url, address, old(address), call).await?;
            peer.ask(load(), call).await?;
            Ok(peer)
        });
        Ok(new(join_all(connect).await.into_iter().collect::<Result<_>>()?, slots))
    }

    /// Sends commands to whoever holds their slots; the replies come in the order of the commands.
    pub(super) async fn send(&self, commands: Vec<Command>, call: &Call) -> Result<Vec<Value>> {
        let mut replies = vec![Value::Nil; commands.len()];
        let mut left: Vec<_> = commands.into_iter().enumerate().collect();
        let mut topology = self.topology(call).await?;
        for round in 1..=ROUNDS {
            let batches = batches(&topology, left);
            let sent = join_all(batches.iter().map(|batch| topology.peers[batch.peer].send(&batch.pipeline, call))).await;
            let (mut again, mut moved, mut stale) = (Vec::new(), None, false);
            for (batch, sent) in batches.into_iter().zip(sent) {
                let sent = match sent {
                    Ok(sent) => sent,
                    Err(error @ Error::Timeout { .. }) => return Err(error),
                    Err(error) if round == ROUNDS => return Err(error),
                    Err(_) => {
                        stale = true;
                        again.extend(batch.all());
                        continue;
                    }
                };
                let mut refusals = Vec::new();
                for (i, reply) in sent.into_iter().enumerate() {
                    match reply {
                        Value::ServerError(_) => refusals.push((i, reply)),
                        reply => replies[batch.places[i]] = reply,
                    }
                }
                for (i, refusal) in refusals {
                    let (place, command) = batch.command(i);
                    match understand(refusal, call) {
                        Refusal::Final(error) => return Err(error),
                        Refusal::Moved(to) => {
                            (stale, moved) = (true, to);
                            again.push((place, command));
                        }
                        Refusal::Asked(address) => replies[place] = self.ask_other(&topology, &address, command.command, call).await?,
                        Refusal::Forgotten => {
                            topology.peers[batch.peer].ask(load(), call).await?;
                            again.push((place, command));
                        }
                    }
                }
            }
            if again.is_empty() {
                return Ok(replies);
            }
            left = again;
            if stale {
                topology = self.next(Some(topology.version), moved, call).await?;
            }
        }
        Err(call.failed("its slots are moving faster than they can be followed"))
    }

    /// Sends a command to the process that a slot is moving to, which may hold no slot yet.
    async fn ask_other(&self, topology: &Topology, address: &str, command: Cmd, call: &Call) -> Result<Value> {
        let mut pipeline = Pipeline::with_capacity(3);
        pipeline.add_command(load()).cmd("ASKING").add_command(command);
        let known = topology.peers.iter().find(|peer| peer.address == address);
        let replies = match known {
            Some(peer) => peer.send(&pipeline, call).await?,
            None => Peer::connect(&self.url, address, None, call).await?.send(&pipeline, call).await?,
        };
        let reply = replies.into_iter().next_back().unwrap_or_default();
        reply.extract_error().map_err(|error| refused(error, call))
    }
}

impl Batch {
    fn command(&self, i: usize) -> (usize, Command) {
        let command = self.pipeline.cmd_iter().nth(i).cloned().unwrap_or_default();
        (self.places[i], Command { slot: self.slots[i], command })
    }

    fn all(self) -> impl Iterator<Item = (usize, Command)> {
        let commands: Vec<_> = self.pipeline.cmd_iter().cloned().collect();
        let places = self.places.into_iter().zip(self.slots);
        places.zip(commands).map(|((place, slot), command)| (place, Command { slot, command }))
    }
}

/// Groups commands by process, in the order in which they came.
fn batches(topology: &Topology, commands: Vec<(usize, Command)>) -> Vec<Batch> {
    let count = if topology.peers.len() == 1 { commands.len() } else { 0 };
    let mut batches: Vec<_> = (0..topology.peers.len())
        .map(|peer| Batch { peer, places: Vec::with_capacity(count), slots: Vec::with_capacity(count), pipeline: Pipeline::with_capacity(count) })
        .collect();
    for (place, Command { slot, command }) in commands {
        let batch = &mut batches[topology.peer(slot)];
        batch.places.push(place);
        batch.slots.push(slot);
        batch.pipeline.add_command(command);
    }
    batches.retain(|batch| !batch.places.is_empty());
    batches
}

fn understand(refusal: Value, call: &Call) -> Refusal {
    let Err(error) = refusal.extract_error() else { return Refusal::Final(call.failed("it answered what cannot be understood")) };
    let node = error.redirect_node().map(|(address, _)| address.to_owned());
    match (error.code(), node) {
        (Some("MOVED"), node) => Refusal::Moved(node),
        (Some("ASK"), Some(node)) => Refusal::Asked(node),
        (Some("READONLY"), _) => Refusal::Moved(None),
        (Some("NOSCRIPT"), _) => Refusal::Forgotten,
        _ => Refusal::Final(refused(error, call)),
    }
}

/// The peer of each slot, and the peers' addresses, from the reply to `CLUSTER SLOTS`.
fn owners(reply: Value, asked: &str, call: &Call) -> Result<(Vec<u16>, Vec<String>)> {
    let (mut slots, mut addresses) = (vec![u16::MAX; usize::from(SLOTS)], Vec::<String>::new());
    for range in reply.as_sequence().unwrap_or_default() {
        let [Value::Int(first), Value::Int(last), master, ..] = range.as_sequence().unwrap_or_default() else { continue };
        let [host, Value::Int(port), ..] = master.as_sequence().unwrap_or_default() else { continue };
        let host = bytes(host.clone()).filter(|host| !host.is_empty()).map(|host| String::from_utf8_lossy(&host).into_owned());
        // A node that does not know its own address means the one that it was asked under.
        let host = host.unwrap_or_else(|| asked.rsplit_once(':').map_or(asked, |(host, _)| host).to_owned());
        let address = format!("{host}:{port}");
        let peer = addresses.iter().position(|known| *known == address).unwrap_or_else(|| {
            addresses.push(address);
            addresses.len() - 1
        });
        let (first, last) = ((*first).clamp(0, 16_383) as usize, (*last).clamp(0, 16_383) as usize);
        slots[first..=last.max(first)].fill(peer as u16);
    }
    match slots.iter().position(|peer| *peer == u16::MAX) {
        Some(slot) => Err(call.failed(format!("no node of the cluster holds slot {slot}"))),
        None => Ok((slots, addresses)),
    }
}

fn load() -> Cmd {
    cmd("SCRIPT").arg("LOAD").arg(KEEP).take()
}

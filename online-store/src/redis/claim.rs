//! What names the content, and how a loss is found.
//!
//! The *root* names the incarnation of the whole store; every slot has a *marker* that lies in it, moves with it and is lost with it. A slot's rows are
//! those of the incarnation if its marker says so and the process that holds it
//!
//! - is the one that the marker names, or
//! - promised, when it was looked at last, and promises again to have every write on disk before acknowledging it (`appendonly yes`,
//!   `appendfsync always`, `no-appendfsync-on-rewrite no`), and did not take over from another, whose last writes it may lack; or
//! - got the slot from a process that is still there.
//!
//! Otherwise something was lost, or may have been: a Redis came back empty, from a snapshot, or from a log that was not synced. Then the store becomes
//! another incarnation, which answers for no commit. The rows that are left stay: each of them was written, and no refill makes it wrong.
//!
//! ```text
//!             ┌── none ──▶ root = fresh, opening ──▶ markers of every slot ──▶ root = fresh, open ──┐
//! read root ──┤                     ▲                                                               ├──▶ verified
//!             └── open ──▶ read markers of slots not yet verified ── all good ──────────────────────┘
//!                                   │                                             (names the processes anew)
//!                                   └── one is not: root = another, opening
//! ```
//!
//! **Failure points.** Every step sets a key only where it holds what was read, or sets markers while the root says `opening`, when nobody answers for a
//! commit. Whoever finds `opening`, after a crash or beside another server, goes on from there. Two that open at once agree on the root that came first.

use ::redis::{Pipeline, cmd};
use futures::future::join_all;

use super::cluster::{Cluster, Topology};
use super::keys::{Marker, Root};
use super::peer::{Peer, bytes};
use crate::call::Call;
use crate::{Incarnation, Result};

const SWAP: &str = include_str!("swap.lua");
/// How often the root may change under the hands of whoever verifies.
const ROUNDS: usize = 16;

/// What was found of a slot.
enum Found {
    Good,
    /// Good, but its marker names another process, or another promise.
    Renamed(Vec<u8>),
    Lost,
}

impl Cluster {
    /// Verifies every slot of a topology, but those that `before` has of the same process, and names its incarnation.
    pub(super) async fn claim(&self, topology: &mut Topology, before: Option<&Topology>, call: &Call) -> Result<()> {
        for _ in 0..ROUNDS {
            let root = topology.ask(&self.keys.root(), cmd("GET").arg(self.keys.root()).take(), call).await?;
            let Some(found) = bytes(root) else {
                self.swap_root(topology, &[], Root { incarnation: Incarnation(self.ids.random()), open: false }, call).await?;
                continue;
            };
            let root = Root::parse(&found)?;
            if !root.open {
                self.mark(topology, root.incarnation, call).await?;
                self.swap_root(topology, &found, Root { open: true, ..root }, call).await?;
                continue;
            }
            if self.verify(topology, root.incarnation, before.filter(|before| before.incarnation == root.incarnation), call).await? {
                topology.incarnation = root.incarnation;
                return Ok(());
            }
            let another = Root { incarnation: Incarnation(self.ids.random()), open: false };
            if self.swap_root(topology, &found, another, call).await? {
                let published = self.keys.published(root.incarnation);
                topology.ask(&published, cmd("UNLINK").arg(&published).take(), call).await?;
            }
        }
        Err(call.failed("what it holds is lost again and again, or other servers claim it"))
    }

    /// Whether every process is what it was, with the same promise, and still has one of its markers: all of them go where one goes.
    pub(super) async fn stands(&self, topology: &Topology, call: &Call) -> bool {
        let looking = topology.peers.iter().enumerate().map(async |(i, peer)| {
            let Some(key) = slots_of(topology, i).next().map(|slot| self.keys.marker(slot)) else { return true };
            let expected = marker(peer, topology.incarnation).to_bytes();
            peer.identify(call).await.is_ok_and(|identity| identity == peer.identity)
                && peer.ask(cmd("GET").arg(key).take(), call).await.is_ok_and(|found| bytes(found) == Some(expected))
        });
        join_all(looking).await.into_iter().all(|stands| stands)
    }

    async fn swap_root(&self, topology: &Topology, from: &[u8], to: Root, call: &Call) -> Result<bool> {
        let key = self.keys.root();
        let swap = cmd("EVAL").arg(SWAP).arg(1).arg(&key).arg(from).arg(to.to_bytes()).take();
        Ok(topology.ask(&key, swap, call).await? == ::redis::Value::Int(1))
    }

    /// Gives every slot a marker.
    async fn mark(&self, topology: &Topology, incarnation: Incarnation, call: &Call) -> Result<()> {
        let marking = topology.peers.iter().enumerate().map(async |(i, peer)| {
            let mut pipeline = Pipeline::new();
            let marker = marker(peer, incarnation).to_bytes();
            for slot in slots_of(topology, i) {
                pipeline.cmd("SET").arg(self.keys.marker(slot)).arg(&marker[..]);
            }
            all(peer, &pipeline, call).await.map(|_| ())
        });
        join_all(marking).await.into_iter().collect()
    }

    /// Whether every slot that was not verified before is of the incarnation. Markers of other processes then name those that hold their slots now.
    async fn verify(&self, topology: &Topology, incarnation: Incarnation, before: Option<&Topology>, call: &Call) -> Result<bool> {
        let verifying = topology.peers.iter().enumerate().map(async |(i, peer)| {
            let known = |slot: &u16| before.is_some_and(|before| before.peers[before.peer(*slot)].identity == peer.identity);
            let slots: Vec<_> = slots_of(topology, i).filter(|slot| !known(slot)).collect();
            let mut pipeline = Pipeline::with_capacity(slots.len());
            for slot in &slots {
                pipeline.cmd("GET").arg(self.keys.marker(*slot));
            }
            let (mut rename, marker) = (Pipeline::new(), marker(peer, incarnation).to_bytes());
            for (slot, found) in slots.iter().zip(all(peer, &pipeline, call).await?) {
                match judge(bytes(found), incarnation, peer, topology)? {
                    Found::Good => {}
                    Found::Renamed(found) => {
                        rename.cmd("EVAL").arg(SWAP).arg(1).arg(self.keys.marker(*slot)).arg(found).arg(&marker[..]);
                    }
                    Found::Lost => return Ok(false),
                }
            }
            all(peer, &rename, call).await.map(|_| true)
        });
        let verified: Vec<bool> = join_all(verifying).await.into_iter().collect::<Result<_>>()?;
        Ok(verified.into_iter().all(|good| good))
    }
}

fn judge(found: Option<Vec<u8>>, incarnation: Incarnation, peer: &Peer, topology: &Topology) -> Result<Found> {
    let Some(bytes) = found else { return Ok(Found::Lost) };
    let found = Marker::parse(&bytes)?;
    if found.incarnation != incarnation {
        return Ok(Found::Lost);
    }
    if found == marker(peer, incarnation) {
        return Ok(Found::Good);
    }
    let same = found.run == peer.identity.run;
    let moved = topology.peers.iter().any(|peer| peer.identity.run == found.run);
    let kept = found.durable && peer.identity.durable && !peer.identity.promoted;
    Ok(if same || moved || kept { Found::Renamed(bytes) } else { Found::Lost })
}

fn marker(peer: &Peer, incarnation: Incarnation) -> Marker {
    Marker { incarnation, durable: peer.identity.durable, run: peer.identity.run.clone() }
}

fn slots_of(topology: &Topology, peer: usize) -> impl Iterator<Item = u16> {
    topology.slots.iter().enumerate().filter(move |(_, of)| usize::from(**of) == peer).map(|(slot, _)| slot as u16)
}

/// Sends commands of which none may be refused.
async fn all(peer: &Peer, pipeline: &Pipeline, call: &Call) -> Result<Vec<::redis::Value>> {
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    let replies = peer.send(pipeline, call).await?;
    replies.into_iter().map(|reply| reply.extract_error().map_err(|error| super::peer::refused(error, call))).collect()
}

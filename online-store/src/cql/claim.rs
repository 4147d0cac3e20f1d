//! How a link learns which incarnation the store is, and how it becomes another one.
//!
//! The root names the incarnation; a marker of each node says which start of it was seen last, and whether its commit log was synced with every write.
//! Both are replaced by lightweight transactions, from what was read: of several servers that claim at once one wins each step, and the others begin anew.
//!
//! - No root: the keyspace is new or came back empty, or the table was truncated. A root with a new incarnation is made.
//! - A node began anew since its marker was written, which says that it synced its log periodically, and a row lies on fewer than three nodes: its last
//!   writes may be lost. The root becomes that of another incarnation; no generation answers for a commit then, for commits lie under the incarnation's
//!   name.
//! - A node began anew otherwise, or is new: its marker is replaced. Rows that lie on three nodes or more are on most of them when they are acknowledged;
//!   what one of them loses the others still have, and giving it back is the cluster's.
//!
//! A marker under another incarnation than the root's counts for nothing: whoever made the root had seen its nodes before. A node that does not answer is
//! passed over: its marker stays, and is judged when it is back.

use std::collections::HashMap;
use std::time::Duration;

use anabranch_core::Ids;

use super::keys::{Marker, NODE, ROOT, Root, published};
use super::link::{Attempt, Link};
use super::node;
use crate::Incarnation;
use crate::call::Call;

/// How often the root may change under the hands of whoever claims.
const ROUNDS: usize = 16;

impl Link {
    /// Verifies what the cluster holds and names its incarnation.
    pub(super) async fn claim(&mut self, ids: &dyn Ids, limit: Duration, call: &Call) -> Attempt<()> {
        self.nodes = node::identities(&self.session, limit).await;
        for _ in 0..ROUNDS {
            let Some(root) = self.root(call).await? else {
                self.swap(ROOT, "", None, Some(&Root(Incarnation(ids.random())).to_bytes()), call).await?;
                continue;
            };
            let markers = self.markers(call).await?;
            let mut replaced = Vec::new();
            let mut lost = false;
            for (id, identity) in &self.nodes {
                let marker = Marker { incarnation: root.0, durable: identity.durable, start: identity.start.clone() };
                let found = markers.get(id);
                if found.is_some_and(|found| found[..] == marker.to_bytes()) {
                    continue;
                }
                let before = found.map(|found| Marker::parse(found)).transpose()?;
                lost |= before.is_some_and(|before| is_lost(&before, &marker, self.replicated));
                replaced.push((id, found, marker.to_bytes()));
            }
            if lost {
                let another = Root(Incarnation(ids.random()));
                if self.swap(ROOT, "", Some(&root.to_bytes()), Some(&another.to_bytes()), call).await? {
                    self.forget(&published(root.0), call).await?;
                }
                continue;
            }
            let mut won = true;
            for (id, found, marker) in replaced {
                won &= self.swap(NODE, id, found.map(|found| &found[..]), Some(&marker), call).await?;
            }
            if won {
                self.incarnation = root.0;
                return Ok(());
            }
        }
        Err(call.failed("what it holds is lost again and again, or other servers claim it").into())
    }

    /// Whether the root is the one that was verified.
    pub(super) async fn has_its_root(&self, call: &Call) -> Attempt<bool> {
        Ok(self.root(call).await?.is_some_and(|root| root.0 == self.incarnation))
    }

    /// Whether the root and every node that answers are what was verified. A node that does not answer may be away; it is judged when it is back.
    pub(super) async fn stands(&self, limit: Duration, call: &Call) -> Attempt<bool> {
        Ok(self.has_its_root(call).await? && self.knows(&node::starts(&self.session, limit).await))
    }

    fn knows(&self, starts: &HashMap<String, String>) -> bool {
        starts.iter().all(|(id, start)| self.nodes.get(id).is_some_and(|node| node.start == *start))
    }

    /// Whether what nodes hold after a start of theirs is not relied on.
    pub(super) fn may_lose(&self) -> bool {
        !self.replicated && self.nodes.values().any(|node| !node.durable)
    }
}

fn is_lost(before: &Marker, now: &Marker, replicated: bool) -> bool {
    before.incarnation == now.incarnation && before.start != now.start && !before.durable && !replicated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_began_anew_without_a_synced_log_and_without_enough_others_lost_something() {
        let marker = |incarnation, durable, start: &str| Marker { incarnation: Incarnation(incarnation), durable, start: start.to_owned() };
        let now = marker(1, true, "2");
        assert!(is_lost(&marker(1, false, "1"), &now, false));
        assert!(!is_lost(&marker(1, false, "1"), &now, true));
        assert!(!is_lost(&marker(1, true, "1"), &now, false));
        assert!(!is_lost(&marker(1, false, "2"), &now, false));
        assert!(!is_lost(&marker(2, false, "1"), &now, false));
    }
}

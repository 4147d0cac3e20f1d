//! What merges, reverts and resets do to streams.
//!
//! **Offsets.** The key of an offset names the branch that consumes the source. In a merge
//!
//! - the destination's own offsets stay: what it consumed is decided by its own commits alone;
//! - the offsets of other branches come along, the further one of two: the merge commit may become the head of such a branch (by a fast-forward), which
//!   must find there how far it is, or it would take its rows in again. Nobody else reads them, so they are not the destination's;
//! - two branches that both consumed one source since the base conflict, because their rows are the same rows.
//!
//! Reverts and cherry-picks touch no offset: rows that are taken back are taken back on purpose, and are not consumed again.

use anabranch_versioning::{self as versioning, KeyKind, Operation, Resolution, Resolver, Sides, Triple};
use async_trait::async_trait;

use crate::offset::{Offset, OffsetKey};

/// Decides merges of stream positions.
#[derive(Debug, Clone, Copy, Default)]
pub struct OffsetResolver;

#[async_trait]
impl Resolver for OffsetResolver {
    fn kinds(&self) -> &[KeyKind] {
        &[KeyKind::Offset]
    }

    async fn resolve(&self, operation: Operation, changes: &[Triple], sides: &Sides<'_>) -> versioning::Result<Resolution> {
        let [change] = changes else { return Ok(Resolution::Ours) };
        let Ok(key) = OffsetKey::from_key(&change.key) else { return Ok(Resolution::Conflict("it is the key of no offset".to_owned())) };
        if operation != Operation::Merge || key.branch == sides.into {
            return Ok(Resolution::Ours);
        }
        let Ok(own) = (OffsetKey { branch: sides.into, ..key.clone() }).to_key() else { return Ok(Resolution::Theirs) };
        if sides.ours.get(&own).await? != sides.base.get(&own).await? {
            return Ok(Resolution::Conflict(format!("both branches consumed source {} of pipeline {:?}", key.source, key.pipeline)));
        }
        let next = |bytes: &Option<bytes::Bytes>| bytes.as_ref().and_then(|bytes| Offset::from_bytes(bytes).ok()).map(|offset| offset.next);
        let further = !change.changed_by_ours() || next(&change.theirs) > next(&change.ours);
        Ok(if further { Resolution::Theirs } else { Resolution::Ours })
    }
}

//! How the committers of several servers take turns on one branch.
//!
//! A committer holds the branch's lease ([`LeaseState`](crate::LeaseState), one row of the metadata database) while it commits. Leases are for peace, not for
//! safety: a head moves by compare-and-set whoever holds what, so that no update can be lost. What the lease adds is that a group is not prepared in vain,
//! and its [`Fence`] that a holder of yesterday, paused and woken, publishes nothing, even where the head has come back to where it was.
//!
//! States of a committer, and what moves it:
//!
//! | state | on | does | next |
//! | -- | -- | -- | -- |
//! | apart | a job | takes the lease, or joins those waiting | holding, waiting |
//! | waiting | the row says that the lease is ours | starts the heart | holding |
//! | waiting | the row stood still for `ttl` by our own monotonic clock | takes it over, naming the token and beat that stood still | holding, waiting |
//! | holding | a group | publishes under the fence, which renews the lease | holding |
//! | holding | a publication that the fence refused | reads the row | holding, apart |
//! | holding | [`SLICE`] is over and somebody waits | releases: who waits first has it at once | apart |
//! | holding | no job for [`LINGER`] | releases | apart |
//!
//! Those waiting are served in the order in which they came, each for about a slice, so no server starves. Jobs go on queueing meanwhile, and the group that
//! is committed in the end takes what has come. No wall clock is read, so that one that jumps breaks nothing.
//!
//! What a crash, a kill or a pause leaves:
//!
//! | when | left behind | costs | tested by (`tests/leases.rs`) |
//! | -- | -- | -- | -- |
//! | waiting | a name among those waiting | `ttl` once, when its turn comes | `a_server_that_died_waiting_is_passed_over` |
//! | holding, between groups or before the transaction | a lease whose beat stands still | `ttl` | `a_killed_holder_costs_the_ttl_and_loses_nothing_acknowledged` |
//! | holding, transaction made, nobody told | as above; the commit is made | `ttl` | as above |
//! | holding, paused, then publishing | nothing: the token is no longer the current one | an attempt | `a_paused_holder_publishes_nothing_when_it_wakes` |
//! | releasing, the answer lost | a lease that is free or another's already | nothing | `a_release_whose_answer_is_lost_costs_nothing` |
//!
//! The metadata database being away fails the jobs under way as unavailable; the next job begins anew.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::{BranchId, Ids};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::metadata::branch_lease;
use crate::{Fence, MetadataStore, Result};

/// How long a committer holds on while others wait and it has jobs.
const SLICE: Duration = Duration::from_millis(50);
/// How long it holds on without jobs.
pub(super) const LINGER: Duration = Duration::from_millis(25);
/// How often who waits looks, at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));
/// Beats in a `ttl`: one or two may be late.
const BEATS: u32 = 4;

/// How a committer takes turns with those of other servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseOptions {
    /// What this server is called in the database. A random part is added, so that no two instances share a name.
    pub holder: String,
    /// How long a holder may show no life before another takes over: what a killed server costs.
    pub ttl: Duration,
}

impl LeaseOptions {
    /// Three seconds.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(3);

    /// With the random part.
    pub(super) fn of_this_instance(mut self, ids: &dyn Ids) -> Self {
        let label: String = self.holder.chars().filter(|c| !c.is_control()).collect();
        self.holder = format!("{label}/{:032x}", ids.random());
        self
    }
}

/// One committer's turns.
#[derive(Debug)]
pub(super) struct Turns {
    metadata: Arc<dyn MetadataStore>,
    options: LeaseOptions,
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    branch: BranchId,
    fence: Fence,
    since: Instant,
    heart: Heart,
}

/// Moves the beat until it is dropped.
#[derive(Debug)]
struct Heart(JoinHandle<()>);

impl Drop for Heart {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Turns {
    pub(super) fn new(metadata: Arc<dyn MetadataStore>, options: LeaseOptions) -> Self {
        Self { metadata, options, held: None }
    }

    pub(super) fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// What a publication must pass.
    pub(super) fn fence(&self) -> Option<Fence> {
        self.held.as_ref().map(|held| held.fence.clone())
    }

    /// Waits for the branch's lease.
    pub(super) async fn take(&mut self, branch: BranchId) -> Result<()> {
        if self.held.as_ref().is_some_and(|held| held.branch == branch && !held.heart.0.is_finished()) {
            return Ok(());
        }
        self.release().await;
        let lease = branch_lease(branch);
        let (metadata, holder) = (&self.metadata, &self.options.holder);
        let mut state = metadata.take_lease(&lease, holder, None).await?;
        let (mut seen, mut since, mut look) = ((state.token, state.beat), Instant::now(), LOOK.0);
        while !state.is_held_by(holder) {
            sleep(look).await;
            look = (look * 2).min(LOOK.1);
            state = metadata.lease(&lease).await?;
            if (state.token, state.beat) != seen {
                (seen, since) = ((state.token, state.beat), Instant::now());
            } else if since.elapsed() >= self.options.ttl {
                tracing::warn!(lease, dead = state.holder, "took over the lease of a server that shows no life");
                state = metadata.take_lease(&lease, holder, Some(seen)).await?;
            }
            // Free, or no longer known to wait: the row was removed with its branch.
            if !state.is_held_by(holder) && !state.waiting.contains(holder) {
                state = metadata.take_lease(&lease, holder, None).await?;
            }
        }
        let fence = Fence { lease, token: state.token };
        let heart = Heart(tokio::spawn(beat(self.metadata.clone(), fence.clone(), self.options.ttl / BEATS)));
        self.held = Some(Held { branch, fence, since: Instant::now(), heart });
        Ok(())
    }

    /// Looks whether the lease is still held, after a publication was refused.
    pub(super) async fn look(&mut self) -> Result<()> {
        if let Some(held) = &self.held {
            let state = self.metadata.lease(&held.fence.lease).await?;
            if state.token != held.fence.token || !state.is_held_by(&self.options.holder) {
                tracing::warn!(lease = held.fence.lease, "lost the lease to another server");
                self.held = None;
            }
        }
        Ok(())
    }

    /// Hands the lease over if it was held for long enough and somebody waits.
    pub(super) async fn pass_on(&mut self) {
        let Some(held) = self.held.as_mut().filter(|held| held.since.elapsed() >= SLICE) else { return };
        held.since = Instant::now();
        // Where that is not known it is the heart's to notice.
        if self.metadata.lease(&held.fence.lease).await.is_ok_and(|state| !state.waiting.is_empty()) {
            self.release().await;
        }
    }

    /// Gives the lease back. One that cannot be is left to run out.
    pub(super) async fn release(&mut self) {
        if let Some(held) = self.held.take()
            && let Err(error) = self.metadata.release_lease(&held.fence.lease, &self.options.holder).await
        {
            tracing::warn!(%error, lease = held.fence.lease, "releasing a lease failed");
        }
    }
}

/// Ends when the lease is no longer held.
async fn beat(metadata: Arc<dyn MetadataStore>, fence: Fence, every: Duration) {
    loop {
        sleep(every).await;
        match metadata.renew_lease(&fence).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::warn!(%error, lease = fence.lease, "renewing a lease failed"),
        }
    }
}

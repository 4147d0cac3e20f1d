//! The end of history: which roots are released, and how reading them is refused.
//!
//! History is kept for ever unless a user says otherwise, by branch ([`Repository::set_history`]). [`Repository::release_history`] then *releases the root*
//! of a commit that lies on a branch with a limit unless one of these keeps it:
//!
//! - it is younger than the limit of some live branch that reaches it, or some live branch without a limit reaches it;
//! - it is the head of a branch, or what a tag or the caller (who knows datasets) names;
//! - it is a merge base of two live branches: the next merge needs it.
//!
//! The commit object stays, so that log, ancestry and `~n` go on working; reading what it held is [`Error::Expired`]. Nothing is deleted here: that is
//! garbage collection, which may take what no kept root reaches, after its grace.
//!
//! Kept in the metadata database: `versioning.history`, branch id (`u64` BE) → microseconds (`i64` BE), and `versioning.released`, commit id → when it was
//! released (`i64` BE, microseconds).
//!
//! ```text
//! read refs, walk ─▶ choose ─▶ put marks, 500 a transaction ─▶ read refs again ─▶ take back what a ref names by now
//! ```
//!
//! | cut short | then |
//! | -- | -- |
//! | while choosing | nothing has happened |
//! | between two transactions | some roots are released, each rightly; the next run chooses the others again |
//! | before the second reading | a branch or tag that was made meanwhile on a released root cannot be read until the next run takes the mark back |
//!
//! A ref made *after* a mark is refused; one made at the same time takes the mark back itself (`keep`), since its maker looks again when it is made. The
//! age of a commit is what the clock said when it was made; a clock that ran backwards makes commits look older, never their neighbours.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_core::{BranchId, Span, Timestamp};
use bytes::Bytes;

use super::Repository;
use crate::{Commit, CommitId, Error, MetadataDump, MetadataStore, MetadataWrite, Publication, Result};

const HISTORY: &str = "versioning.history";
pub(crate) const RELEASED: &str = "versioning.released";
const PAGE: usize = 1_000;
const MARKS: usize = 500;
/// Where more branches part at one commit, it is kept without looking at every pair.
const PAIRS: usize = 64;

/// What a release did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Released {
    /// How many roots were released now.
    pub released: u64,
    /// How many commits keep theirs, among those that live branches reach.
    pub kept: u64,
}

/// The live branches that reach a commit, by number.
type Reached = Arc<BTreeSet<usize>>;

impl Repository {
    /// Sets how long a branch keeps the content of its commits; `None` is for ever.
    ///
    /// # Errors
    /// [`Error::NoBranch`]; invalid for a span that is not positive.
    pub async fn set_history(&self, branch: &str, keep: Option<Span>) -> Result<()> {
        if keep.is_some_and(|keep| keep.micros() <= 0) {
            return Err(Error::invalid("history", "it must be longer than nothing: give a span such as 90d, or forever"));
        }
        let key = Bytes::copy_from_slice(&self.branch(branch).await?.id.0.to_be_bytes());
        let space = HISTORY.to_owned();
        let write = match keep {
            Some(keep) => MetadataWrite::Put { space, key, value: Bytes::copy_from_slice(&keep.micros().to_be_bytes()) },
            None => MetadataWrite::Delete { space, key },
        };
        self.store.metadata.publish(&Publication { writes: vec![write], ..Publication::default() }).await.map(drop)
    }

    /// How long a branch keeps the content of its commits; `None` is for ever.
    ///
    /// # Errors
    /// [`Error::NoBranch`].
    pub async fn history(&self, branch: &str) -> Result<Option<Span>> {
        let id = self.branch(branch).await?.id;
        limit(self.store.metadata.value(HISTORY, &id.0.to_be_bytes()).await?)
    }

    /// Whether the root of a commit was released.
    ///
    /// # Errors
    /// The metadata store's.
    pub async fn is_expired(&self, commit: &CommitId) -> Result<bool> {
        Ok(self.releases.load(Ordering::Relaxed) && self.store.metadata.value(RELEASED, commit.as_bytes()).await?.is_some())
    }

    /// Releases what no branch keeps any more; `named` are commits that something beside branches and tags names.
    ///
    /// # Errors
    /// Those of the stores; what was released before an error stays so.
    pub async fn release_history(&self, now: Timestamp, named: &[CommitId]) -> Result<Released> {
        let metadata = &self.store.metadata;
        let mut limits = BTreeMap::new();
        for (key, value) in all_values(metadata.as_ref(), HISTORY).await? {
            let id = key.as_ref().try_into().map_err(|_| Error::corrupt("the metadata database", "a history is not a branch's"))?;
            limits.insert(BranchId(u64::from_be_bytes(id)), limit(Some(value))?);
        }
        let branches = metadata.branches().await?;
        if !branches.iter().any(|branch| limits.get(&branch.id).copied().flatten().is_some()) {
            return Ok(Released::default());
        }
        let heads: Vec<_> = branches.iter().map(|branch| (branch.head, limits.get(&branch.id).copied().flatten())).collect();
        let mut kept: HashSet<CommitId> = named.iter().copied().collect();
        kept.extend(metadata.tags().await?.into_iter().map(|tag| tag.commit));
        let (chosen, kept) = self.choose(&heads, kept, now).await?;
        let known = released(metadata.as_ref()).await?;
        let fresh: Vec<_> = chosen.into_iter().filter(|commit| !known.contains(commit)).collect();
        if !fresh.is_empty() {
            self.releases.store(true, Ordering::Relaxed);
        }
        let time = Bytes::copy_from_slice(&now.micros().to_be_bytes());
        for commits in fresh.chunks(MARKS) {
            let mark = |id: &CommitId| MetadataWrite::Put { space: RELEASED.to_owned(), key: name(id), value: time.clone() };
            metadata.publish(&Publication { writes: commits.iter().map(mark).collect(), ..Publication::default() }).await?;
        }
        for branch in metadata.branches().await? {
            self.keep(&branch.head).await?;
        }
        for tag in metadata.tags().await? {
            self.keep(&tag.commit).await?;
        }
        Ok(Released { released: fresh.len() as u64, kept })
    }

    /// The commits that nothing keeps, and how many others there are.
    async fn choose(&self, heads: &[(CommitId, Option<Span>)], kept: HashSet<CommitId>, now: Timestamp) -> Result<(Vec<CommitId>, u64)> {
        let mut reached: HashMap<CommitId, Reached> = HashMap::new();
        let mut from: HashMap<CommitId, Vec<Reached>> = HashMap::new();
        let mut queue = BinaryHeap::new();
        let mut known: HashMap<CommitId, Arc<Commit>> = HashMap::new();
        for (number, (head, _)) in heads.iter().enumerate() {
            if !known.contains_key(head) {
                let commit = self.store.commit(head).await?;
                queue.push((commit.height, Reverse(*head)));
                known.insert(*head, commit);
            }
            Arc::make_mut(reached.entry(*head).or_default()).insert(number);
        }
        let (mut chosen, mut count) = (Vec::new(), 0);
        while let Some((_, Reverse(id))) = queue.pop() {
            // Every commit that has this one as a parent is higher, and was looked at before.
            let Some(commit) = known.remove(&id) else { continue };
            let own = reached.get(&id).cloned();
            let mut all = own.clone().unwrap_or_default();
            let above = from.remove(&id).unwrap_or_default();
            for set in &above {
                if all.is_empty() {
                    all = set.clone()
                } else if !set.is_subset(&all) {
                    Arc::make_mut(&mut all).extend(set.iter())
                }
            }
            let is_young = |number: &usize| heads[*number].1.is_none_or(|keep| commit.time.micros() >= now.micros().saturating_sub(keep.micros()));
            let keep = own.is_some() || kept.contains(&id) || is_base(&all, &above) || all.iter().any(is_young);
            if keep {
                count += 1
            } else {
                chosen.push(id)
            }
            for parent in &commit.parents {
                from.entry(*parent).or_default().push(all.clone());
                if !known.contains_key(parent) {
                    let commit = self.store.commit(parent).await?;
                    queue.push((commit.height, Reverse(*parent)));
                    known.insert(*parent, commit);
                }
            }
        }
        Ok((chosen, count))
    }

    /// Refuses a commit whose root was released.
    pub(super) async fn check_kept(&self, commit: &CommitId) -> Result<()> {
        if self.is_expired(commit).await? { Err(Error::Expired(*commit)) } else { Ok(()) }
    }

    /// Takes back the release of a commit that a ref names.
    pub(super) async fn keep(&self, commit: &CommitId) -> Result<()> {
        if self.is_expired(commit).await? {
            let write = MetadataWrite::Delete { space: RELEASED.to_owned(), key: name(commit) };
            self.store.metadata.publish(&Publication { writes: vec![write], ..Publication::default() }).await?;
        }
        Ok(())
    }
}

/// Whether some two of those that reach a commit reach nothing above it both.
fn is_base(all: &BTreeSet<usize>, above: &[Reached]) -> bool {
    if all.len() < 2 || above.iter().any(|set| set.len() == all.len()) {
        return false;
    }
    let together = |one: &usize, other: &usize| above.iter().any(|set| set.contains(one) && set.contains(other));
    all.len() > PAIRS || all.iter().any(|one| all.range(one + 1..).any(|other| !together(one, other)))
}

/// Every commit whose root was released.
pub(crate) async fn released(metadata: &dyn MetadataStore) -> Result<HashSet<CommitId>> {
    let values = all_values(metadata, RELEASED).await?;
    values.iter().map(|(key, _)| CommitId::from_slice(key)).collect()
}

/// Every commit whose root a dump says was released.
pub(crate) fn released_in(dump: &MetadataDump) -> Result<HashSet<CommitId>> {
    dump.values.iter().filter(|(space, _, _)| space == RELEASED).map(|(_, key, _)| CommitId::from_slice(key)).collect()
}

/// Whether any root was ever released.
pub(super) async fn any_released(metadata: &dyn MetadataStore) -> Result<bool> {
    Ok(!metadata.values(RELEASED, b"", None, 1).await?.is_empty())
}

async fn all_values(metadata: &dyn MetadataStore, space: &str) -> Result<Vec<(Bytes, Bytes)>> {
    let mut all: Vec<(Bytes, Bytes)> = Vec::new();
    loop {
        let after = all.last().map(|(key, _)| key.clone());
        let page = metadata.values(space, b"", after.as_deref(), PAGE).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

fn name(commit: &CommitId) -> Bytes {
    Bytes::copy_from_slice(commit.as_bytes())
}

fn limit(value: Option<Bytes>) -> Result<Option<Span>> {
    let micros = |value: Bytes| value.as_ref().try_into().map(|bytes| Span(i64::from_be_bytes(bytes)));
    value.map(micros).transpose().map_err(|_| Error::corrupt("the metadata database", "a history is not 8 bytes"))
}

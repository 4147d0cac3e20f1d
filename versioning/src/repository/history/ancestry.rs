//! Ancestry: who comes before whom, and what two commits have in common.
//!
//! A commit is higher than each of its ancestors, so that walks go from the highest commit down and read nothing beneath the lowest that matters.
//!
//! **Several best common ancestors.** Where two branches were merged into each other both ways ("criss-cross"), neither of two common ancestors lies
//! before the other. The highest is taken, of several as high the one with the largest id: every server chooses the same, whoever merges into whom. What
//! follows from it: a key that was decided in a merge *behind* the chosen ancestor looks changed on both sides. Where both hold the same value that is no
//! conflict; where one side changed it again since, it is one, although a merge that first merged the ancestors might have known better. So the choice
//! can cost a conflict too many, and never a change.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::CommitReader;
use crate::{CommitId, Result};

/// Whether `ancestor` is `commit` or lies before it.
pub(crate) async fn is_ancestor(reader: &dyn CommitReader, ancestor: &CommitId, commit: &CommitId) -> Result<bool> {
    let floor = reader.commit(ancestor).await?.height;
    let mut seen = BTreeSet::from([*commit]);
    let mut next = vec![*commit];
    while let Some(id) = next.pop() {
        if id == *ancestor {
            return Ok(true);
        }
        let commit = reader.commit(&id).await?;
        if commit.height > floor {
            next.extend(commit.parents.iter().filter(|parent| seen.insert(**parent)));
        }
    }
    Ok(false)
}

/// The common ancestor of two commits that a merge compares them with.
pub(in crate::repository) async fn merge_base(reader: &dyn CommitReader, a: &CommitId, b: &CommitId) -> Result<Option<CommitId>> {
    Ok(Common::find(reader, a, b).await?.base)
}

/// What a head and a source have in common, and what of the source lies above it.
#[derive(Debug, Clone)]
pub(in crate::repository) struct Common {
    /// The merge base.
    pub(in crate::repository) base: Option<CommitId>,
    floor: u64,
    /// The source and those of its ancestors that are not lower than the base, or all without a base.
    source_side: HashSet<CommitId>,
}

const HEAD: u8 = 1;
const SOURCE: u8 = 2;

impl Common {
    /// Walks down from both, the highest first: what is reached from both sides when its turn comes is the highest common ancestor, because whatever
    /// leads to it is higher and had its turn before.
    pub(in crate::repository) async fn find(reader: &dyn CommitReader, head: &CommitId, source: &CommitId) -> Result<Self> {
        let mut waiting: BTreeMap<(u64, CommitId), u8> = BTreeMap::new();
        for (id, side) in [(head, HEAD), (source, SOURCE)] {
            *waiting.entry((reader.commit(id).await?.height, *id)).or_default() |= side;
        }
        let mut source_side = HashSet::new();
        while let Some(((height, id), sides)) = waiting.pop_last() {
            if sides & SOURCE != 0 {
                source_side.insert(id);
            }
            if sides == HEAD | SOURCE {
                source_side.extend(waiting.iter().filter(|((other, _), sides)| *other == height && **sides & SOURCE != 0).map(|((_, id), _)| *id));
                return Ok(Self { base: Some(id), floor: height, source_side });
            }
            for parent in &reader.commit(&id).await?.parents {
                *waiting.entry((reader.commit(parent).await?.height, *parent)).or_default() |= sides;
            }
        }
        Ok(Self { base: None, floor: 0, source_side })
    }

    /// What the source has in common with a later head, reading only what the head gained; `None` if the later head does not have the earlier one.
    ///
    /// Whatever the new head has in common with the source beyond what the old one had is among the commits that the head gained.
    pub(in crate::repository) async fn advanced(
        &self,
        reader: &dyn CommitReader,
        from: &CommitId,
        to: &CommitId,
    ) -> Result<Option<Option<CommitId>>> {
        let mut best = self.base.map(|base| (self.floor, base));
        let (mut seen, mut next, mut met) = (HashSet::from([*to]), vec![*to], false);
        while let Some(id) = next.pop() {
            if id == *from {
                met = true;
                continue;
            }
            let commit = reader.commit(&id).await?;
            if self.source_side.contains(&id) {
                best = best.max(Some((commit.height, id)));
            }
            if commit.height > self.floor {
                next.extend(commit.parents.iter().filter(|parent| seen.insert(**parent)));
            }
        }
        Ok(met.then_some(best.map(|(_, id)| id)))
    }
}

//! Verifying a repository end to end, and naming what is damaged.
//!
//! ```text
//! metadata: branch heads, tags, reflog ──▶ commits ──▶ parents, heights
//!                                            └▶ roots ─▶ nodes: bytes, order, boundaries, counts ─▶ entries ─▶ files, through their owners
//! metadata: packs ──▶ object store: content, index and every entry of each
//! object store: what nothing names (surplus), as information
//! ```
//!
//! Every commit, node and file is visited once, however many names lead to it; a finding then says which commits and refs reach what is damaged. The walk
//! goes on after a finding: what lies beneath a damaged node cannot be seen, everything else is. Nothing is read from a cache, and nothing is written, so
//! this runs beside a server; what that server commits meanwhile is not looked at, and a pack that it is just writing may be told as surplus.
//!
//! An error, as opposed to a finding, means that the object store or the database could not be read at all.

mod packs;
mod refs;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use object_store::ObjectStore;

pub(crate) use walk::{Collected, Walk};

use crate::{CommitId, EntryOwner, MetadataStore, PackId, Result};

/// How many commits and refs a finding names; more are counted.
pub const NAMED_BY_FINDING: usize = 20;

/// Told how far the work has come.
pub type Progress = Arc<dyn Fn(&Counts) + Send + Sync>;

/// How a repository is verified.
#[derive(Clone, Default)]
pub struct FsckOptions {
    /// Who knows what entries name; entries of other kinds are taken as they are.
    pub owners: Vec<Arc<dyn EntryOwner>>,
    /// Reads and decodes every file that entries name, rather than looking that it is there, as long as it must be, and ends as it must.
    pub deep: bool,
    /// Told now and then how far the work has come.
    pub progress: Option<Progress>,
}

impl fmt::Debug for FsckOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FsckOptions").field("owners", &self.owners).field("deep", &self.deep).finish_non_exhaustive()
    }
}

/// What sort of thing is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// A branch, a tag or a reflog.
    Ref,
    /// A commit.
    Commit,
    /// A node of a tree.
    Node,
    /// An entry of the map.
    Entry,
    /// A file that entries name.
    File,
    /// A pack.
    Pack,
    /// What the metadata database says of a pack.
    Index,
}

impl Damage {
    /// The name as people and programs read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ref => "ref",
            Self::Commit => "commit",
            Self::Node => "node",
            Self::Entry => "entry",
            Self::File => "file",
            Self::Pack => "pack",
            Self::Index => "index",
        }
    }
}

/// A place in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The pack, at `packs/<its name>`.
    pub pack: PackId,
    /// The first byte of the entry.
    pub offset: u64,
}

/// Something that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What sort of thing.
    pub damage: Damage,
    /// Its name: a hash, a path, a key, a ref.
    pub object: String,
    /// Where it lies, for what lies in packs.
    pub place: Option<Place>,
    /// What is wrong with it.
    pub reason: String,
    /// The commits that it is a part of, at most [`NAMED_BY_FINDING`].
    pub commits: Vec<CommitId>,
    /// How many commits there are.
    pub commit_count: u64,
    /// The refs that reach it, at most [`NAMED_BY_FINDING`].
    pub refs: Vec<String>,
}

impl Finding {
    pub(crate) fn new(damage: Damage, object: impl Into<String>, reason: impl Into<String>) -> Self {
        let (object, reason) = (object.into(), reason.into());
        Self { damage, object, place: None, reason, commits: Vec::new(), commit_count: 0, refs: Vec::new() }
    }
}

/// Shown as `node 12ab… at packs/34cd… byte 8: its bytes are not what its hash says (commits 56ef…; reached by branch main)`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.damage.name(), self.object)?;
        if let Some(place) = &self.place {
            write!(f, " at packs/{} byte {}", place.pack, place.offset)?;
        }
        write!(f, ": {}", self.reason)?;
        if let Some(first) = self.commits.first() {
            write!(f, " (commit {first}")?;
            match self.commit_count {
                1 => {}
                count => write!(f, " and {} more", count - 1)?,
            }
            match self.refs.is_empty() {
                true => f.write_str("; reached by no ref)")?,
                false => write!(f, "; reached by {})", self.refs.join(", "))?,
            }
        }
        Ok(())
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Branches and tags.
    pub refs: u64,
    /// Commits.
    pub commits: u64,
    /// Commits whose root was released, which is therefore not looked at.
    pub expired: u64,
    /// Nodes.
    pub nodes: u64,
    /// Entries, each counted once for each leaf that it is in.
    pub entries: u64,
    /// Files that entries name.
    pub files: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of packs.
    pub pack_bytes: u64,
}

/// What lies in the object store and is named by nothing: garbage, or in the making. No damage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surplus {
    /// Packs that the database does not list.
    pub packs: Vec<String>,
    /// Blobs that no entry names.
    pub blobs: Vec<String>,
    /// Other files that no entry names.
    pub files: Vec<String>,
    /// The bytes of all of them.
    pub bytes: u64,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// What is damaged, in the order found: refs, packs, then commits and what they hold.
    pub findings: Vec<Finding>,
    /// What is named by nothing.
    pub surplus: Surplus,
    /// What was looked at.
    pub counts: Counts,
}

impl FsckReport {
    /// Whether nothing is damaged.
    pub fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Verifies a repository.
///
/// # Errors
/// Where the stores cannot be read; damage is no error but a [`Finding`].
pub async fn fsck(metadata: &Arc<dyn MetadataStore>, objects: &Arc<dyn ObjectStore>, options: FsckOptions) -> Result<FsckReport> {
    // What is listed before the database is read is either in the database or named by nothing.
    let listed = packs::list(objects).await?;
    let dump = metadata.dump().await?;
    let mut walk = Walk::new(metadata.clone(), objects.clone(), options);
    let starts = refs::starts(&dump, &mut walk.report);
    let known = packs::verify(&mut walk).await?;
    walk.skip_released().await?;
    walk.history(starts.iter().map(|start| start.commit)).await?;
    refs::judge(&starts, &mut walk);
    let named: BTreeSet<&str> = walk.file_paths().collect();
    let surplus = packs::surplus(&listed, &known, &named);
    let mut report = walk.finish(&starts);
    report.surplus = surplus;
    Ok(report)
}

/// What is damaged in these commits, each looked at alone with all that it holds; what lies before them is not looked at.
///
/// # Errors
/// Where the stores cannot be read.
pub async fn verify_commits(
    metadata: &Arc<dyn MetadataStore>,
    objects: &Arc<dyn ObjectStore>,
    options: FsckOptions,
    commits: &[CommitId],
) -> Result<Verified> {
    let mut walk = Walk::new(metadata.clone(), objects.clone(), options);
    let mut damaged = BTreeMap::new();
    for commit in commits {
        walk.single(*commit).await?;
        let findings: Vec<Finding> = walk.findings_of(commit).into_iter().cloned().collect();
        if !findings.is_empty() {
            damaged.insert(*commit, findings);
        }
    }
    Ok(Verified { damaged, ids: walk.ids, last_branch: walk.last_branch })
}

/// What [`verify_commits`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// The commits that are not whole, and why.
    pub damaged: BTreeMap<CommitId, Vec<Finding>>,
    /// The largest ids that their entries show to be given, by mark.
    pub ids: BTreeMap<String, u64>,
    /// The largest branch id that their entries show to be given.
    pub last_branch: u64,
}

//! Bringing an archive in.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use anabranch_core::{Ids, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::archive::{ArchiveInfo, Reader, Record};
use crate::fsck::Walk;
use crate::pack::unpack;
use crate::repository::{CommitReader, is_ancestor, release};
use crate::store::{Store, pack_path};
use crate::tree::{Node, judge_node};
use crate::{
    BranchInfo, Commit, CommitId, EntryKind, EntryOwner, Error, FsckOptions, HeadMove, HeadStep, MetadataDump, MetadataStore, MetadataWrite,
    NodeHash, PackIndex, Publication, Result, TagInfo, check_ref_name,
};

/// Marks are raised by a multiple of this where a repository is cloned.
const STRIDE: u64 = 1 << 16;
const STRIDES: u128 = 256;
const CACHE_BYTES: u64 = 16 << 20;
const ACTION: &str = "import";

/// How an archive is brought in.
#[derive(Clone)]
pub struct ImportRequest {
    /// Put before the name of every branch and tag, such as `team/`.
    pub prefix: String,
    /// Moves branches that have gone another way, too.
    pub force: bool,
    /// Who does it.
    pub author: String,
    /// Who knows what entries name.
    pub owners: Vec<Arc<dyn EntryOwner>>,
    /// Spaces of values whose keys are ids: one id with two values is a collision.
    pub id_spaces: Vec<String>,
    /// Spaces of values that are taken over where they are missing.
    pub carried_spaces: Vec<String>,
    /// Now.
    pub now: Timestamp,
}

impl fmt::Debug for ImportRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportRequest").field("prefix", &self.prefix).field("force", &self.force).finish_non_exhaustive()
    }
}

/// What became of a ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefOutcome {
    /// It was made.
    Created,
    /// It was moved forward.
    Moved,
    /// It was moved although it had gone another way.
    Forced,
    /// It has all of it already.
    UpToDate,
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// What became of each branch and tag, by its name here.
    pub refs: Vec<(String, RefOutcome)>,
    /// Files that were written; the others were there.
    pub files: u64,
    /// Packs that were written; the others were there.
    pub packs: u64,
    /// Whether the repository was empty, and is a clone now.
    pub cloned: bool,
}

/// What an archive holds, known before anything is written.
struct Contents {
    info: ArchiveInfo,
    commits: HashMap<CommitId, Arc<Commit>>,
}

/// What an archive says of itself; its content is not verified.
///
/// # Errors
/// Refuses what is no archive of a format that this version knows.
pub fn read_archive_info(input: &mut (dyn Read + Send)) -> Result<ArchiveInfo> {
    Ok(Reader::new(input)?.1)
}

/// Brings an archive into a repository that nobody else uses.
///
/// # Errors
/// Invalid for an archive that is damaged or of another format; [`Error::Import`] where it does not fit this repository; [`Error::ImportDiverged`] and
/// [`Error::TagExists`] for a ref that has gone another way. Nothing is changed then.
pub async fn import<A: Read + Seek + Send>(
    metadata: &Arc<dyn MetadataStore>,
    objects: &Arc<dyn ObjectStore>,
    ids: &dyn Ids,
    request: ImportRequest,
    archive: &mut A,
) -> Result<Imported> {
    let contents = verify(archive)?;
    let here = metadata.dump().await?;
    let is_empty = here == MetadataDump::default();
    let target = Target { metadata, store: Store::new(metadata.clone(), objects.clone(), CACHE_BYTES), contents: &contents, request: &request };
    target.check_known(is_empty).await?;
    let plan = target.plan(&here).await?;
    let writes = if is_empty { Vec::new() } else { target.values(&here)? };
    let before: HashSet<CommitId> = target.known_boundary().await?;
    rewind(archive)?;
    let (files, packs) = write(metadata, objects, archive).await?;
    let mut walk = Walk::new(metadata.clone(), objects.clone(), FsckOptions { owners: request.owners.clone(), ..FsckOptions::default() });
    walk.skip_released().await?;
    walk.skip(release::released_in(&contents.info.dump)?);
    walk.assume(before);
    walk.history(plan.iter().map(|step| step.commit)).await?;
    if let Some(finding) = walk.report.findings.first() {
        return Err(Error::Import(format!("it is not whole: {finding}")));
    }
    let refs = plan.iter().map(|step| (step.name.clone(), step.outcome)).collect();
    if is_empty {
        metadata.load(&clone_of(&contents.info.dump, &request, ids)).await?;
    } else {
        metadata.publish(&Publication { writes, ..Publication::default() }).await?;
        for step in plan {
            target.move_ref(step).await?;
        }
    }
    Ok(Imported { refs, files, packs, cloned: is_empty })
}

fn rewind(archive: &mut impl Seek) -> Result<()> {
    archive.seek(SeekFrom::Start(0)).map(drop).map_err(|error| Error::backend("reading the archive", error))
}

/// Reads all of an archive and verifies every byte.
fn verify(archive: &mut (impl Read + Seek + Send)) -> Result<Contents> {
    rewind(archive)?;
    let (mut reader, info) = Reader::new(archive)?;
    let mut commits = HashMap::new();
    while let Some(record) = reader.next()? {
        match record {
            Record::Pack(bytes) => verify_pack(&bytes.into(), &mut commits)?,
            Record::File { path, size } => {
                let hash = reader.content(size, |_| Ok(()))?;
                // Packs come as packs.
                if path.starts_with("packs/") || Path::parse(&path).is_err() {
                    return Err(Error::invalid("archive", format!("it holds a file {path:?}, which is none of a repository's")));
                }
                if path.strip_prefix("blobs/").is_some_and(|name| name != hash.to_hex().as_str()) {
                    return Err(Error::invalid("archive", format!("{path} is not what its name says")));
                }
            }
        }
    }
    let heads = info.dump.branches.iter().map(|branch| branch.head).chain(info.dump.tags.iter().map(|tag| tag.commit));
    if let Some(missing) = heads.into_iter().find(|head| !commits.contains_key(head) && !info.have.contains(head) && info.have.is_empty()) {
        return Err(Error::invalid("archive", format!("it names commit {missing} and does not hold it")));
    }
    Ok(Contents { info, commits })
}

fn verify_pack(bytes: &Bytes, commits: &mut HashMap<CommitId, Arc<Commit>>) -> Result<()> {
    for entry in PackIndex::read(bytes)?.entries {
        let name = crate::Digest(entry.hash).to_string();
        let end = entry.offset.checked_add(u64::from(entry.len)).filter(|end| *end <= bytes.len() as u64);
        let end = end.ok_or_else(|| Error::invalid("archive", format!("{name} would end beyond its pack")))?;
        let canonical = unpack(&bytes.slice(entry.offset as usize..end as usize), &entry.hash, &name)?;
        match entry.kind {
            EntryKind::Commit => drop(commits.insert(CommitId(entry.hash), Arc::new(Commit::decode(&canonical)?))),
            EntryKind::Node => {
                let node = Node::decode(canonical)?;
                judge_node(&NodeHash(entry.hash), &node).map_err(|reason| Error::invalid("archive", format!("node {name}: {reason}")))?;
            }
        }
    }
    Ok(())
}

/// Writes files, then packs with their index; passes over what is there.
async fn write(metadata: &Arc<dyn MetadataStore>, objects: &Arc<dyn ObjectStore>, archive: &mut (impl Read + Send)) -> Result<(u64, u64)> {
    let (mut reader, _) = Reader::new(archive)?;
    let (mut files, mut packs) = (0, 0);
    let mut indexes = Vec::new();
    while let Some(record) = reader.next()? {
        match record {
            Record::Pack(bytes) => {
                let index = PackIndex::read(&bytes)?;
                packs += u64::from(put_missing(objects, pack_path(&index.pack).as_ref(), bytes.into()).await?);
                indexes.push(index);
            }
            Record::File { path, size } => {
                let mut content = Vec::new();
                reader.content(size, |part| {
                    content.extend_from_slice(part);
                    Ok(())
                })?;
                files += u64::from(put_missing(objects, &path, content.into()).await?);
            }
        }
    }
    for index in indexes {
        metadata.publish(&Publication { pack: Some(index), ..Publication::default() }).await?;
    }
    Ok((files, packs))
}

/// Writes a file unless these very bytes are there; a damaged one is made whole by that.
async fn put_missing(objects: &Arc<dyn ObjectStore>, path: &str, bytes: Bytes) -> Result<bool> {
    let failed = |error| Error::backend(format!("writing {path}"), error);
    let location = Path::parse(path).map_err(|error| Error::invalid("archive", error.to_string()))?;
    let found = match objects.get(&location).await {
        Ok(found) if found.meta.size == bytes.len() as u64 => found.bytes().await.is_ok_and(|found| found == bytes),
        Ok(_) | Err(object_store::Error::NotFound { .. }) => false,
        Err(error) => return Err(failed(error)),
    };
    if !found {
        objects.put(&location, bytes.into()).await.map_err(failed)?;
    }
    Ok(!found)
}

/// One ref to be made or moved.
struct Step {
    name: String,
    commit: CommitId,
    outcome: RefOutcome,
    /// The branch as it is; none for a new one and for tags.
    branch: Option<BranchInfo>,
    is_tag: bool,
}

struct Target<'a> {
    metadata: &'a Arc<dyn MetadataStore>,
    store: Store,
    contents: &'a Contents,
    request: &'a ImportRequest,
}

impl Target<'_> {
    /// That what the archive builds on is here, and is this repository's history.
    async fn check_known(&self, is_empty: bool) -> Result<()> {
        let info = &self.contents.info;
        let mut outside: BTreeSet<CommitId> = info.have.iter().copied().collect();
        outside.extend(self.contents.commits.values().flat_map(|commit| commit.parents.iter().copied()));
        outside.retain(|commit| !self.contents.commits.contains_key(commit));
        for commit in outside {
            if !self.is_here(&commit).await? {
                return Err(Error::Import(format!("it builds on commit {commit}, which is not here: export again without --have or --since-export")));
            }
        }
        if is_empty {
            return Ok(());
        }
        for (id, commit) in &self.contents.commits {
            if commit.parents.is_empty() && !self.is_here(id).await? {
                let advice = "source ids in its data files may mean other sources here; import it into an empty folder";
                return Err(Error::Import(format!("it is of a repository that shares no history with this one: {advice}")));
            }
        }
        Ok(())
    }

    async fn is_here(&self, commit: &CommitId) -> Result<bool> {
        Ok(self.metadata.locate(&[commit.0]).await?.pop().flatten().is_some())
    }

    /// Commits of this repository that the archive's build on.
    async fn known_boundary(&self) -> Result<HashSet<CommitId>> {
        let mut known = HashSet::new();
        let named = self.contents.commits.iter().flat_map(|(id, commit)| commit.parents.iter().chain([id]));
        for commit in named.chain(&self.contents.info.have) {
            // A commit is reached by a ref of ours, or it is looked at again.
            if !known.contains(commit) && !self.contents.commits.contains_key(commit) && self.is_here(commit).await? {
                known.insert(*commit);
            }
        }
        Ok(known)
    }

    /// What becomes of each ref; refuses all where one has gone another way.
    async fn plan(&self, here: &MetadataDump) -> Result<Vec<Step>> {
        let dump = &self.contents.info.dump;
        let mut plan = Vec::new();
        for branch in &dump.branches {
            let name = self.name(&branch.name)?;
            let ours = here.branches.iter().find(|ours| ours.name == name).cloned();
            let outcome = match &ours {
                None => RefOutcome::Created,
                Some(ours) if is_ancestor(self, &branch.head, &ours.head).await? => RefOutcome::UpToDate,
                Some(ours) if is_ancestor(self, &ours.head, &branch.head).await? => RefOutcome::Moved,
                Some(ours) if self.request.force && !ours.protected => RefOutcome::Forced,
                Some(ours) if self.request.force => return Err(Error::Protected(ours.name.clone())),
                Some(_) => return Err(Error::ImportDiverged { into: name }),
            };
            plan.push(Step { name, commit: branch.head, outcome, branch: ours, is_tag: false });
        }
        for tag in &dump.tags {
            let name = self.name(&tag.name)?;
            let outcome = match here.tags.iter().find(|ours| ours.name == name) {
                None => RefOutcome::Created,
                Some(ours) if ours.commit == tag.commit => RefOutcome::UpToDate,
                // A tag never moves, whatever is forced.
                Some(_) => return Err(Error::TagExists(name)),
            };
            plan.push(Step { name, commit: tag.commit, outcome, branch: None, is_tag: true });
        }
        Ok(plan)
    }

    fn name(&self, name: &str) -> Result<String> {
        let name = format!("{}{name}", self.request.prefix);
        check_ref_name(&name)?;
        Ok(name)
    }

    /// The ids and values that come along; refuses an id that means two things.
    fn values(&self, here: &MetadataDump) -> Result<Vec<MetadataWrite>> {
        let ours: BTreeMap<(&str, &Bytes), &Bytes> = here.values.iter().map(|(space, key, value)| ((space.as_str(), key), value)).collect();
        let mut writes = Vec::new();
        for (space, key, value) in &self.contents.info.dump.values {
            let is_id = self.request.id_spaces.contains(space);
            let is_carried = space == release::RELEASED || self.request.carried_spaces.contains(space);
            match ours.get(&(space.as_str(), key)) {
                Some(found) if is_id && *found != value => {
                    let id = key.iter().fold(0u64, |id, byte| id << 8 | u64::from(*byte));
                    let advice = "rows of the one could be taken for rows of the other; import the archive into an empty folder";
                    return Err(Error::Import(format!("id {id} of {space} was given to something else here: {advice}")));
                }
                None if is_id || is_carried => {
                    writes.push(MetadataWrite::Put { space: space.clone(), key: key.clone(), value: value.clone() });
                }
                _ => {}
            }
        }
        let raise = |(name, to): (&String, &u64)| MetadataWrite::RaiseMark { name: name.clone(), to: *to };
        writes.extend(self.contents.info.dump.marks.iter().filter(|(name, to)| here.marks.get(*name).is_none_or(|ours| ours < *to)).map(raise));
        Ok(writes)
    }

    async fn move_ref(&self, step: Step) -> Result<()> {
        let (author, now) = (&self.request.author, self.request.now);
        match (step.outcome, step.branch) {
            (RefOutcome::UpToDate, _) => {}
            (_, None) if step.is_tag => {
                let made = self.metadata.create_tag(&step.name, &step.commit, now).await?;
                made.ok_or(Error::TagExists(step.name))?;
            }
            (_, None) => {
                let made = self.metadata.create_branch(&step.name, &step.commit, now, author).await?;
                made.ok_or(Error::BranchExists(step.name))?;
            }
            (_, Some(branch)) => {
                let steps = vec![HeadStep { commit: step.commit, time: now, author: author.clone(), action: ACTION.to_owned() }];
                let head = HeadMove { branch: branch.id, expected: branch.head, steps };
                if !self.metadata.publish(&Publication { head: Some(head), ..Publication::default() }).await? {
                    return Err(Error::HeadMoved { branch: step.name });
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl CommitReader for Target<'_> {
    async fn commit(&self, id: &CommitId) -> Result<Arc<Commit>> {
        match self.contents.commits.get(id) {
            Some(commit) => Ok(commit.clone()),
            None => self.store.commit(id).await,
        }
    }
}

/// What an empty repository is filled with: all of it, with room for the ids that the first one gives from now on.
fn clone_of(dump: &MetadataDump, request: &ImportRequest, ids: &dyn Ids) -> MetadataDump {
    let room = (1 + (ids.random() % STRIDES) as u64) * STRIDE;
    let named = |name: &String| format!("{}{name}", request.prefix);
    MetadataDump {
        last_branch: dump.last_branch + room,
        branches: dump.branches.iter().map(|branch| BranchInfo { name: named(&branch.name), ..branch.clone() }).collect(),
        tags: dump.tags.iter().map(|tag| TagInfo { name: named(&tag.name), ..tag.clone() }).collect(),
        marks: dump.marks.iter().map(|(name, next)| (name.clone(), next.saturating_add(room))).collect(),
        ..dump.clone()
    }
}

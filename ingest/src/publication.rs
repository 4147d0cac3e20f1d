//! Bringing what is committed on served branches online: generations, and the commit that each answers for.
//!
//! `main` is served, and every branch that is asked to be (`ingest.served`: branch id). Each view of such a branch has a *generation*, a number that the
//! metadata database gives for the branch and the table's uuid ([`generations`]), so that a view that is deleted and made anew begins with nothing. The
//! layouts of packed rows are kept in `ingest.layout`, by fingerprint, before a row is packed by one.
//!
//! ```text
//!                    rows of the files added since           advance
//! published_to = P ───────────────────────────────▶ online ───────────▶ published_to = head
//!        ▲                                            │
//!        └────────────── crash: from P again ◀────────┘        (writing a row again changes nothing)
//! ```
//!
//! A commit of the pipeline needs no reading: its rows are online already, and the generations move on from its parent to it. Where they stand elsewhere
//! (a load, a merge, an apply or a crash came between), the files in between are published first. An advance never overtakes its rows: the store keeps
//! that order through a loss of power.
//!
//! Both name the store's incarnation: where it became another one, its rows are lost, it answers for no commit, and lookups are refused ([`kept`]) until
//! all of history is published again. The pipeline writes again what is in no commit yet.
//!
//! A generation without a commit is one that was never filled, or whose store was lost: it is filled from all of history ([`fill`]), and until then lookups
//! are told that it is unavailable, never that a key is not found.
//!
//! # Another generation
//!
//! Rows cannot be taken out of a generation: a writer that is late would bring them back. So where the head has lost rows that a generation holds (a reset, a
//! revert, a merge that takes the other side), and where a rebuild is asked for, another generation takes its place:
//!
//! ```text
//! record next ─▶ every writer writes both ─▶ flush ─▶ fill next up to a commit ─▶ advance it ─▶ switch ─▶ no writer writes the old one ─▶ drop it
//!     (1)               (2)                    (3)            (4)                     (5)         (6)                (7)
//! ```
//!
//! Until (6) lookups are answered by the old generation, which is the history before the move, or the one to be rebuilt; it goes on to be advanced by a
//! rebuild, and stands where it was after a move that took rows away. After (2) every row that is written online is written to both; after (3) what was written before (2)
//! is in a commit, so it comes with the files. (6) is one compare-and-swap of the record. A lookup that was under way in the old generation finds it
//! retired and resolves its views again.
//!
//! Crashes: before (1) the old generation is found to hold rows that the head has not, again. Between (1) and (6) a fill goes on where its mark stands. A
//! generation that was recorded because the head had lost rows is *settled* in its record after (3): whoever moves the head again publishes first, and so
//! brings it to its end. One that is not settled may hold rows that a move took, and a fresh one takes its place. After (6) the record says what is to be
//! dropped.
//!
//! That a generation holds rows that the head has not is seen by comparing the head with the commit it answers for. So whoever moves a head in such a
//! way publishes first, while the pipeline rests: then the generation answers for all that it holds.

mod audit;
mod fill;
mod generations;
mod kept;
mod line;
mod moving;
mod serving;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use anabranch_core::definition::{Definitions, FeatureService, Role, ViewLayout};
use anabranch_core::{BranchId, Generation};
use anabranch_offline_store::{OfflineStore, TableName};
use anabranch_online_store::{Incarnation, Layout, Layouts, OnlineStore};
use anabranch_versioning::{BranchInfo, CommitId, Repository};
use tokio::sync::{Notify, RwLockReadGuard};

use self::fill::Brought;
use self::generations::{Generations, RecordKey};
use self::kept::Retired;
use crate::crash::{CrashPoint, CrashPoints};
use crate::pipeline::Pipeline;
use crate::{Error, Result};

pub use audit::{AuditRequest, ViewAudit};
pub use fill::FillProgress;
pub(crate) use line::Line;
pub use moving::Moved;
pub use serving::{Rebuild, ServedBranch, ServedViewStatus};

/// The branch that is always served online.
pub const SERVED_BRANCH: &str = "main";

const LAYOUTS: &str = "ingest.layout";

/// A view that lookups can be answered from.
#[derive(Debug, Clone)]
pub struct ServedView {
    /// The view as defined at the head.
    pub layout: Arc<ViewLayout>,
    /// Where its rows are.
    pub generation: Generation,
    /// How its rows are packed now.
    pub packed: Arc<Layout>,
}

/// The views that are served, by name, and the commit that they answer for; rows pushed since may be online too.
#[derive(Debug, Clone)]
pub struct Served {
    /// The commit.
    pub commit: CommitId,
    /// Its definitions.
    pub definitions: Arc<Definitions>,
    /// The views.
    pub views: Arc<BTreeMap<String, ServedView>>,
    /// The part of lookups that is logged, by service; those of which none is are not there.
    pub logged: Arc<BTreeMap<Arc<str>, f64>>,
    /// What the online store was when their rows were published.
    pub incarnation: Incarnation,
    /// The store as lookups may read it.
    pub store: Arc<dyn OnlineStore>,
}

/// Where a writer writes the rows of a view.
#[derive(Debug, Clone)]
pub(crate) struct WriteTarget {
    pub(crate) view: ServedView,
    /// The generation that is being filled besides.
    pub(crate) next: Option<Generation>,
}

/// Where a writer writes, by view, as of a state of the gate.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteTargets {
    pub(crate) views: Arc<BTreeMap<String, WriteTarget>>,
    pub(crate) gate: u64,
}

/// Why there is a next generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Born {
    /// A rebuild was asked for.
    Asked,
    /// The head has lost rows that the current one holds.
    Removed,
}

/// Publishes what is committed on served branches.
#[derive(Debug)]
pub(crate) struct Publisher {
    repository: Arc<Repository>,
    offline: Arc<OfflineStore>,
    online: Arc<dyn OnlineStore>,
    layouts: Arc<Layouts>,
    crash: Arc<dyn CrashPoints>,
    generations: Generations,
    lines: RwLock<HashMap<BranchId, Arc<Line>>>,
    main: Arc<Line>,
    /// Counts the changes of what is written to. Whoever writes holds it shared from looking at it until the rows are written.
    gate: tokio::sync::RwLock<u64>,
    pipelines: Mutex<HashMap<BranchId, Weak<Pipeline>>>,
    /// Next generations that every writer writes, and whose rows of before are committed.
    ready: Mutex<HashMap<Generation, Born>>,
    retired: Arc<Retired>,
    /// There is something to rebuild, fill or drop.
    work: Notify,
    flush_limit: Duration,
    /// After about so many rows a fill notes how far it is.
    fill_mark_rows: u64,
}

fn versioning(error: anabranch_versioning::Error) -> Error {
    Error::below("publishing", error)
}

fn offline(error: anabranch_offline_store::Error) -> Error {
    Error::below("reading what is to be published", error)
}

fn online(error: anabranch_online_store::Error) -> Error {
    match error {
        anabranch_online_store::Error::Replaced => Error::Replaced,
        error => Error::below("the online store", error),
    }
}

/// What a publisher works with.
#[derive(Debug)]
pub(crate) struct PublisherParts {
    pub(crate) repository: Arc<Repository>,
    pub(crate) offline: Arc<OfflineStore>,
    pub(crate) online: Arc<dyn OnlineStore>,
    pub(crate) layouts: Arc<Layouts>,
    pub(crate) crash: Arc<dyn CrashPoints>,
    /// How long a flush may take that a switch waits for.
    pub(crate) flush_limit: Duration,
    pub(crate) fill_mark_rows: u64,
}

impl Publisher {
    /// Knows the branches that are served and the layouts that rows online may have been packed by. No pipeline has begun yet.
    pub(crate) async fn open(parts: PublisherParts) -> Result<Self> {
        let PublisherParts { repository, offline, online, layouts, crash, flush_limit, fill_mark_rows } = parts;
        let main = repository.branch(SERVED_BRANCH).await.map_err(versioning)?;
        let generations = Generations::new(Arc::clone(repository.metadata()));
        let retired = Arc::new(Retired::default());
        let main = Arc::new(Line::new(main.id, main.name, &online, &retired, true));
        let publisher = Self {
            lines: RwLock::new(HashMap::from([(main.branch, Arc::clone(&main))])),
            main,
            gate: tokio::sync::RwLock::new(0),
            pipelines: Mutex::default(),
            ready: Mutex::default(),
            work: Notify::new(),
            repository,
            offline,
            online,
            layouts,
            crash,
            generations,
            retired,
            flush_limit,
            fill_mark_rows,
        };
        publisher.load_layouts().await?;
        publisher.load_lines().await?;
        Ok(publisher)
    }

    async fn load_layouts(&self) -> Result<()> {
        let mut after: Option<bytes::Bytes> = None;
        loop {
            let page = self.repository.metadata().values(LAYOUTS, b"", after.as_deref(), 1_000).await.map_err(versioning)?;
            for (_, bytes) in &page {
                self.layouts.insert(Layout::from_bytes(bytes).map_err(online)?).map_err(online)?;
            }
            match page.last() {
                Some((key, _)) => after = Some(key.clone()),
                None => return Ok(()),
            }
        }
    }

    /// A branch that is served.
    pub(crate) fn line(&self, branch: BranchId) -> Option<Arc<Line>> {
        self.lines.read().unwrap_or_else(PoisonError::into_inner).get(&branch).cloned()
    }

    /// The line of `main`.
    pub(crate) fn main(&self) -> &Arc<Line> {
        &self.main
    }

    pub(crate) fn lines(&self) -> Vec<Arc<Line>> {
        self.lines.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Whether a branch is served, or about to be.
    pub(crate) fn serves(&self, branch: BranchId) -> bool {
        self.line(branch).is_some()
    }

    /// Tells of the pipeline that writes a branch's rows.
    pub(crate) fn follow(&self, pipeline: &Arc<Pipeline>) {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).insert(pipeline.branch.id, Arc::downgrade(pipeline));
    }

    /// Waits until there is something to rebuild, fill or drop.
    pub(crate) async fn work(&self) {
        self.work.notified().await;
    }

    /// Whether the online store still is what the views of a branch were published to.
    pub(crate) async fn is_kept(&self, line: &Line) -> Result<bool> {
        let Some(served) = line.served() else { return Ok(false) };
        Ok(served.incarnation == self.online.incarnation().await.map_err(online)?)
    }

    /// Held by a writer from when it looks at where to write until it has written.
    pub(crate) async fn gate(&self) -> RwLockReadGuard<'_, u64> {
        self.gate.read().await
    }

    /// Moves the generations on to a commit of which every row that `previous` lacks was written online under an incarnation.
    pub(crate) async fn committed(&self, branch: BranchId, previous: &CommitId, commit: &CommitId, wrote: Incarnation) -> Result<()> {
        let Some(line) = self.line(branch) else { return Ok(()) };
        // Whoever publishes now takes this commit along; a stream must not wait for a large load.
        let Ok(_turn) = line.turn.try_lock() else { return Ok(()) };
        // Nothing is served yet: whoever fills the store for the first time goes on until it has reached the head.
        let Some(served) = line.served() else { return Ok(()) };
        if served.commit == *previous && served.incarnation == wrote && self.advance(served.views.values(), commit, wrote).await? {
            line.set_served(Served { commit: *commit, ..served });
        } else {
            // Not here: publishing may wait for the very pipeline that asks.
            line.fall_behind();
        }
        Ok(())
    }

    /// Says of every view which commit it answers for; false where the store is another incarnation by now.
    async fn advance<'a>(&self, views: impl Iterator<Item = &'a ServedView>, commit: &CommitId, incarnation: Incarnation) -> Result<bool> {
        for view in views {
            match self.online.advance(view.generation, commit.as_bytes(), incarnation).await {
                Err(anabranch_online_store::Error::Lost) => return Ok(false),
                advanced => advanced.map_err(online)?,
            }
        }
        Ok(true)
    }

    /// Publishes whatever the head of a served branch has and its generations do not.
    pub(crate) async fn publish(&self, line: &Line) -> Result<()> {
        let _turn = line.turn.lock().await;
        self.publish_in_turn(line, false).await
    }

    /// The same, held to look at every view again where it is asked to.
    async fn publish_in_turn(&self, line: &Line, mut again: bool) -> Result<()> {
        if line.is_ended() {
            return Err(Error::NotServed(line.name()));
        }
        if !line.is_heard() {
            self.let_writers_hear(line).await?;
            line.set_heard();
        }
        loop {
            let incarnation = self.online.incarnation().await.map_err(online)?;
            if line.served().is_some_and(|served| served.incarnation != incarnation) {
                // What the store lost and no commit had is with the writers: they write it again before anything of this incarnation is served.
                self.let_writers_hear(line).await?;
            }
            let head = self.branch_of(line).await?.head;
            let known = line.served().is_some_and(|served| served.commit == head && served.incarnation == incarnation);
            if known && !again {
                return Ok(());
            }
            again = !self.publish_head(line, head, incarnation).await?;
        }
    }

    /// Looks a line's branch up, whatever it is called by now.
    async fn branch_of(&self, line: &Line) -> Result<BranchInfo> {
        let name = line.name();
        match self.repository.branch(&name).await {
            Ok(branch) if branch.id == line.branch => return Ok(branch),
            Ok(_) | Err(anabranch_versioning::Error::NoBranch(_)) => {}
            Err(error) => return Err(versioning(error)),
        }
        let found = self.repository.branches().await.map_err(versioning)?.into_iter().find(|branch| branch.id == line.branch);
        let branch = found.ok_or_else(|| versioning(anabranch_versioning::Error::NoBranch(name)))?;
        line.rename(&branch.name);
        Ok(branch)
    }

    /// Has every writer of a branch look anew at where it writes, and waits until what it wrote before is in a commit.
    async fn let_writers_hear(&self, line: &Line) -> Result<()> {
        *self.gate.write().await += 1;
        let pipeline = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).get(&line.branch).and_then(Weak::upgrade);
        let Some(pipeline) = pipeline else { return Ok(()) };
        tokio::time::timeout(self.flush_limit, pipeline.flush()).await.map_err(|_| Error::TimedOut {
            what: format!("what was pushed to branch {:?} did not come into a commit", line.name()),
            waited_ms: u64::try_from(self.flush_limit.as_millis()).unwrap_or(u64::MAX),
            advice: "see the status of its pipeline".to_owned(),
        })?
    }

    /// One try to bring every view up to a head; false where it must be tried again.
    async fn publish_head(&self, line: &Line, head: CommitId, incarnation: Incarnation) -> Result<bool> {
        let definitions = anabranch_registry::load(&self.repository, &head).await.map_err(|error| Error::below("publishing", error))?;
        let (mut views, mut keys, mut fresh, mut filled) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        for view in definitions.views() {
            let Some(key) = self.key(line.branch, &head, &view.name).await? else { continue };
            let record = self.generations.with_current(&key).await?;
            let Some(current) = record.current else { continue };
            let layout = definitions.layout(&view.name)?;
            let packed = self.packed(&head, &layout).await?;
            let (mut served, born) = (ServedView { layout, generation: current, packed }, record.next.and_then(|next| self.born(next)));
            let mut brought = Brought::Done;
            if born != Some(Born::Removed) {
                brought = self.bring(&line.fills, &served, &head, incarnation).await?;
            }
            let next = record.next.filter(|_| born.is_some());
            if let (Brought::Done | Brought::Filled, Some(next)) = (brought, next) {
                served.generation = next;
                brought = self.bring(&line.fills, &served, &head, incarnation).await?;
            }
            match brought {
                Brought::Done => {}
                Brought::Filled => filled.push(served.generation),
                Brought::Removed => fresh.push((key.clone(), self.replace_next(&key).await?)),
            }
            keys.push((key, next));
            views.insert(view.name.clone(), served);
        }
        if !fresh.is_empty() {
            self.crash.reach(CrashPoint::GenerationRecorded);
            self.let_writers_hear(line).await?;
            for (key, fresh) in &fresh {
                self.generations.change(key, |record| record.settled |= record.next == Some(*fresh)).await?;
            }
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).extend(fresh.into_iter().map(|(_, fresh)| (fresh, Born::Removed)));
            self.crash.reach(CrashPoint::GenerationSettled);
            return Ok(false);
        }
        self.crash.reach(CrashPoint::FilesPublished);
        if !self.advance(views.values(), &head, incarnation).await? {
            return Ok(false);
        }
        for generation in filled {
            self.unmark(generation).await?;
        }
        let retired = self.switch(line, &keys).await?;
        let store = Arc::clone(&line.store);
        let rate = |service: &FeatureService| Some((Arc::from(&*service.name), service.logging?.sample_rate));
        let logged = Arc::new(definitions.services().filter_map(rate).collect());
        line.set_served(Served { commit: head, definitions: Arc::new(definitions), views: Arc::new(views), logged, incarnation, store });
        self.retire(retired).await;
        Ok(true)
    }

    /// Puts next generations that are filled into the place of the current ones, and retires those of tables that are gone. Answers what is retired.
    async fn switch(&self, line: &Line, keys: &[(RecordKey, Option<Generation>)]) -> Result<Vec<Generation>> {
        let mut retired = Vec::new();
        for (key, next) in keys {
            let Some(next) = *next else { continue };
            let record = self.generations.change(key, |record| {
                if record.next == Some(next) {
                    record.retired.extend(record.current);
                    (record.current, record.next, record.settled) = (Some(next), None, false);
                }
            });
            retired.extend(record.await?.retired);
            self.unmark(next).await?;
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).remove(&next);
            self.crash.reach(CrashPoint::GenerationSwitched);
        }
        for (key, record) in self.generations.all(Some(line.branch)).await? {
            if keys.iter().all(|(there, _)| *there != key) && (record.current.is_some() || record.next.is_some()) {
                retired.extend(self.generations.change(&key, generations::Record::retire_all).await?.retired);
            }
        }
        Ok(retired)
    }

    /// Lets generations be dropped: lookups under way find them retired, and nobody writes to them any more.
    async fn retire(&self, generations: Vec<Generation>) {
        let generations: Vec<_> = generations.into_iter().filter(|generation| !self.retired.has(*generation)).collect();
        if generations.is_empty() {
            return;
        }
        *self.gate.write().await += 1;
        for generation in generations {
            self.retired.add(generation);
        }
        self.work.notify_one();
    }

    /// Why a next generation was made, where every writer writes it.
    fn born(&self, generation: Generation) -> Option<Born> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).get(&generation).copied()
    }

    /// Records a fresh next generation, whatever was there before.
    async fn replace_next(&self, key: &RecordKey) -> Result<Generation> {
        let fresh = self.generations.allocate().await?;
        let record = self.generations.change(key, |record| {
            record.retired.extend(record.next.replace(fresh).filter(|next| *next != fresh));
            record.settled = false;
        });
        let retired = record.await?.retired;
        self.retire(retired).await;
        Ok(fresh)
    }

    /// Names the record of a view; `None` where the view has no table.
    async fn key(&self, branch: BranchId, head: &CommitId, view: &str) -> Result<Option<RecordKey>> {
        let table = self.offline.find_table(head, &TableName::features(view)).await.map_err(offline)?;
        Ok(table.map(|table| RecordKey::new(branch, table.entry().uuid.as_bytes())))
    }

    /// How the rows of a view are packed under a commit's table, kept for those who read them.
    pub(crate) async fn packed(&self, commit: &CommitId, layout: &ViewLayout) -> Result<Arc<Layout>> {
        let features = layout.columns().iter().filter(|column| column.role == Role::Feature);
        let names: Vec<_> = features.map(|column| column.name.as_str()).collect();
        let fields = self.offline.packed_fields(commit, &TableName::features(layout.name()), &names).await.map_err(offline)?;
        let packed = Layout::new(fields).map_err(online)?;
        if let Some(known) = self.layouts.get(packed.fingerprint()).filter(|known| **known == packed) {
            return Ok(known);
        }
        let (key, bytes) = (packed.fingerprint().to_be_bytes(), packed.to_bytes());
        let metadata = self.repository.metadata();
        if !metadata.swap_value(LAYOUTS, &key, None, Some(&bytes)).await.map_err(versioning)? {
            let kept = metadata.value(LAYOUTS, &key).await.map_err(versioning)?;
            if kept.as_deref() != Some(&bytes[..]) {
                return Err(online(anabranch_online_store::Error::Fingerprint(packed.fingerprint())));
            }
        }
        self.layouts.insert(packed).map_err(online)
    }

    /// Where the rows of views are written on a branch, as the head's tables pack them; nowhere where the branch is not served. `gate` is what the caller
    /// holds.
    pub(crate) async fn targets(&self, branch: BranchId, layouts: impl Iterator<Item = &Arc<ViewLayout>>, gate: u64) -> Result<WriteTargets> {
        let mut targets = BTreeMap::new();
        if let Some(line) = self.line(branch) {
            let head = self.branch_of(&line).await?.head;
            for layout in layouts {
                let Some(key) = self.key(branch, &head, layout.name()).await? else { continue };
                let record = self.generations.with_current(&key).await?;
                let Some(generation) = record.current else { continue };
                let packed = self.packed(&head, layout).await?;
                let view = ServedView { layout: Arc::clone(layout), generation, packed };
                targets.insert(layout.name().to_owned(), WriteTarget { view, next: record.next });
            }
        }
        Ok(WriteTargets { views: Arc::new(targets), gate })
    }
}

//! Bringing what is committed on the served branch online: generations, and the commit that each answers for.
//!
//! `main` is served. Each of its views has a *generation*, a number that the metadata database gives for the branch and the table's uuid (`ingest.generation`:
//! branch id `u64` BE, uuid → generation `u64` BE), so that a view that is deleted and made anew begins with nothing. The layouts of packed rows are
//! kept in `ingest.layout`, by fingerprint, before a row is packed by one.
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
//! Both name the store's incarnation: where it became another one, its rows are lost, it answers for no commit, and [`KeptStore`] refuses lookups until
//! all of history is published again. The pipeline writes again what is in no commit yet.
//!
//! A generation without a commit is one that was never filled, or whose store was lost: it is filled from all of history, and until then lookups are told
//! that it is unavailable, never that a key is not found.
//!
//! **Refused**: a head move that took rows away from a served table. Every move through [`crate::Ingest`] is judged by
//! [`crate::merge::KeepsRows`] before it is made, inside the committer.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use anabranch_core::definition::{Definitions, Role, ViewLayout};
use anabranch_core::{BranchId, Generation};
use anabranch_offline_store::{OfflineStore, ScanRequest, TableName};
use anabranch_online_store::{Cursor, Incarnation, Layout, Layouts, OnlineStore, Page, ReadGroup, Write, rows_of};
use anabranch_versioning::{CommitId, RefSpec, Repository};
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use tokio::sync::Mutex;

use crate::crash::{CrashPoint, CrashPoints};
use crate::{Error, Result};

/// The branch that is served online.
pub const SERVED_BRANCH: &str = "main";

pub(crate) const GENERATIONS: &str = "ingest.generation";
const LAYOUTS: &str = "ingest.layout";
const GENERATION_MARK: &str = "generation";

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
    /// What the online store was when their rows were published.
    pub incarnation: Incarnation,
}

/// Publishes what is committed on the served branch.
#[derive(Debug)]
pub(crate) struct Publisher {
    repository: Arc<Repository>,
    offline: Arc<OfflineStore>,
    online: Arc<dyn OnlineStore>,
    layouts: Arc<Layouts>,
    crash: Arc<dyn CrashPoints>,
    /// Held by whoever publishes: one at a time advances.
    turn: Mutex<()>,
    served: RwLock<Option<Served>>,
}

fn versioning(error: anabranch_versioning::Error) -> Error {
    Error::below("publishing", error)
}

fn offline(error: anabranch_offline_store::Error) -> Error {
    Error::below("reading what is to be published", error)
}

fn online(error: anabranch_online_store::Error) -> Error {
    Error::below("writing online", error)
}

impl Publisher {
    pub(crate) fn new(
        repository: Arc<Repository>,
        offline: Arc<OfflineStore>,
        online: Arc<dyn OnlineStore>,
        layouts: Arc<Layouts>,
        crash: Arc<dyn CrashPoints>,
    ) -> Self {
        Self { repository, offline, online, layouts, crash, turn: Mutex::new(()), served: RwLock::new(None) }
    }

    /// Loads the layouts that rows online may have been packed by.
    pub(crate) async fn load_layouts(&self) -> Result<()> {
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

    /// What is served; `None` until everything committed was published once.
    pub(crate) fn served(&self) -> Option<Served> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_served(&self, served: Served) {
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = Some(served);
    }

    /// Whether the online store still is what the served views were published to; true where nothing is served yet.
    pub(crate) async fn is_kept(&self) -> Result<bool> {
        let served = self.served_incarnation();
        Ok(served.is_none() || served == Some(self.online.incarnation().await.map_err(online)?))
    }

    fn served_incarnation(&self) -> Option<Incarnation> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|served| served.incarnation)
    }

    /// Moves the generations on to a commit of which every row that `previous` lacks was written online under an incarnation.
    pub(crate) async fn committed(&self, previous: &CommitId, commit: &CommitId, wrote: Incarnation) -> Result<()> {
        {
            // Whoever publishes now takes this commit along; a stream must not wait for a large load.
            let Ok(_turn) = self.turn.try_lock() else { return Ok(()) };
            // Nothing is served yet: whoever fills the store for the first time goes on until it has reached the head.
            let Some(served) = self.served() else { return Ok(()) };
            if served.commit == *previous && served.incarnation == wrote && self.advance(&served.views, commit, wrote).await? {
                self.set_served(Served { commit: *commit, ..served });
                return Ok(());
            }
        }
        self.publish().await
    }

    /// Says of every view which commit it answers for; false where the store is another incarnation by now.
    async fn advance(&self, views: &BTreeMap<String, ServedView>, commit: &CommitId, incarnation: Incarnation) -> Result<bool> {
        for view in views.values() {
            match self.online.advance(view.generation, commit.as_bytes(), incarnation).await {
                Err(anabranch_online_store::Error::Lost) => return Ok(false),
                advanced => advanced.map_err(online)?,
            }
        }
        Ok(true)
    }

    /// Publishes whatever the head has and the generations do not.
    pub(crate) async fn publish(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        loop {
            let branch = self.repository.branch(SERVED_BRANCH).await.map_err(versioning)?;
            let incarnation = self.online.incarnation().await.map_err(online)?;
            if self.served().is_some_and(|served| served.commit == branch.head && served.incarnation == incarnation) {
                return Ok(());
            }
            self.publish_head(branch.id, branch.head, incarnation).await?;
        }
    }

    async fn publish_head(&self, branch: BranchId, head: CommitId, incarnation: Incarnation) -> Result<()> {
        let definitions = anabranch_registry::load(&self.repository, &head).await.map_err(|error| Error::below("publishing", error))?;
        let mut views = BTreeMap::new();
        for view in definitions.views() {
            let layout = definitions.layout(&view.name)?;
            let Some(generation) = self.generation(branch, &head, &view.name).await? else { continue };
            let packed = self.packed(&head, &layout).await?;
            let served = ServedView { layout, generation, packed };
            self.publish_view(&head, &served).await?;
            views.insert(view.name.clone(), served);
        }
        self.crash.reach(CrashPoint::FilesPublished);
        if self.advance(&views, &head, incarnation).await? {
            self.set_served(Served { commit: head, definitions: Arc::new(definitions), views: Arc::new(views), incarnation });
        }
        Ok(())
    }

    async fn publish_view(&self, head: &CommitId, view: &ServedView) -> Result<()> {
        let table = TableName::features(view.layout.name());
        let from = self.online.published_to(view.generation).await.map_err(online)?;
        let from = from.map(|bytes| CommitId::from_slice(&bytes)).transpose().map_err(versioning)?;
        if from == Some(*head) {
            return Ok(());
        }
        let added = self.offline.added_files(from.as_ref(), head, &table).await.map_err(offline)?;
        if added.removed {
            let reason = format!("rows were taken away from {table}, which is served; that needs a new generation, which this version cannot make");
            return Err(Error::Unservable { view: view.layout.name().to_owned(), reason });
        }
        if added.files.is_empty() {
            return Ok(());
        }
        let request = ScanRequest::all(table, view.layout.table_columns());
        let mut batches = self.offline.scan_files(head, &request, &added.files).await.map_err(offline)?;
        while let Some(batch) = batches.try_next().await.map_err(offline)? {
            let view = view.clone();
            let packed = tokio::task::spawn_blocking(move || rows_of(&batch, &view.layout, &view.packed, view.generation)).await;
            let rows = packed.map_err(|_| Error::Closing)?.map_err(online)?;
            self.online.write(&rows).await.map_err(online)?;
        }
        Ok(())
    }

    /// The generation of a view on a branch, given on first asking; `None` where the view has no table.
    async fn generation(&self, branch: BranchId, head: &CommitId, view: &str) -> Result<Option<Generation>> {
        let Some(table) = self.offline.find_table(head, &TableName::features(view)).await.map_err(offline)? else { return Ok(None) };
        let key = [&branch.0.to_be_bytes()[..], table.entry().uuid.as_bytes()].concat();
        let metadata = self.repository.metadata();
        loop {
            if let Some(bytes) = metadata.value(GENERATIONS, &key).await.map_err(versioning)? {
                let malformed = || Error::Malformed { what: "generation", reason: format!("{} bytes where 8 are needed", bytes.len()) };
                return bytes.as_ref().try_into().map(|number| Some(Generation(u64::from_be_bytes(number)))).map_err(|_| malformed());
            }
            let number = metadata.allocate(GENERATION_MARK, 1).await.map_err(versioning)?;
            metadata.swap_value(GENERATIONS, &key, None, Some(&number.to_be_bytes())).await.map_err(versioning)?;
        }
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

    /// The views that a judge's rows are published to, as the head's tables pack them.
    pub(crate) async fn targets<'a>(&self, layouts: impl Iterator<Item = &'a Arc<ViewLayout>>) -> Result<BTreeMap<String, ServedView>> {
        let branch = self.repository.resolve(&RefSpec::branch(SERVED_BRANCH)).await.map_err(versioning)?;
        let Some(id) = branch.branch.map(|branch| branch.id) else { return Ok(BTreeMap::new()) };
        let mut targets = BTreeMap::new();
        for layout in layouts {
            let Some(generation) = self.generation(id, &branch.commit, layout.name()).await? else { continue };
            let packed = self.packed(&branch.commit, layout).await?;
            targets.insert(layout.name().to_owned(), ServedView { layout: Arc::clone(layout), generation, packed });
        }
        Ok(targets)
    }
}

/// The online store as lookups may read it: what is served, or [`anabranch_online_store::Error::Lost`] while what the store lost is filled again.
#[derive(Debug)]
pub(crate) struct KeptStore {
    pub(crate) context: Arc<crate::pipeline::Context>,
}

#[async_trait]
impl OnlineStore for KeptStore {
    async fn write(&self, rows: &[Write]) -> anabranch_online_store::Result<()> {
        self.context.online.write(rows).await
    }

    async fn read(&self, groups: &[ReadGroup<'_>]) -> anabranch_online_store::Result<Vec<Option<Bytes>>> {
        // Looked at before the read, lest a refill that ends behind it vouches for what was not there yet.
        let served = self.context.publisher.served_incarnation();
        let rows = self.context.online.read(groups).await?;
        if served.is_some() && served != Some(self.context.online.incarnation().await?) {
            return Err(anabranch_online_store::Error::Lost);
        }
        Ok(rows)
    }

    fn forget_cached(&self, groups: &[ReadGroup<'_>]) {
        self.context.online.forget_cached(groups);
    }

    async fn sync(&self) -> anabranch_online_store::Result<()> {
        self.context.online.sync().await
    }

    async fn published_to(&self, generation: Generation) -> anabranch_online_store::Result<Option<Bytes>> {
        self.context.online.published_to(generation).await
    }

    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> anabranch_online_store::Result<()> {
        self.context.online.advance(generation, commit, incarnation).await
    }

    async fn incarnation(&self) -> anabranch_online_store::Result<Incarnation> {
        self.context.online.incarnation().await
    }

    async fn drop_generation(&self, generation: Generation) -> anabranch_online_store::Result<()> {
        self.context.online.drop_generation(generation).await
    }

    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> anabranch_online_store::Result<Page> {
        self.context.online.scan(generation, after, limit).await
    }
}

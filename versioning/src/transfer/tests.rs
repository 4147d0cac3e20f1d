//! Moving refs between repositories.

use std::io::Cursor;
use std::sync::Arc;

use anabranch_core::{ManualClock, RandomIds, Timestamp};
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::*;
use crate::{
    Change, CommitId, CommitRequest, Error, FsckOptions, Key, KeyKind, MemoryMetadata, MetadataStore, MetadataWrite, Publication, RefSpec,
    Repository, RepositoryOptions, Result, fsck,
};

struct Side {
    repository: Arc<Repository>,
    metadata: Arc<dyn MetadataStore>,
    objects: Arc<dyn ObjectStore>,
    seed: u64,
}

fn stores(seed: u64) -> (Arc<dyn MetadataStore>, Arc<dyn ObjectStore>) {
    (Arc::new(MemoryMetadata::new(&RandomIds::seeded(seed))), Arc::new(InMemory::new()))
}

async fn open(metadata: Arc<dyn MetadataStore>, objects: Arc<dyn ObjectStore>, seed: u64) -> Side {
    let (clock, ids) = (Arc::new(ManualClock::new(Timestamp(5))), Arc::new(RandomIds::seeded(seed)));
    let repository = Repository::open(metadata.clone(), objects.clone(), clock, ids, RepositoryOptions::default()).await.unwrap();
    Side { repository, metadata, objects, seed }
}

fn request() -> ImportRequest {
    ImportRequest {
        prefix: String::new(),
        force: false,
        author: "ada".to_owned(),
        owners: Vec::new(),
        id_spaces: vec!["ids".to_owned()],
        carried_spaces: Vec::new(),
        now: Timestamp(9),
    }
}

async fn new_side(seed: u64) -> Side {
    let (metadata, objects) = stores(seed);
    let side = open(metadata, objects, seed).await;
    for n in 0..5 {
        side.put("main", &format!("k{n}"), "1").await;
    }
    side.repository.create_branch("fix", &RefSpec::branch("main"), "ada").await.unwrap();
    side.repository.create_tag("v1", &RefSpec::branch("main")).await.unwrap();
    side.give_id(1, "log one").await;
    side
}

impl Side {
    async fn put(&self, branch: &str, name: &str, value: &str) -> CommitId {
        let change = Change::put(Key::new(KeyKind::Evidence, &[name.as_bytes()]).unwrap(), value.to_owned());
        self.repository.commit(branch, CommitRequest::new("ada", "put", vec![change])).await.unwrap().commit
    }

    async fn give_id(&self, id: u32, what: &str) {
        let key = Bytes::copy_from_slice(&id.to_be_bytes());
        let writes = vec![
            MetadataWrite::Put { space: "ids".to_owned(), key, value: what.to_owned().into() },
            MetadataWrite::RaiseMark { name: "id".to_owned(), to: u64::from(id) + 1 },
        ];
        self.metadata.publish(&Publication { writes, ..Publication::default() }).await.unwrap();
    }

    async fn export(&self, refs: Option<&[&str]>, have: Vec<CommitId>) -> Vec<u8> {
        let refs = refs.map(|refs| refs.iter().map(|name| (*name).to_owned()).collect());
        let mut bytes = Vec::new();
        let request = ExportRequest { refs, have, owners: Vec::new(), taken: Timestamp(8) };
        export(&self.metadata, &self.objects, request, &mut bytes).await.unwrap();
        bytes
    }

    async fn import(&self, archive: &[u8], request: ImportRequest) -> Result<Imported> {
        import(&self.metadata, &self.objects, &RandomIds::seeded(self.seed), request, &mut Cursor::new(archive)).await
    }

    async fn head(&self, branch: &str) -> CommitId {
        self.repository.branch(branch).await.unwrap().head
    }

    async fn is_whole(&self) -> bool {
        fsck(&self.metadata, &self.objects, FsckOptions::default()).await.unwrap().is_whole()
    }
}

/// An empty place that an archive was brought into.
async fn clone_of(archive: &[u8], seed: u64) -> Side {
    let (metadata, objects) = stores(seed);
    let imported = import(&metadata, &objects, &RandomIds::seeded(seed), request(), &mut Cursor::new(archive)).await.unwrap();
    assert!(imported.cloned);
    open(metadata, objects, seed).await
}

#[tokio::test]
async fn a_clone_has_every_ref_and_gives_other_ids() {
    let origin = new_side(1).await;
    let clone = clone_of(&origin.export(None, Vec::new()).await, 2).await;
    assert_eq!(clone.repository.tags().await.unwrap(), origin.repository.tags().await.unwrap());
    assert_eq!(clone.repository.branches().await.unwrap(), origin.repository.branches().await.unwrap());
    let (ours, theirs) = (origin.metadata.mark("id").await.unwrap(), clone.metadata.mark("id").await.unwrap());
    assert!(ours == 2 && theirs >= 1 << 16, "{theirs}");
    assert!(clone.is_whole().await);
    assert_ne!(clone.metadata.incarnation().await.unwrap(), origin.metadata.incarnation().await.unwrap());
}

#[tokio::test]
async fn what_came_since_goes_both_ways_by_what_the_other_has() {
    let origin = new_side(1).await;
    let first = origin.export(None, Vec::new()).await;
    let clone = clone_of(&first, 2).await;
    let have = vec![origin.head("main").await];
    let ahead = origin.put("main", "later", "2").await;
    origin.give_id(2, "log two").await;
    let second = origin.export(Some(&["main"]), have).await;
    assert!(second.len() < first.len());
    let done = clone.import(&second, request()).await.unwrap();
    assert_eq!(done.refs, [("main".to_owned(), RefOutcome::Moved)]);
    assert_eq!((clone.head("main").await, clone.metadata.value("ids", &2u32.to_be_bytes()).await.unwrap().is_some()), (ahead, true));
    // The same again changes nothing.
    let again = clone.import(&second, request()).await.unwrap();
    assert_eq!((again.packs, &again.refs[..]), (0, &[("main".to_owned(), RefOutcome::UpToDate)][..]));
    // And back.
    let back = clone.put("fix", "back", "3").await;
    clone.give_id(70_000, "log of the clone").await;
    let done = origin.import(&clone.export(Some(&["fix"]), vec![ahead]).await, request()).await.unwrap();
    assert_eq!((done.cloned, origin.head("fix").await), (false, back));
    let prefixed = ImportRequest { prefix: "team/".to_owned(), ..request() };
    assert_eq!(origin.import(&second, prefixed).await.unwrap().refs, [("team/main".to_owned(), RefOutcome::Created)]);
    assert!(origin.is_whole().await && clone.is_whole().await);
}

#[tokio::test]
async fn a_branch_that_went_another_way_moves_only_by_force_and_nothing_else_moves_without() {
    let origin = new_side(1).await;
    let clone = clone_of(&origin.export(None, Vec::new()).await, 2).await;
    origin.put("main", "here", "1").await;
    let theirs = origin.put("fix", "here", "1").await;
    let ours = clone.put("fix", "there", "1").await;
    let before = clone.head("main").await;
    let archive = origin.export(None, Vec::new()).await;
    assert!(matches!(clone.import(&archive, request()).await, Err(Error::ImportDiverged { into }) if into == "fix"));
    assert_eq!((clone.head("fix").await, clone.head("main").await), (ours, before));
    clone.repository.protect_branch("fix", true).await.unwrap();
    let force = || ImportRequest { force: true, ..request() };
    assert!(matches!(clone.import(&archive, force()).await, Err(Error::Protected(_))));
    clone.repository.protect_branch("fix", false).await.unwrap();
    let done = clone.import(&archive, force()).await.unwrap();
    assert!(done.refs.contains(&("fix".to_owned(), RefOutcome::Forced)));
    assert_eq!(clone.head("fix").await, theirs);
}

#[tokio::test]
async fn what_does_not_fit_or_is_damaged_is_refused_with_nothing_changed() {
    let (origin, stranger) = (new_side(1).await, new_side(7).await);
    let archive = origin.export(None, Vec::new()).await;
    let before = stranger.metadata.dump().await.unwrap();
    let refused = stranger.import(&archive, request()).await.unwrap_err();
    assert!(matches!(&refused, Error::Import(why) if why.contains("shares no history")), "{refused}");
    let clone = clone_of(&archive, 2).await;
    // One id, two origins.
    origin.put("main", "later", "2").await;
    origin.give_id(2, "log two").await;
    clone.give_id(2, "another log").await;
    let ahead = origin.export(None, Vec::new()).await;
    let refused = clone.import(&ahead, ImportRequest { force: true, ..request() }).await.unwrap_err();
    assert!(matches!(&refused, Error::Import(why) if why.contains("id 2")), "{refused}");
    // An archive that builds on what is not here.
    let (metadata, objects) = stores(9);
    let since = origin.export(Some(&["main"]), vec![origin.head("fix").await]).await;
    let done = import(&metadata, &objects, &RandomIds::seeded(9), request(), &mut Cursor::new(&since)).await;
    assert!(matches!(done, Err(Error::Import(why)) if why.contains("--have")));
    for at in (0..ahead.len()).step_by(97) {
        let mut damaged = ahead.clone();
        damaged[at] ^= 1;
        for bytes in [&damaged[..], &ahead[..at]] {
            let done = import(&metadata, &objects, &RandomIds::seeded(9), request(), &mut Cursor::new(bytes)).await;
            assert!(done.is_err(), "byte {at}");
        }
    }
    assert_eq!(metadata.dump().await.unwrap(), crate::MetadataDump::default());
    assert_eq!(stranger.metadata.dump().await.unwrap(), before);
    assert!(matches!(origin.repository.branch("nowhere").await, Err(Error::NoBranch(_))));
}

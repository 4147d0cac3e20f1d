//! What verification finds: every byte of every kind of thing, and nothing where all is well.

use std::collections::BTreeSet;

use anabranch_core::{ManualClock, RandomIds, Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;
use crate::{
    Change, CommitRequest, Digest, Entry, Error, FileRef, Key, KeyKind, MemoryMetadata, Named, RefSpec, Repository, RepositoryOptions, Scan, scan_all,
};

/// Objects whose value is the name of a blob.
#[derive(Debug)]
struct Blobs;

#[async_trait]
impl EntryOwner for Blobs {
    fn kind(&self) -> KeyKind {
        KeyKind::Object
    }

    fn entry(&self, entry: &Entry) -> Result<Named> {
        let digest: Digest = std::str::from_utf8(&entry.value)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::Corrupt { object: entry.key.to_string(), reason: "it names no blob".to_owned() })?;
        Ok(Named { files: vec![FileRef::blob(digest)], ..Named::default() })
    }
}

struct World {
    repository: Arc<Repository>,
    metadata: Arc<dyn MetadataStore>,
    objects: Arc<dyn ObjectStore>,
}

fn key(name: &str) -> Key {
    Key::new(KeyKind::Object, &[name.as_bytes()]).unwrap()
}

impl World {
    /// Three commits of 600 entries in several nodes, with a blob, a branch and a tag.
    async fn new() -> Self {
        let metadata: Arc<dyn MetadataStore> = Arc::new(MemoryMetadata::new(&RandomIds::seeded(1)));
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (clock, ids) = (Arc::new(ManualClock::new(Timestamp(5))), Arc::new(RandomIds::seeded(2)));
        let repository = Repository::open(metadata.clone(), objects.clone(), clock, ids, RepositoryOptions::default()).await.unwrap();
        let blob = repository.put_blob(Bytes::from_static(b"a model")).await.unwrap();
        let put = |n: usize| Change::put(key(&format!("models/{n:05}")), blob.to_string());
        for (from, to) in [(0, 600), (600, 601)] {
            repository.commit("main", CommitRequest::new("ada", "add", (from..to).map(put).collect())).await.unwrap();
        }
        repository.create_branch("fix", &RefSpec::branch("main"), "ada").await.unwrap();
        repository.create_tag("v1", &"main~1".parse().unwrap()).await.unwrap();
        repository.commit("main", CommitRequest::new("ada", "drop", vec![Change::delete(key("models/00003"))])).await.unwrap();
        Self { repository, metadata, objects }
    }

    async fn report(&self) -> FsckReport {
        let options = FsckOptions { owners: vec![Arc::new(Blobs)], ..FsckOptions::default() };
        fsck(&self.metadata, &self.objects, options).await.unwrap()
    }

    async fn files(&self) -> Vec<String> {
        self.objects.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap()
    }

    async fn read(&self, path: &str) -> Bytes {
        self.objects.get(&Path::from(path)).await.unwrap().bytes().await.unwrap()
    }

    async fn write(&self, path: &str, bytes: impl Into<Bytes>) {
        self.objects.put(&Path::from(path), bytes.into().into()).await.unwrap();
    }

    /// Every entry of every head, read past what the writing process remembers.
    async fn read_all(&self) -> Result<()> {
        let (clock, ids) = (Arc::new(ManualClock::new(Timestamp(5))), Arc::new(RandomIds::seeded(3)));
        let fresh = Repository::open(self.metadata.clone(), self.objects.clone(), clock, ids, RepositoryOptions::default()).await?;
        for name in ["main", "fix", "tag:v1", "main~3"] {
            let commit = fresh.resolve(&name.parse()?).await?.commit;
            for entry in scan_all(&fresh.at(&commit).await?, Scan::all()).await? {
                let digest: Digest = std::str::from_utf8(&entry.value).unwrap().parse()?;
                fresh.blob(&digest).await?;
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_whole_repository_has_no_findings_and_all_of_it_was_looked_at() {
    let world = World::new().await;
    let report = world.report().await;
    assert_eq!(report.findings, []);
    assert_eq!(report.surplus, Surplus::default());
    let counts = report.counts;
    assert_eq!((counts.refs, counts.commits, counts.packs, counts.files), (3, 4, 4, 1));
    assert!(counts.nodes > 4 && counts.entries >= 601, "{counts:?}");
}

#[tokio::test]
async fn every_file_cut_short_missing_or_with_a_flipped_bit_is_named_and_never_served() {
    let world = World::new().await;
    let mut named = BTreeSet::new();
    for path in world.files().await {
        let whole = world.read(&path).await;
        let step = (whole.len() / 23).max(1);
        let flips = (0..whole.len()).step_by(step).map(|at| {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 0x20;
            Some(bytes)
        });
        let cuts = [0, whole.len() / 2, whole.len() - 1].map(|len| Some(whole[..len].to_vec()));
        for damaged in flips.chain(cuts).chain([None]) {
            let gone = damaged.is_none();
            match damaged {
                Some(bytes) => world.write(&path, bytes).await,
                None => world.objects.delete(&Path::from(path.as_str())).await.unwrap(),
            }
            let report = world.report().await;
            let hit = report.findings.iter().find(|finding| {
                let lies_there = finding.place.is_some_and(|place| path.ends_with(&place.pack.to_string()));
                finding.object == path || lies_there
            });
            assert!(hit.is_some(), "{path}: {:?}", report.findings);
            named.extend(report.findings.iter().map(|finding| finding.damage.name()));
            match world.read_all().await {
                // The damage lies in what is read by nobody: the trailer or the index of a pack, or a bit that means nothing.
                Ok(()) => assert!(!gone && path.starts_with("packs/"), "{path}"),
                Err(Error::Corrupt { .. } | Error::NoBlob(_) | Error::Unavailable { .. }) => {}
                Err(error) => panic!("{path}: {error}"),
            }
        }
        world.write(&path, whole).await;
    }
    assert_eq!(named.into_iter().collect::<Vec<_>>(), ["commit", "file", "node", "pack", "ref"]);
    assert!(world.report().await.is_whole());
}

#[tokio::test]
async fn a_finding_names_the_place_the_commits_and_the_refs_that_reach_it() {
    let world = World::new().await;
    let fix = world.repository.branch("fix").await.unwrap().head;
    let root = world.repository.at(&fix).await.unwrap().root();
    let location = world.metadata.locate(&[root.0]).await.unwrap()[0].unwrap();
    let path = format!("packs/{}", location.pack);
    let mut bytes = world.read(&path).await.to_vec();
    bytes[location.offset as usize + 9] ^= 1;
    world.write(&path, bytes).await;
    let report = world.report().await;
    let finding = report.findings.iter().find(|finding| finding.object == root.to_string()).unwrap();
    assert_eq!((finding.damage, finding.place), (Damage::Node, Some(Place { pack: location.pack, offset: location.offset })));
    assert_eq!((&finding.commits[..], finding.commit_count), (&[fix][..], 1));
    assert_eq!(finding.refs, ["branch fix", "branch main", "reflog of fix", "reflog of main"]);
    let text = finding.to_string();
    assert!(text.contains(&path) && text.contains("branch fix") && text.contains(&fix.to_string()), "{text}");
}

#[tokio::test]
async fn entries_that_their_owner_does_not_know_and_what_nothing_names_are_told_apart() {
    let world = World::new().await;
    world.repository.commit("fix", CommitRequest::new("ada", "odd", vec![Change::put(key("odd"), "no digest")])).await.unwrap();
    world.repository.put_blob(Bytes::from_static(b"nobody names me")).await.unwrap();
    world.write("packs/left-over", vec![1, 2, 3]).await;
    let report = world.report().await;
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert_eq!((finding.damage, &finding.object[..], &finding.refs[0][..]), (Damage::Entry, "object/\"odd\"", "branch fix"));
    assert_eq!((report.surplus.packs.len(), report.surplus.blobs.len(), report.surplus.bytes), (1, 1, 18));
}

#[tokio::test]
async fn a_tree_that_is_cut_elsewhere_or_counts_wrongly_is_not_whole() {
    use crate::tree::{Child, NodeBuilder, Payload};
    let world = World::new().await;
    let leaf = |names: &[&str]| {
        let mut builder = NodeBuilder::new(0);
        names.iter().for_each(|name| builder.push(key(name).as_bytes(), &Payload::Value(Digest::of(b"a model").to_string().into())));
        builder.finish()
    };
    let (left, right) = (leaf(&["aa", "ab"]), leaf(&["ba"]));
    let inner = |entries: u64| {
        let mut builder = NodeBuilder::new(1);
        builder.push(key("ab").as_bytes(), &Payload::Child(Child { hash: left.0, entries }));
        builder.push(key("ba").as_bytes(), &Payload::Child(Child { hash: right.0, entries: 1 }));
        builder.finish()
    };
    // Two leaves of three entries, which one leaf would hold: the same content with another root.
    for (root, reason) in [(inner(2), "is not the last of its level"), (inner(7), "its parent says 7")] {
        let mut pack = crate::pack::PackBuilder::new();
        for (hash, node) in [&left, &right, &root] {
            pack.add(crate::EntryKind::Node, hash.0, node.bytes());
        }
        let (bytes, index) = pack.finish();
        world.write(&format!("packs/{}", index.pack), bytes).await;
        world.metadata.publish(&crate::Publication { pack: Some(index), ..Default::default() }).await.unwrap();
        let options = FsckOptions { owners: vec![Arc::new(Blobs)], ..FsckOptions::default() };
        let mut walk = Walk::new(world.metadata.clone(), world.objects.clone(), options);
        let found = walk.root(root.0).await.unwrap();
        assert!(found.iter().any(|index| walk.report.findings[*index].reason.contains(reason)), "{:?}", walk.report.findings);
    }
}

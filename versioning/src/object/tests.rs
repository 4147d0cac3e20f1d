//! What objects promise: verified bytes, conditions, listings, imports, and what each interruption leaves.

mod damage;
mod listing;

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::{ErrorKind, Kinded, ManualClock, RandomIds, Timestamp};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::*;
use crate::{CommitId, MemoryMetadata, MetadataStore, Repository, RepositoryOptions};

struct Fixture {
    repository: Arc<Repository>,
    metadata: Arc<dyn MetadataStore>,
    objects: Arc<dyn ObjectStore>,
}

async fn on(metadata: Arc<dyn MetadataStore>, objects: Arc<dyn ObjectStore>) -> crate::Result<Fixture> {
    let (clock, ids) = (Arc::new(ManualClock::new(Timestamp(0))), Arc::new(RandomIds::from_os()));
    let repository = Repository::open(metadata.clone(), objects.clone(), clock, ids, RepositoryOptions::default()).await?;
    Ok(Fixture { repository, metadata, objects })
}

async fn in_memory() -> Fixture {
    on(Arc::new(MemoryMetadata::new(&RandomIds::seeded(2))), Arc::new(InMemory::new())).await.unwrap()
}

/// Bytes that repeat nowhere near.
fn bytes(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

impl Fixture {
    async fn head(&self) -> CommitId {
        self.repository.branch("main").await.unwrap().head
    }

    async fn upload(&self, path: &str, content: &[u8]) -> crate::Result<ObjectEntry> {
        let mut writer = self.repository.object_writer(path, "")?;
        for chunk in content.chunks(300_000) {
            writer.write(chunk).await?;
        }
        writer.finish().await
    }

    async fn make(&self, changes: Vec<ObjectChange>) -> crate::Result<ObjectsCommitted> {
        self.repository.commit_objects("main", ObjectCommit::new("ada", "", changes)).await
    }

    async fn put_if(&self, path: &str, content: &[u8], condition: ObjectCondition) -> crate::Result<ObjectsCommitted> {
        let entry = self.upload(path, content).await?;
        self.make(vec![ObjectChange::Put { path: path.to_owned(), entry, condition }]).await
    }

    async fn put(&self, path: &str, content: &[u8]) -> ObjectsCommitted {
        self.put_if(path, content, ObjectCondition::Any).await.unwrap()
    }

    async fn read(&self, path: &str, range: Option<Range<u64>>) -> crate::Result<Bytes> {
        self.repository.read_object(&self.head().await, path, range).await?.bytes().await
    }
}

fn delete(path: &str) -> ObjectChange {
    ObjectChange::Delete { path: path.to_owned(), condition: ObjectCondition::Any }
}

fn rename(from: &str, to: &str) -> ObjectChange {
    ObjectChange::Rename { from: from.to_owned(), to: to.to_owned(), condition: ObjectCondition::Absent }
}

#[test]
fn entries_have_their_golden_bytes() {
    let (digest, pieces): (Digest, Digest) = ("ab".repeat(32).parse().unwrap(), "cd".repeat(32).parse().unwrap());
    let blob = ObjectEntry::of_blob(digest, "application/json".to_owned(), 123);
    let entry = |address, size, pieces| ObjectEntry { address, checksum: digest, content_type: UNKNOWN_CONTENT.to_owned(), size, pieces };
    let stored = entry(ObjectAddress::Stored(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), 3 * PIECE_BYTES + 1, None);
    let stored = ObjectEntry { pieces: Some(pieces), ..stored };
    let imported = entry(ObjectAddress::Imported("import/models/a b.bin".to_owned()), 17, None);
    for (golden, entry) in [
        (include_str!("../../tests/golden/object.v1.json"), blob),
        (include_str!("../../tests/golden/object-stored.v2.json"), stored),
        (include_str!("../../tests/golden/object-import.v2.json"), imported),
    ] {
        assert_eq!(entry.to_bytes(), golden.trim_end().as_bytes());
        assert_eq!(ObjectEntry::from_bytes(golden.trim_end().as_bytes()).unwrap(), entry);
        let newer = golden.replace("\"format\":", "\"more\":1,\"format\":1");
        assert!(ObjectEntry::from_bytes(newer.as_bytes()).unwrap_err().to_string().contains("format 1"), "{newer}");
        let crossed = golden.replace("\"format\":1", "\"format\":X").replace("\"format\":2", "\"format\":1").replace("\"format\":X", "\"format\":2");
        assert!(ObjectEntry::from_bytes(crossed.as_bytes()).is_err(), "{crossed}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_entry_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0..200usize) {
        let _ = ObjectEntry::from_bytes(&bytes);
        let golden = include_bytes!("../../tests/golden/object-import.v2.json");
        prop_assert!(cut >= golden.len() - 1 || ObjectEntry::from_bytes(&golden[..cut]).is_err());
    }
}

#[test]
fn paths_are_held_to_their_rules() {
    for good in ["a", "a b/ü/🦀", "…/x?#%2F", &"x".repeat(1024), "datasets/train"] {
        check_object_path(good).unwrap();
    }
    for bad in ["", "/a", "a/", "a//b", ".", "a/../b", "a/./b", "a\nb", "a\u{7f}", &"x".repeat(1025)] {
        let error = check_object_path(bad).unwrap_err();
        assert!(matches!(error, Error::ObjectPath { .. }) && error.kind() == ErrorKind::InvalidArgument, "{bad:?}");
    }
}

#[tokio::test]
async fn objects_of_every_size_come_back_and_ranges_at_every_edge_are_cut_right() {
    let fixture = in_memory().await;
    let piece = PIECE_BYTES as usize;
    for size in [0, 1, piece - 1, piece, piece + 1, 3 * piece, 5 * piece + 7, 8 * piece, 8 * piece + 1, 17 * piece + 3] {
        let content = bytes(size);
        fixture.put("a/b.bin", &content).await;
        assert!(fixture.read("a/b.bin", None).await.unwrap() == content, "{size}");
        let info = fixture.repository.stat_object(&fixture.head().await, "a/b.bin").await.unwrap();
        assert_eq!((info.entry.size(), info.entry.checksum()), (size as u64, Digest::of(&content)));
        assert_eq!(matches!(info.entry.address(), ObjectAddress::Blob(_)), size <= piece);
        let edges = [0, 1, piece - 1, piece, piece + 1, 4 * piece - 1, 4 * piece, 5 * piece, size.saturating_sub(1), size, size + 1, 1 << 40];
        for start in edges {
            for end in edges.into_iter().filter(|end| *end >= start) {
                let found = fixture.read("a/b.bin", Some(start as u64..end as u64)).await;
                match start <= size {
                    true => assert!(found.unwrap() == content[start..end.min(size)], "{size}: {start}..{end}"),
                    false => assert_eq!(found.unwrap_err().kind(), ErrorKind::InvalidArgument),
                }
            }
        }
        #[expect(clippy::reversed_empty_ranges, reason = "what is refused")]
        let backwards = fixture.read("a/b.bin", Some(1..0)).await;
        assert_eq!(backwards.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[tokio::test]
async fn what_is_read_and_what_is_sent_come_in_bounded_parts() {
    let fixture = in_memory().await;
    let content = bytes(40 << 20);
    fixture.put("big", &content).await;
    let mut reader = fixture.repository.read_object(&fixture.head().await, "big", None).await.unwrap();
    let (mut at, mut parts) = (0, 0);
    while let Some(part) = reader.next().await.unwrap() {
        assert!(part.len() as u64 <= PIECE_BYTES && content[at..at + part.len()] == part);
        (at, parts) = (at + part.len(), parts + 1);
    }
    assert_eq!((at, parts), (content.len(), 40));
}

#[tokio::test]
async fn a_commit_of_objects_is_all_or_nothing_and_the_same_again_is_no_commit() {
    let fixture = in_memory().await;
    let (one, two) = (fixture.upload("one.json", b"1").await.unwrap(), fixture.upload("two.txt", &bytes(2 << 20)).await.unwrap());
    assert_eq!((one.content_type(), two.content_type()), ("application/json", "text/plain; charset=utf-8"));
    let put = |path: &str, entry: &ObjectEntry| ObjectChange::Put { path: path.into(), entry: entry.clone(), condition: ObjectCondition::Any };
    let made = fixture.make(vec![put("one.json", &one), put("two.txt", &two)]).await.unwrap();
    assert!(made.changed);
    let again = fixture.put("two.txt", &bytes(2 << 20)).await;
    assert_eq!(again, ObjectsCommitted { commit: made.commit, changed: false });
    let error = fixture.make(vec![delete("one.json"), delete("three")]).await.unwrap_err();
    assert!(matches!(&error, Error::NoObject(path) if path == "three"), "{error}");
    assert_eq!(fixture.head().await, made.commit);
    // Later changes see the earlier ones.
    fixture.make(vec![rename("one.json", "b"), put("one.json", &two), rename("b", "c/d"), delete("two.txt")]).await.unwrap();
    assert_eq!(fixture.read("c/d", None).await.unwrap(), "1");
    assert_eq!(fixture.read("one.json", None).await.unwrap(), bytes(2 << 20));
    assert!(matches!(fixture.read("two.txt", None).await, Err(Error::NoObject(_))));
    // The past stays readable.
    assert_eq!(fixture.repository.read_object(&made.commit, "one.json", None).await.unwrap().bytes().await.unwrap(), "1");
    assert_eq!(fixture.repository.commit_info(&made.commit).await.unwrap().commit.message, "change 2 objects");
}

#[tokio::test]
async fn conditions_are_judged_on_the_head_even_between_racing_writers() {
    let fixture = Arc::new(in_memory().await);
    let checksum = |content: &[u8]| ObjectCondition::Checksum(Digest::of(content));
    for (content, condition, fits) in [
        ("a", ObjectCondition::Present, false),
        ("a", checksum(b"a"), false),
        ("a", ObjectCondition::Absent, true),
        ("b", ObjectCondition::Absent, false),
        ("b", checksum(b"b"), false),
        ("b", checksum(b"a"), true),
        ("c", ObjectCondition::Present, true),
    ] {
        let made = fixture.put_if("x", content.as_bytes(), condition).await;
        assert_eq!(made.is_ok(), fits, "{content} {condition:?}");
        if let Err(error) = made {
            assert!(matches!(error, Error::ObjectCondition { .. }) && error.kind() == ErrorKind::FailedPrecondition, "{error}");
        }
    }
    let conditional = ObjectChange::Delete { path: "x".into(), condition: checksum(b"b") };
    assert!(matches!(fixture.make(vec![conditional]).await, Err(Error::ObjectCondition { .. })));
    let racers = (0..20).map(|number| {
        let fixture = fixture.clone();
        async move { fixture.put_if("raced", format!("{number}").as_bytes(), ObjectCondition::Absent).await.is_ok() }
    });
    let won = futures::future::join_all(racers).await;
    assert_eq!(won.into_iter().filter(|won| *won).count(), 1);
}

#[tokio::test]
async fn files_of_the_object_store_are_imported_without_a_copy() {
    let fixture = in_memory().await;
    let big = bytes(2 * PIECE_BYTES as usize + 5);
    for (path, content) in [("import/m/a b.json", b"{}".to_vec()), ("import/m/deep/big.bin", big.clone()), ("import/mm", b"no".to_vec())] {
        fixture.objects.put(&Path::parse(path).unwrap(), content.into()).await.unwrap();
    }
    let files = |fixture: &Fixture| {
        let list = fixture.objects.list(None);
        async move { futures::TryStreamExt::try_collect::<Vec<_>>(list).await.unwrap().into_iter().map(|file| file.size).sum::<u64>() }
    };
    let before = files(&fixture).await;
    let import = |source: &str, to: &str| ObjectImport { source: source.into(), to: to.into(), author: "ada".into(), ..ObjectImport::default() };
    let mut told = Vec::new();
    let (made, imported) =
        fixture.repository.import_objects("main", import("import/m/", "models/v1"), |info| told.push(info.path.clone())).await.unwrap();
    assert!(made.changed && imported.iter().all(|info| info.entry.is_imported()));
    assert_eq!(told, ["models/v1/a b.json", "models/v1/deep/big.bin"]);
    assert!(files(&fixture).await - before < 8192, "bytes were copied");
    assert!(fixture.read("models/v1/deep/big.bin", Some(5..PIECE_BYTES + 9)).await.unwrap() == big[5..PIECE_BYTES as usize + 9]);
    let (again, _) = fixture.repository.import_objects("main", import("import/m", "models/v1"), |_| ()).await.unwrap();
    assert!(!again.changed);
    let (_, one) = fixture.repository.import_objects("main", import("import/mm", ""), |_| ()).await.unwrap();
    assert_eq!(one[0].path, "import/mm");
    // A name is deleted, the original is not.
    fixture.make(vec![delete("import/mm")]).await.unwrap();
    fixture.objects.head(&Path::from("import/mm")).await.unwrap();
    for (source, kind) in [
        ("import/none", ErrorKind::NotFound),
        ("blobs", ErrorKind::InvalidArgument),
        ("data/x", ErrorKind::InvalidArgument),
        ("", ErrorKind::InvalidArgument),
        ("import/../packs", ErrorKind::InvalidArgument),
    ] {
        let error = fixture.repository.import_objects("main", import(source, ""), |_| ()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{source}: {error}");
    }
}

//! Damage, interruptions and full disks.

use super::*;
use crate::testkit::LossyFiles;
use crate::{SqliteMetadata, local_objects, local_objects_on};

type Edit = (&'static str, fn(&mut Vec<u8>));

const EDITS: [Edit; 4] = [
    ("a flipped bit in the second piece", |bytes| bytes[PIECE_BYTES as usize + 100] ^= 4),
    ("a byte cut off", |bytes| bytes.truncate(bytes.len() - 1)),
    ("a byte too many", |bytes| bytes.push(0)),
    ("other bytes of the same length", |bytes| bytes.reverse()),
];

async fn on_disk(folder: &std::path::Path) -> Fixture {
    let metadata = SqliteMetadata::open(&folder.join("metadata.sqlite"), &RandomIds::seeded(2)).await.unwrap();
    on(Arc::new(metadata), local_objects(&folder.join("objects")).unwrap()).await.unwrap()
}

/// What a read of it all gives before it fails.
async fn read_until_it_fails(fixture: &Fixture, path: &str) -> (Vec<u8>, Error) {
    let mut given = Vec::new();
    let mut reader = match fixture.repository.read_object(&fixture.head().await, path, None).await {
        Ok(reader) => reader,
        Err(error) => return (given, error),
    };
    loop {
        match reader.next().await {
            Ok(part) => given.extend_from_slice(&part.expect("damage is found before the end")),
            Err(error) => return (given, error),
        }
    }
}

#[tokio::test]
async fn damage_of_what_is_stored_is_named_and_nothing_unverified_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let content = bytes(3 * PIECE_BYTES as usize + 17);
    let fixture = on_disk(folder.path()).await;
    fixture.put("models/net.bin", &content).await;
    let location = fixture.repository.stat_object(&fixture.head().await, "models/net.bin").await.unwrap().entry.address().location();
    let file = folder.path().join("objects").join(location.as_ref());
    for (damage, edit) in EDITS {
        let mut damaged = content.clone();
        edit(&mut damaged);
        std::fs::write(&file, damaged).unwrap();
        let (given, error) = read_until_it_fails(&fixture, "models/net.bin").await;
        assert!(matches!(error, Error::Corrupt { .. }), "{damage}: {error}");
        assert!(error.to_string().contains("models/net.bin") && error.to_string().contains(location.as_ref()), "{damage}: {error}");
        assert!(content.starts_with(&given) && given.len() <= PIECE_BYTES as usize, "{damage}");
    }
    // A range that does not touch the damage is served.
    let mut damaged = content.clone();
    EDITS[0].1(&mut damaged);
    std::fs::write(&file, damaged).unwrap();
    let sound = 2 * PIECE_BYTES..3 * PIECE_BYTES + 4;
    assert!(fixture.read("models/net.bin", Some(sound.clone())).await.unwrap() == content[sound.start as usize..sound.end as usize]);
    std::fs::remove_file(&file).unwrap();
    let error = fixture.read("models/net.bin", None).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Internal && error.to_string().contains("missing"), "{error}");
}

#[tokio::test]
async fn damage_of_piece_hashes_and_of_blobs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = on_disk(folder.path()).await;
    fixture.put("big", &bytes(2 << 20)).await;
    fixture.put("small", b"a few bytes").await;
    drop(fixture);
    let blobs = folder.path().join("objects/blobs");
    for entry in std::fs::read_dir(&blobs).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let fixture = on_disk(folder.path()).await;
    for path in ["big", "small"] {
        let error = fixture.read(path, None).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains(&format!("object {path:?} at blobs/")), "{error}");
    }
    std::fs::remove_dir_all(&blobs).unwrap();
    for path in ["big", "small"] {
        let error = fixture.read(path, None).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("missing"), "{error}");
    }
}

#[tokio::test]
async fn a_changed_original_is_told_as_changed_and_not_as_damage() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = on_disk(folder.path()).await;
    let content = bytes(2 * PIECE_BYTES as usize);
    let original = folder.path().join("objects/import/run.tar");
    std::fs::create_dir_all(original.parent().unwrap()).unwrap();
    std::fs::write(&original, &content).unwrap();
    let import = ObjectImport { source: "import/run.tar".into(), to: "runs/1.tar".into(), ..ObjectImport::default() };
    fixture.repository.import_objects("main", import.clone(), |_| ()).await.unwrap();
    assert!(fixture.read("runs/1.tar", None).await.unwrap() == content);
    for (damage, edit) in EDITS {
        let mut changed = content.clone();
        edit(&mut changed);
        std::fs::write(&original, changed).unwrap();
        let (given, error) = read_until_it_fails(&fixture, "runs/1.tar").await;
        assert!(
            matches!(&error, Error::ImportChanged { path, address, .. } if &**path == "runs/1.tar" && &**address == "import/run.tar"),
            "{damage}: {error}"
        );
        assert!(content.starts_with(&given) && given.len() <= PIECE_BYTES as usize, "{damage}");
    }
    std::fs::remove_file(&original).unwrap();
    assert!(matches!(fixture.read("runs/1.tar", None).await, Err(Error::ImportChanged { .. })));
    // Imported anew it is read again, and the commit before still knows what it had.
    std::fs::write(&original, b"another").unwrap();
    let before = fixture.head().await;
    assert!(fixture.repository.import_objects("main", import, |_| ()).await.unwrap().0.changed);
    assert_eq!(fixture.read("runs/1.tar", None).await.unwrap(), "another");
    assert!(fixture.repository.read_object(&before, "runs/1.tar", None).await.is_err());
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = on_disk(folder.path()).await;
    for abort in [true, false] {
        let mut writer = fixture.repository.object_writer("x", "").unwrap();
        writer.write(&bytes(20 << 20)).await.unwrap();
        match abort {
            true => writer.abort().await,
            false => drop(writer),
        }
        let left = std::fs::read_dir(folder.path().join("objects/objects")).unwrap().count();
        assert_eq!(left, 0);
    }
    assert!(matches!(fixture.read("x", None).await, Err(Error::NoObject(_))));
}

async fn on_lossy_disk(folder: &std::path::Path, files: &LossyFiles) -> Option<Fixture> {
    let metadata = SqliteMetadata::open(&folder.join("metadata.sqlite"), &RandomIds::seeded(2)).await.unwrap();
    on(Arc::new(metadata), local_objects_on(Arc::new(files.clone()), &folder.join("objects")).ok()?).await.ok()
}

#[tokio::test]
async fn power_lost_at_any_step_of_a_put_leaves_all_or_nothing() {
    // One object that goes in one piece, one that goes in parts, and a blob, in one commit.
    let contents = [("stored", bytes(PIECE_BYTES as usize + 1)), ("parts", bytes((8 << 20) + 5)), ("blob", b"blob".to_vec())];
    let mut cut = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        let files = LossyFiles::default();
        let fixture = on_lossy_disk(folder.path(), &files).await.unwrap();
        files.cut_power_after(cut);
        let attempt = async {
            let mut changes = Vec::new();
            for (path, content) in &contents {
                let entry = fixture.upload(path, content).await?;
                changes.push(ObjectChange::Put { path: (*path).to_owned(), entry, condition: ObjectCondition::Absent });
            }
            fixture.make(changes).await
        };
        let acknowledged = attempt.await;
        if let Err(error) = &acknowledged {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "cut after {cut}: {error}");
        }
        fixture.repository.close().await;
        files.lose_power().unwrap();
        let fixture = on_lossy_disk(folder.path(), &files).await.unwrap();
        let page = fixture.repository.list_objects(&fixture.head().await, &ObjectQuery::default()).await.unwrap();
        assert!(page.items.is_empty() || page.items.len() == contents.len(), "cut after {cut}");
        assert!(acknowledged.is_err() || !page.items.is_empty(), "cut after {cut}: an acknowledged commit is gone");
        if !page.items.is_empty() {
            for (path, content) in &contents {
                assert!(fixture.read(path, None).await.unwrap() == *content, "cut after {cut}: {path}");
            }
        }
        if acknowledged.is_ok() {
            assert!(cut > 15, "{cut} steps are too few to be all");
            return;
        }
        cut += 1;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_a_put_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let files = LossyFiles::default();
    let fixture = on_lossy_disk(folder.path(), &files).await.unwrap();
    let before = fixture.head().await;
    files.set_full(true);
    for size in [10, 2 << 20, 9 << 20] {
        let error = fixture.put_if("x", &bytes(size), ObjectCondition::Any).await.unwrap_err();
        assert_eq!((error.kind(), fixture.head().await), (ErrorKind::Exhausted, before), "{size}: {error}");
    }
    // Full in the midst of an upload: the writer is done for, and says so.
    files.set_full(false);
    let mut writer = fixture.repository.object_writer("x", "").unwrap();
    writer.write(&bytes(9 << 20)).await.unwrap();
    files.set_full(true);
    assert_eq!(writer.write(&bytes(9 << 20)).await.unwrap_err().kind(), ErrorKind::Exhausted);
    files.set_full(false);
    assert_eq!(writer.write(b"more").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(writer.finish().await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    fixture.put("x", &bytes(9 << 20)).await;
    assert!(fixture.read("x", None).await.unwrap() == bytes(9 << 20));
}

#[tokio::test]
async fn an_object_survives_a_restart_and_is_read_by_another_server() {
    let folder = tempfile::tempdir().unwrap();
    let content = bytes(3 << 20);
    let first = on_disk(folder.path()).await;
    let made = first.put("a", &content).await;
    first.repository.close().await;
    let other = on(first.metadata.clone(), local_objects(&folder.path().join("objects")).unwrap()).await.unwrap();
    assert!(other.repository.read_object(&made.commit, "a", None).await.unwrap().bytes().await.unwrap() == content);
}

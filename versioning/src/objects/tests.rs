//! What local objects promise when power fails and when the disk is full.

use anabranch_core::{ErrorKind, Kinded};
use object_store::ObjectStoreExt;

use super::*;
use crate::testkit::LossyFiles;

struct Fixture {
    _folder: tempfile::TempDir,
    files: LossyFiles,
    objects: Arc<dyn ObjectStore>,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let files = LossyFiles::default();
    let objects = local_objects_on(Arc::new(files.clone()), &folder.path().join("a/objects")).unwrap();
    Fixture { _folder: folder, files, objects }
}

async fn read(objects: &Arc<dyn ObjectStore>, path: &str) -> Option<Vec<u8>> {
    match objects.get(&path.into()).await {
        Ok(found) => Some(found.bytes().await.unwrap().to_vec()),
        Err(object_store::Error::NotFound { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn whatever_was_acknowledged_survives_loss_of_power() {
    let Fixture { _folder, files, objects } = fixture();
    objects.put(&"x/y/put".into(), "one".into()).await.unwrap();
    objects.put_opts(&"x/create".into(), "two".into(), PutMode::Create.into()).await.unwrap();
    let mut upload = objects.put_multipart(&"big/parts".into()).await.unwrap();
    let (first, second) = (upload.put_part("th".into()), upload.put_part("ree".into()));
    second.await.unwrap();
    first.await.unwrap();
    upload.complete().await.unwrap();
    objects.copy(&"x/create".into(), &"copies/copy".into()).await.unwrap();
    objects.put(&"x/gone".into(), "four".into()).await.unwrap();
    objects.rename(&"x/gone".into(), &"moved/there".into()).await.unwrap();
    files.lose_power().unwrap();
    for (path, content) in [("x/y/put", "one"), ("x/create", "two"), ("big/parts", "three"), ("copies/copy", "two"), ("moved/there", "four")] {
        assert_eq!(read(&objects, path).await.as_deref(), Some(content.as_bytes()), "{path}");
    }
    assert_eq!(read(&objects, "x/gone").await, None);
}

#[tokio::test]
async fn power_lost_at_any_step_of_a_put_leaves_the_old_or_the_new_object() {
    for create in [false, true] {
        for cut in 0.. {
            let Fixture { _folder, files, objects } = fixture();
            if !create {
                objects.put(&"d/name".into(), "old".into()).await.unwrap();
            }
            files.cut_power_after(cut);
            let mode = if create { PutMode::Create } else { PutMode::Overwrite };
            let acknowledged = objects.put_opts(&"d/name".into(), "new".into(), mode.into()).await.is_ok();
            files.lose_power().unwrap();
            let found = read(&objects, "d/name").await;
            let old = (!create).then(|| b"old".to_vec());
            assert!(found.as_deref() == Some(b"new") || (!acknowledged && found == old), "cut after {cut}: {found:?}");
            if acknowledged {
                assert!(cut > 4);
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_create_never_replaces_and_an_abandoned_upload_leaves_nothing() {
    let Fixture { _folder, objects, .. } = fixture();
    objects.put(&"name".into(), "old".into()).await.unwrap();
    let taken = objects.put_opts(&"name".into(), "new".into(), PutMode::Create.into()).await;
    assert!(matches!(taken, Err(object_store::Error::AlreadyExists { .. })));
    let mut upload = objects.put_multipart(&"upload".into()).await.unwrap();
    upload.put_part("x".into()).await.unwrap();
    drop(upload);
    let mut aborted = objects.put_multipart(&"upload".into()).await.unwrap();
    aborted.abort().await.unwrap();
    assert!(aborted.complete().await.is_err());
    let listed: Vec<_> = objects.list(None).map(|object| object.unwrap().location.to_string()).collect().await;
    assert_eq!(listed, ["name"]);
    assert_eq!(read(&objects, "name").await.unwrap(), b"old");
    objects.delete(&"name".into()).await.unwrap();
    assert!(matches!(objects.delete(&"name".into()).await, Err(object_store::Error::NotFound { .. })));
}

#[tokio::test]
async fn a_full_disk_is_told_as_exhausted_and_leaves_nothing_behind() {
    let Fixture { _folder, files, objects } = fixture();
    objects.put(&"name".into(), "old".into()).await.unwrap();
    files.set_full(true);
    let error = objects.put(&"name".into(), "new".into()).await.unwrap_err();
    assert_eq!(Error::backend("put", error).kind(), ErrorKind::Exhausted);
    files.set_full(false);
    assert_eq!(read(&objects, "name").await.unwrap(), b"old");
    objects.put(&"name".into(), "new".into()).await.unwrap();
    assert_eq!(read(&objects, "name").await.unwrap(), b"new");
}

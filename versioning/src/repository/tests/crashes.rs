//! The crash points of the committer's table, and damage.

use anabranch_core::{ErrorKind, Kinded};

use super::*;
use crate::testkit::{FaultyMetadata, LossyFiles, MetadataFault};
use crate::{Error, MergeRequest, local_objects_on};

/// A repository whose metadata fail on command.
async fn faulty() -> (Fixture, Arc<FaultyMetadata>) {
    let inner = in_memory().await;
    let faults = Arc::new(FaultyMetadata::new(inner.metadata.clone()));
    let metadata: Arc<dyn MetadataStore> = faults.clone();
    (open(&metadata, &inner.objects).await, faults)
}

#[tokio::test]
async fn a_failure_before_the_transaction_leaves_the_old_head() {
    let (fixture, faults) = faulty().await;
    let before = commit(&fixture, vec![put("a", "1")]).await.unwrap().commit;
    faults.arm(MetadataFault::Before);
    let error = commit(&fixture, vec![put("a", "2")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for fixture in [&fixture, &open(&fixture.metadata, &fixture.objects).await] {
        assert_eq!(head(fixture).await, before);
        assert_eq!(fixture.repository.get(&before, &key("a")).await.unwrap().unwrap(), "1");
    }
    // The same again: the pack is there already, the commit is made.
    let after = commit(&fixture, vec![put("a", "2")]).await.unwrap();
    assert_eq!(after.previous, before);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_made() {
    let (fixture, faults) = faulty().await;
    faults.arm(MetadataFault::After);
    let made = commit(&fixture, vec![put("a", "1")]).await.unwrap();
    assert_eq!(head(&fixture).await, made.commit);
    faults.arm(MetadataFault::AfterAndBlind);
    let unknown = commit(&fixture, vec![put("a", "2")]).await.unwrap_err();
    assert!(matches!(unknown, Error::OutcomeUnknown { .. }) && unknown.kind() == ErrorKind::Unavailable, "{unknown}");
    let reopened = open(&fixture.metadata, &fixture.objects).await;
    let map = content(&reopened.repository, &head(&reopened).await).await;
    assert_eq!(map[&key("a")], "2");
    faults.arm(MetadataFault::After);
    reopened.repository.create_branch("side", &spec("main"), "ada").await.unwrap();
    let ahead = reopened.repository.commit("side", request(vec![put("b", "1")])).await.unwrap().commit;
    faults.arm(MetadataFault::After);
    let merge = MergeRequest::new(spec("side"), "ada");
    reopened.repository.merge("main", merge).await.unwrap();
    assert_eq!(head(&reopened).await, ahead);
}

#[tokio::test]
async fn a_head_that_another_server_moved_is_met_again() {
    let (fixture, faults) = faulty().await;
    faults.arm(MetadataFault::Outrun);
    commit(&fixture, vec![put("a", "1")]).await.unwrap();
    // Two servers, each with committers of its own.
    let other = open(&fixture.metadata, &fixture.objects).await;
    for round in 0..20 {
        let (ours, theirs) = (format!("ours/{round}"), format!("theirs/{round}"));
        let (ours, theirs) = tokio::join!(commit(&fixture, vec![put(&ours, "1")]), commit(&other, vec![put(&theirs, "1")]));
        ours.unwrap();
        theirs.unwrap();
    }
    assert_eq!(content(&other.repository, &head(&other).await).await.len(), 41);
}

/// Opens a repository whose objects lie on a disk that forgets what was not synced.
async fn on_lossy_disk(folder: &Path, files: &LossyFiles) -> Option<Fixture> {
    let metadata = SqliteMetadata::open(&folder.join("metadata.sqlite"), &RandomIds::seeded(2)).await.unwrap();
    let objects = local_objects_on(Arc::new(files.clone()), &folder.join("objects")).ok()?;
    let ids = Arc::new(RandomIds::seeded(1));
    let clock = Arc::new(ManualClock::new(Timestamp(0)));
    let metadata: Arc<dyn MetadataStore> = Arc::new(metadata);
    let repository = Repository::open(metadata.clone(), objects.clone(), clock.clone(), ids, RepositoryOptions::default()).await.ok()?;
    Some(Fixture { repository, metadata, objects, clock })
}

#[tokio::test]
async fn power_lost_at_any_step_leaves_the_old_or_the_new_head_as_a_whole() {
    let mut whole = false;
    for cut in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let files = LossyFiles::default();
        files.cut_power_after(cut);
        let mut acknowledged = Vec::new();
        let mut attempted = vec![BTreeMap::new()];
        let mut blob = None;
        // Opening for the first time, a blob and three commits: power fails somewhere in between.
        if let Some(fixture) = on_lossy_disk(folder.path(), &files).await {
            acknowledged.push((head(&fixture).await, BTreeMap::new()));
            blob = fixture.repository.put_blob("blob".into()).await.ok();
            for round in 0..3 {
                let mut next = acknowledged.last().unwrap().1.clone();
                next.insert(key(&format!("k{round}")), Bytes::from(format!("v{round}")));
                attempted.push(next.clone());
                match commit(&fixture, vec![put(&format!("k{round}"), &format!("v{round}"))]).await {
                    Ok(made) => acknowledged.push((made.commit, next)),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Unavailable);
                        break;
                    }
                }
            }
            whole = acknowledged.len() == 4;
            fixture.repository.close().await;
        }
        files.lose_power().unwrap();
        let fixture = on_lossy_disk(folder.path(), &files).await.unwrap();
        let map = content(&fixture.repository, &head(&fixture).await).await;
        assert!(attempted.contains(&map), "cut after {cut}: {map:?}");
        if let Some((last, state)) = acknowledged.last() {
            assert!(map.len() >= state.len(), "cut after {cut}: an acknowledged commit is gone");
            assert!(fixture.repository.is_ancestor(last, &head(&fixture).await).await.unwrap());
        }
        for (id, state) in &acknowledged {
            assert_eq!(&content(&fixture.repository, id).await, state, "cut after {cut}");
        }
        if let Some(digest) = blob {
            assert_eq!(fixture.repository.blob(&digest).await.unwrap(), "blob");
        }
        commit(&fixture, vec![put("after", "the crash")]).await.unwrap();
        if whole {
            assert!(cut > 20, "{cut} steps are too few to be all");
            return;
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_commits_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let files = LossyFiles::default();
    let fixture = on_lossy_disk(folder.path(), &files).await.unwrap();
    let before = head(&fixture).await;
    files.set_full(true);
    let error = commit(&fixture, vec![put("a", "1")]).await.unwrap_err();
    assert_eq!((error.kind(), head(&fixture).await), (ErrorKind::Exhausted, before));
    files.set_full(false);
    commit(&fixture, vec![put("a", "1")]).await.unwrap();
}

#[tokio::test]
async fn damaged_and_missing_packs_are_told_by_the_name_of_what_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = on_disk(folder.path()).await;
    let made = commit(&fixture, vec![put("a", "1")]).await.unwrap();
    let packs = folder.path().join("objects/packs");
    for entry in std::fs::read_dir(&packs).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8..].iter_mut().for_each(|byte| *byte ^= 0xFF);
        std::fs::write(&path, bytes).unwrap();
    }
    let reopened = on_disk(folder.path()).await;
    let error = reopened.repository.at(&made.commit).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains(&made.commit.to_string()), "{error}");
    std::fs::remove_dir_all(&packs).unwrap();
    let error = reopened.repository.at(&made.commit).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Internal && error.to_string().contains("missing"), "{error}");
}

//! Renaming, deleting and listing while others write; stores and clocks that misbehave.

use anabranch_core::{ErrorKind, Kinded};
use futures::future::join_all;

use super::commits::Increment;
use super::*;
use crate::testkit::{FaultyMetadata, LossyFiles};
use crate::{Error, MAX_PAGE, local_objects_on};

#[tokio::test]
async fn a_renamed_branch_keeps_its_id_reflog_and_commits() {
    let fixture = in_memory().await;
    let repository = &fixture.repository;
    let old = repository.create_branch("try/a", &spec("main"), "ada").await.unwrap();
    let made = repository.commit("try/a", request(vec![put("a", "1")])).await.unwrap();
    let renamed = repository.rename_branch("try/a", "try/b").await.unwrap();
    assert_eq!((renamed.id, renamed.name.as_str(), renamed.head), (old.id, "try/b", made.commit));
    assert!(matches!(repository.commit("try/a", request(vec![put("a", "2")])).await, Err(Error::NoBranch(_))));
    repository.commit("try/b", request(vec![put("a", "2")])).await.unwrap();
    assert_eq!(repository.reflog(old.id, None, 10).await.unwrap().len(), 3);
    repository.create_branch("try/a", &spec("main"), "ada").await.unwrap();
    assert!(matches!(repository.rename_branch("try/a", "try/b").await, Err(Error::BranchExists(_))));
    assert!(matches!(repository.rename_branch("try/a", "no good").await, Err(Error::RefName { .. })));
    assert!(matches!(repository.rename_branch("none", "x").await, Err(Error::NoBranch(_))));
    repository.protect_branch("try/b", true).await.unwrap();
    for protected in ["main", "try/b"] {
        assert!(matches!(repository.rename_branch(protected, "x").await, Err(Error::Protected(_))), "{protected}");
    }
    let page = repository.branches_page("try/", Some("try/a"), MAX_PAGE + 1).await.unwrap();
    assert_eq!(page.into_iter().map(|branch| branch.name).collect::<Vec<_>>(), ["try/b"]);
    repository.create_tag("v1", &spec("main")).await.unwrap();
    assert_eq!(repository.tags_page("v", None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn writers_that_wait_while_their_branch_is_renamed_or_made_again_are_each_answered() {
    for recreate in [false, true] {
        let inner = in_memory().await;
        let faults = Arc::new(FaultyMetadata::new(inner.metadata.clone()));
        let metadata: Arc<dyn MetadataStore> = faults.clone();
        let fixture = open(&metadata, &inner.objects).await;
        let repository = fixture.repository.clone();
        let old = repository.create_branch("x", &spec("main"), "ada").await.unwrap();
        faults.freeze(true);
        let increment = || request(vec![Change::Apply(Box::new(Increment(key("n"))))]);
        let writers = join_all((0..50).map(|_| repository.commit("x", increment())));
        let meanwhile = async {
            // The first group hangs in its publication by now; the others wait behind it.
            tokio::task::yield_now().await;
            let moved = match recreate {
                false => repository.rename_branch("x", "y").await.unwrap().id,
                true => {
                    repository.delete_branch("x").await.unwrap();
                    repository.create_branch("x", &spec("main"), "ada").await.unwrap().id
                }
            };
            faults.freeze(false);
            moved
        };
        let (answers, id) = tokio::join!(writers, meanwhile);
        let made = answers.iter().filter(|answer| answer.is_ok()).count();
        assert!(answers.iter().all(|answer| matches!(answer, Ok(_) | Err(Error::NoBranch(_)))), "{answers:?}");
        let branch = repository.branch(if recreate { "x" } else { "y" }).await.unwrap();
        assert_eq!((branch.id, recreate || id == old.id), (id, true));
        let held = repository.get(&branch.head, &key("n")).await.unwrap();
        assert_eq!(held.map_or(0, |held| std::str::from_utf8(&held).unwrap().parse().unwrap()), made, "an answer was wrong");
        assert!(!recreate || made == 50, "a branch of the name was there");
    }
}

#[tokio::test]
async fn while_the_object_store_is_away_commits_fail_and_leave_nothing_and_later_ones_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let files = LossyFiles::default();
    let objects = local_objects_on(Arc::new(files.clone()), &folder.path().join("objects")).unwrap();
    let metadata: Arc<dyn MetadataStore> = Arc::new(MemoryMetadata::new(&RandomIds::seeded(2)));
    let fixture = open(&metadata, &objects).await;
    let before = commit(&fixture, vec![put("a", "1")]).await.unwrap().commit;
    files.set_away(true);
    let answers = join_all((0..30).map(|i| fixture.repository.commit("main", request(vec![put(&format!("k{i}"), "1")])))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable)), "{answers:?}");
    assert_eq!(head(&fixture).await, before);
    files.set_away(false);
    let answers = join_all((0..30).map(|i| fixture.repository.commit("main", request(vec![put(&format!("k{i}"), "1")])))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(content(&fixture.repository, &head(&fixture).await).await.len(), 31);
}

#[tokio::test]
async fn after_the_clock_went_backwards_a_time_names_the_last_head_that_is_not_later() {
    let fixture = in_memory().await;
    let mut made = Vec::new();
    for second in [10, 30, 20, 40] {
        fixture.clock.set(Timestamp(second * 1_000_000));
        made.push(commit(&fixture, vec![put("a", &second.to_string())]).await.unwrap().commit);
    }
    // The move at 20 came after the one at 30, so from 20 on it is the one that counts.
    for (second, index) in [(10, 0), (19, 0), (20, 2), (30, 2), (39, 2), (40, 3), (50, 3)] {
        let spec = spec(&format!("main@{{1970-01-01T00:00:{second}Z}}"));
        assert_eq!(fixture.repository.resolve(&spec).await.unwrap().commit, made[index], "{second}");
    }
}

//! The end of history, against a naive reading of its rule.

use std::collections::BTreeSet;

use anabranch_core::{Clock, Kinded, Span};
use proptest::prelude::*;

use super::*;
use crate::{Error, MetadataWrite, Publication};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn ancestors(repository: &Repository, head: &CommitId) -> BTreeSet<CommitId> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![*head]);
    while let Some(id) = next.pop() {
        if seen.insert(id) {
            next.extend(repository.commit_info(&id).await.unwrap().commit.parents.iter().copied());
        }
    }
    seen
}

/// What the rule releases, straight from its words.
async fn naive(fixture: &Fixture, limits: &BTreeMap<String, Span>, now: Timestamp) -> BTreeSet<CommitId> {
    let repository = &fixture.repository;
    let branches = repository.branches().await.unwrap();
    let mut reach = Vec::new();
    for branch in &branches {
        reach.push(ancestors(repository, &branch.head).await);
    }
    let mut kept: BTreeSet<CommitId> = branches.iter().map(|branch| branch.head).collect();
    kept.extend(repository.tags().await.unwrap().iter().map(|tag| tag.commit));
    for (branch, reached) in branches.iter().zip(&reach) {
        for commit in reached {
            let time = repository.commit_info(commit).await.unwrap().commit.time;
            if limits.get(&branch.name).is_none_or(|keep| time.0 >= now.0 - keep.0) {
                kept.insert(*commit);
            }
        }
    }
    for (i, one) in reach.iter().enumerate() {
        for other in &reach[i + 1..] {
            let common: BTreeSet<_> = one.intersection(other).copied().collect();
            for commit in &common {
                let mut lower = false;
                for above in common.iter().filter(|above| *above != commit) {
                    lower |= ancestors(repository, above).await.contains(commit);
                }
                if !lower {
                    kept.insert(*commit);
                }
            }
        }
    }
    reach.into_iter().flatten().filter(|commit| !kept.contains(commit)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn release_is_what_the_rule_says(
        steps in proptest::collection::vec((0..5u8, 0..4usize, 0..4usize), 1..24),
        limits in proptest::collection::vec(proptest::option::of(1..40i64), 4),
    ) {
        block_on(async {
            let fixture = in_memory().await;
            let repository = &fixture.repository;
            let mut names = vec!["main".to_owned()];
            for (n, (what, one, other)) in steps.iter().enumerate() {
                fixture.clock.advance(Span(2));
                let (one, other) = (names[one % names.len()].clone(), names[other % names.len()].clone());
                match what {
                    0 if names.len() < 4 => {
                        let name = format!("b{}", names.len());
                        repository.create_branch(&name, &spec(&one), "ada").await.unwrap();
                        names.push(name);
                    }
                    1 => drop(repository.create_tag(&format!("t{n}"), &spec(&one)).await.unwrap()),
                    2 => drop(repository.merge(&one, crate::MergeRequest::new(spec(&other), "ada")).await),
                    _ => drop(repository.commit(&one, request(vec![put(&format!("{one}-{n}"), "v")])).await.unwrap()),
                }
            }
            let mut set = BTreeMap::new();
            for (name, keep) in names.iter().zip(&limits) {
                if let Some(keep) = keep {
                    repository.set_history(name, Some(Span(*keep))).await.unwrap();
                    set.insert(name.clone(), Span(*keep));
                }
            }
            let now = fixture.clock.now();
            let expected = if set.is_empty() { BTreeSet::new() } else { naive(&fixture, &set, now).await };
            let done = repository.release_history(now, &[]).await.unwrap();
            prop_assert_eq!(done.released, expected.len() as u64);
            for branch in repository.branches().await.unwrap() {
                for commit in ancestors(repository, &branch.head).await {
                    prop_assert_eq!(repository.at(&commit).await.is_err(), expected.contains(&commit));
                }
            }
            prop_assert_eq!(repository.release_history(now, &[]).await.unwrap().released, 0);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn an_expired_commit_keeps_its_place_in_history_and_refuses_to_be_read_or_named() {
    let fixture = in_memory().await;
    let old = commit(&fixture, vec![put("a", "1")]).await.unwrap().commit;
    fixture.clock.advance(Span::seconds(100));
    commit(&fixture, vec![put("a", "2")]).await.unwrap();
    let repository = &fixture.repository;
    repository.set_history("main", Some(Span::seconds(10))).await.unwrap();
    assert_eq!(repository.history("main").await.unwrap(), Some(Span::seconds(10)));
    // What a dataset names is kept.
    assert_eq!(repository.release_history(fixture.clock.now(), &[old]).await.unwrap().released, 1);
    assert!(repository.get(&old, &key("a")).await.unwrap().is_some());
    assert_eq!(repository.release_history(fixture.clock.now(), &[]).await.unwrap().released, 1);
    let refused = repository.get(&old, &key("a")).await.unwrap_err();
    assert!(matches!(refused, Error::Expired(commit) if commit == old));
    assert_eq!(refused.kind(), anabranch_core::ErrorKind::FailedPrecondition);
    assert!(repository.commit_info(&old).await.is_ok());
    assert!(repository.is_ancestor(&old, &head(&fixture).await).await.unwrap());
    assert!(matches!(repository.create_branch("b", &RefSpec::commit(old), "ada").await, Err(Error::Expired(_))));
    assert!(matches!(repository.create_tag("t", &RefSpec::commit(old)).await, Err(Error::Expired(_))));
    // A repository that is opened anew knows it too, and passes over the root when it is verified.
    let again = open(&fixture.metadata, &fixture.objects).await;
    assert!(matches!(again.repository.at(&old).await, Err(Error::Expired(_))));
    let report = crate::fsck(&fixture.metadata, &fixture.objects, crate::FsckOptions::default()).await.unwrap();
    assert_eq!((report.findings.len(), report.counts.expired), (0, 2));
    assert!(repository.set_history("main", Some(Span(0))).await.is_err());
}

#[tokio::test]
async fn a_release_that_was_cut_short_goes_on_and_a_head_marked_by_it_is_taken_back() {
    let fixture = in_memory().await;
    let mut commits = Vec::new();
    for n in 0..6 {
        commits.push(commit(&fixture, vec![put("a", &n.to_string())]).await.unwrap().commit);
        fixture.clock.advance(Span::seconds(100));
    }
    fixture.repository.set_history("main", Some(Span::seconds(150))).await.unwrap();
    // As a run leaves it that marked some and was killed before it looked at the refs again.
    let mark = |id: &CommitId| MetadataWrite::Put {
        space: "versioning.released".to_owned(),
        key: Bytes::copy_from_slice(id.as_bytes()),
        value: Bytes::copy_from_slice(&[0; 8]),
    };
    let writes = [commits[0], commits[5]].iter().map(mark).collect();
    fixture.metadata.publish(&Publication { writes, ..Publication::default() }).await.unwrap();
    let again = open(&fixture.metadata, &fixture.objects).await;
    assert!(again.repository.at(&commits[5]).await.is_err());
    let done = again.repository.release_history(fixture.clock.now(), &[]).await.unwrap();
    // The first commit of all, and the second to the fifth; the first of these was marked before.
    assert_eq!(done.released, 5);
    assert!(again.repository.at(&commits[5]).await.is_ok());
    assert!(again.repository.at(&commits[0]).await.is_err());
}

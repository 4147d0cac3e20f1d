//! Refs, branches, tags and fast-forward merges.

use anabranch_core::{ErrorKind, Kinded};

use super::*;
use crate::{EntryKind, Error, IndexEntry, Merge, MergeRequest, MetadataWrite, PackId, PackIndex, Publication};

#[tokio::test]
async fn refs_name_commits_in_every_way() {
    let fixture = in_memory().await;
    let repository = &fixture.repository;
    let start = head(&fixture).await;
    let mut made = Vec::new();
    for second in 2..5 {
        fixture.clock.set(Timestamp(second * 1_000_000));
        made.push(commit(&fixture, vec![put("a", &second.to_string())]).await.unwrap().commit);
    }
    repository.create_tag("v1", &spec("main~1")).await.unwrap();
    let hex = made[0].to_string();
    let cases = [
        ("main", made[2]),
        ("branch:main", made[2]),
        ("main~", made[1]),
        ("main~2", made[0]),
        ("main^^", made[0]),
        ("main^0", made[2]),
        ("main~3", start),
        ("v1", made[1]),
        ("tag:v1~1", made[0]),
        (&hex, made[0]),
        (&format!("commit:{hex}"), made[0]),
        (&format!("commit:{}", hex[..9].to_uppercase()), made[0]),
        (&format!("{}~1", &hex[..10]), start),
        ("main@{1970-01-01T00:00:03.5Z}", made[1]),
        ("main@{1970-01-01T00:00:01Z}~0", start),
    ];
    for (text, expected) in cases {
        let found = repository.resolve(&spec(text)).await.unwrap();
        assert_eq!(found.commit, expected, "{text}");
        assert_eq!(found.branch.is_some(), matches!(text, "main" | "branch:main"), "{text}");
    }
    for text in ["none", "tag:main", "branch:v1", "main~4", "main^2", "commit:0000000000", "main@{1970-01-01T00:00:00Z}", "v1@{2026-01-01}"] {
        assert_eq!(repository.resolve(&spec(text)).await.unwrap_err().kind(), ErrorKind::NotFound, "{text}");
    }
}

#[tokio::test]
async fn a_bare_name_is_a_branch_before_a_tag_before_a_commit_and_a_prefix_must_be_unique() {
    let fixture = in_memory().await;
    let one = commit(&fixture, vec![put("a", "1")]).await.unwrap().commit;
    let two = commit(&fixture, vec![put("a", "2")]).await.unwrap().commit;
    let hex = one.to_string();
    fixture.repository.create_tag(&hex, &spec("main")).await.unwrap();
    assert_eq!(fixture.repository.resolve(&spec(&hex)).await.unwrap().commit, two);
    fixture.repository.create_branch(&hex, &spec("main~2"), "ada").await.unwrap();
    let found = fixture.repository.resolve(&spec(&hex)).await.unwrap();
    assert!(found.branch.is_some() && found.commit != one && found.commit != two);
    assert_eq!(fixture.repository.resolve(&spec(&format!("commit:{hex}"))).await.unwrap().commit, one);
    let twins = [[0xAB; 32], {
        let mut other = [0xAB; 32];
        other[31] = 0;
        other
    }];
    let entries = twins.map(|hash| IndexEntry { hash, kind: EntryKind::Commit, offset: 0, len: 1 }).to_vec();
    let pack = Some(PackIndex { pack: PackId([1; 32]), bytes: 1, entries });
    fixture.metadata.publish(&Publication { pack, ..Publication::default() }).await.unwrap();
    let ambiguous = fixture.repository.resolve(&spec("commit:abababab")).await.unwrap_err();
    assert!(matches!(ambiguous, Error::Ambiguous(_)), "{ambiguous}");
}

#[tokio::test]
async fn branches_are_apart_and_their_making_copies_nothing() {
    let fixture = in_memory().await;
    let repository = &fixture.repository;
    commit(&fixture, vec![put("a", "1")]).await.unwrap();
    let branch = repository.create_branch("team/try", &spec("main"), "ada").await.unwrap();
    assert_eq!(branch.head, head(&fixture).await);
    repository.commit("team/try", request(vec![put("a", "2")])).await.unwrap();
    assert_eq!(repository.get(&head(&fixture).await, &key("a")).await.unwrap().unwrap(), "1");
    assert!(matches!(repository.create_branch("team/try", &spec("main"), "ada").await, Err(Error::BranchExists(_))));
    assert!(matches!(repository.create_branch("a b", &spec("main"), "ada").await, Err(Error::RefName { .. })));
    assert!(matches!(repository.create_branch("x", &spec("none"), "ada").await, Err(Error::NoRef(_))));
    repository.protect_branch("team/try", true).await.unwrap();
    for protected in ["team/try", "main"] {
        assert_eq!(repository.delete_branch(protected).await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    }
    repository.protect_branch("team/try", false).await.unwrap();
    repository.delete_branch("team/try").await.unwrap();
    assert!(matches!(repository.delete_branch("team/try").await, Err(Error::NoBranch(_))));
    assert!(matches!(repository.commit("team/try", request(vec![put("a", "3")])).await, Err(Error::NoBranch(_))));
    let again = repository.create_branch("team/try", &spec("main"), "ada").await.unwrap();
    assert!(again.id > branch.id);
    repository.commit("team/try", request(vec![put("a", "4")])).await.unwrap();
    assert_eq!(repository.reflog(again.id, None, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn tags_stay_where_they_are_and_are_made_once() {
    let fixture = in_memory().await;
    let repository = &fixture.repository;
    let tag = repository.create_tag("v1", &spec("main")).await.unwrap();
    commit(&fixture, vec![put("a", "1")]).await.unwrap();
    assert_eq!(repository.resolve(&spec("v1")).await.unwrap().commit, tag.commit);
    assert!(matches!(repository.create_tag("v1", &spec("main")).await, Err(Error::TagExists(_))));
    assert!(matches!(repository.create_tag("..", &spec("main")).await, Err(Error::RefName { .. })));
    assert_eq!(repository.tags().await.unwrap(), [tag]);
    repository.delete_tag("v1").await.unwrap();
    assert!(matches!(repository.delete_tag("v1").await, Err(Error::NoTag(_))));
}

#[tokio::test]
async fn a_merge_moves_the_head_forward_or_says_why_not() {
    let fixture = in_memory().await;
    let repository = &fixture.repository;
    let start = commit(&fixture, vec![put("a", "1")]).await.unwrap().commit;
    repository.create_branch("side", &spec("main"), "ada").await.unwrap();
    repository.commit("side", request(vec![put("a", "2")])).await.unwrap();
    let ahead = repository.commit("side", request(vec![put("b", "2")])).await.unwrap().commit;
    let merge = |source: &str| {
        let write = MetadataWrite::BumpEpoch { tag: "merges".to_owned() };
        repository.merge("main", MergeRequest { metadata_writes: vec![write], ..MergeRequest::new(spec(source), "bob") })
    };
    assert_eq!(merge("side").await.unwrap(), Merge::FastForward { from: start, to: ahead });
    assert_eq!(head(&fixture).await, ahead);
    let main = repository.branch("main").await.unwrap().id;
    let entry = repository.reflog(main, None, 1).await.unwrap().remove(0);
    assert_eq!((entry.old, entry.new, entry.author.as_str(), entry.action.as_str()), (Some(start), ahead, "bob", "merge"));
    for source in ["side", "side~1", "main~0"] {
        assert_eq!(merge(source).await.unwrap(), Merge::UpToDate { head: ahead }, "{source}");
    }
    assert_eq!(fixture.metadata.epochs(&["merges"]).await.unwrap(), [Some(4)]);
    repository.commit("side", request(vec![put("c", "side")])).await.unwrap();
    commit(&fixture, vec![put("c", "main")]).await.unwrap();
    let diverged = merge("side").await.unwrap_err();
    assert!(matches!(diverged, Error::Conflicts { total: 1, .. }) && diverged.kind() == ErrorKind::Conflict);
    assert!(matches!(merge("nowhere").await, Err(Error::NoRef(_))));
    assert_eq!(fixture.metadata.epochs(&["merges"]).await.unwrap(), [Some(4)]);
}

#[tokio::test]
async fn commits_and_merges_in_one_queue_see_each_other() {
    let fixture = in_memory().await;
    let repository = &fixture.repository;
    repository.create_branch("side", &spec("main"), "ada").await.unwrap();
    let ahead = repository.commit("side", request(vec![put("b", "2")])).await.unwrap().commit;
    let merge = MergeRequest::new(spec("side"), "bob");
    let (merged, committed) = tokio::join!(repository.merge("main", merge), commit(&fixture, vec![put("c", "1")]));
    let committed = committed.unwrap();
    // Whichever was first: the commit upon the merge, or the merge upon the commit.
    let last = match merged.unwrap() {
        Merge::FastForward { .. } => {
            assert_eq!(committed.previous, ahead);
            committed.commit
        }
        merged => {
            let Merge::Merged { from, to, .. } = merged else { panic!("{merged:?}") };
            assert_eq!(from, committed.commit);
            to
        }
    };
    assert_eq!(head(&fixture).await, last);
    assert!(repository.is_ancestor(&committed.previous, &committed.commit).await.unwrap());
    assert!(!repository.is_ancestor(&committed.commit, &committed.previous).await.unwrap());
}

//! Commits: atomicity, expectations, reads, prepared changes, groups.

use std::collections::BTreeMap;

use anabranch_core::{ErrorKind, Kinded};
use async_trait::async_trait;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use proptest::prelude::*;

use super::*;
use crate::{Apply, ApplyError, Difference, Error, Expect, LogQuery, MAX_VALUE_BYTES, MapReader, MetadataWrite, Read};

#[tokio::test]
async fn a_new_repository_has_an_empty_main_and_opening_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let first = on_disk(folder.path()).await;
    let head = head(&first).await;
    let info = first.repository.commit_info(&head).await.unwrap();
    assert_eq!((info.commit.parents.len(), info.commit.height), (0, 0));
    assert!(content(&first.repository, &head).await.is_empty());
    first.repository.close().await;
    let again = on_disk(folder.path()).await;
    assert_eq!(again.repository.branches().await.unwrap(), first.repository.branches().await.unwrap());
}

#[tokio::test]
async fn commits_build_a_history_that_reads_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = on_disk(folder.path()).await;
    let empty = head(&fixture).await;
    let one = commit(&fixture, vec![put("a", "1"), put("b", "1")]).await.unwrap();
    let two = commit(&fixture, vec![put("a", "2"), Change::delete(key("b"))]).await.unwrap();
    assert_eq!((one.previous, two.previous, head(&fixture).await), (empty, one.commit, two.commit));
    for repository in [&fixture.repository, &on_disk(folder.path()).await.repository] {
        assert_eq!(repository.get(&one.commit, &key("a")).await.unwrap().unwrap(), "1");
        assert_eq!(repository.get(&two.commit, &key("a")).await.unwrap().unwrap(), "2");
        assert_eq!(repository.get(&two.commit, &key("b")).await.unwrap(), None);
        let log = repository.log(&LogQuery::new(two.commit, 2)).await.unwrap();
        assert_eq!(log.commits.iter().map(|info| info.id).collect::<Vec<_>>(), [two.commit, one.commit]);
        let rest = repository.log(&LogQuery { after: log.next.clone(), ..LogQuery::new(two.commit, 2) }).await.unwrap();
        assert_eq!((rest.commits.iter().map(|info| info.id).collect::<Vec<_>>(), rest.next), (vec![empty], None));
        assert_eq!(log.commits[0].commit.author, "ada");
        let diff = repository.diff(&one.commit, &two.commit, &Scan::all()).await.unwrap();
        let expected = [("a", Some("1"), Some("2")), ("b", Some("1"), None)].map(|(name, left, right)| Difference {
            key: key(name),
            left: left.map(Bytes::from),
            right: right.map(Bytes::from),
        });
        assert_eq!(diff.items, expected);
    }
}

#[tokio::test]
async fn a_refused_request_changes_nothing() {
    let fixture = in_memory().await;
    let before = commit(&fixture, vec![put("a", "1")]).await.unwrap();
    let expecting = |expect| Change::Put { key: key("a"), value: Bytes::from("2"), expect };
    let long = Change::put(key("a"), vec![0; MAX_VALUE_BYTES + 1]);
    let refused = [
        (vec![put("b", "1"), expecting(Expect::Absent)], ErrorKind::Conflict),
        (vec![put("b", "1"), expecting(Expect::Value("0".into()))], ErrorKind::Conflict),
        (vec![put("b", "1"), Change::Delete { key: key("c"), expect: Expect::Value("0".into()) }], ErrorKind::Conflict),
        (vec![put("b", "1"), put("a", "2"), expecting(Expect::Value("1".into()))], ErrorKind::Conflict),
        (vec![put("b", "1"), long], ErrorKind::InvalidArgument),
        (vec![put("a", "1")], ErrorKind::FailedPrecondition),
        (vec![], ErrorKind::FailedPrecondition),
    ];
    for (changes, kind) in refused {
        let write = MetadataWrite::BumpEpoch { tag: "t".to_owned() };
        let request = CommitRequest { metadata_writes: vec![write], ..request(changes) };
        assert_eq!(fixture.repository.commit("main", request).await.unwrap_err().kind(), kind);
        assert_eq!(head(&fixture).await, before.commit);
        assert_eq!(fixture.metadata.epochs(&["t"]).await.unwrap(), [None]);
    }
    let message = commit(&fixture, vec![expecting(Expect::Absent)]).await.unwrap_err().to_string();
    assert!(message.contains(r#"object/"a""#), "{message}");
    commit(&fixture, vec![expecting(Expect::Value("1".into()))]).await.unwrap();
    commit(&fixture, vec![Change::Put { key: key("n"), value: Bytes::new(), expect: Expect::Absent }]).await.unwrap();
    let empty = CommitRequest { allow_empty: true, ..request(vec![]) };
    let empty = fixture.repository.commit("main", empty).await.unwrap();
    assert_ne!(empty.commit, empty.previous);
}

#[tokio::test]
async fn a_commit_fails_if_what_it_read_has_moved_and_only_then() {
    let fixture = in_memory().await;
    let base = commit(&fixture, vec![put("read", "1"), put("other", "1")]).await.unwrap().commit;
    let table = Key::new(KeyKind::Table, &[b"ns", b"t"]).unwrap();
    commit(&fixture, vec![put("other", "2"), Change::put(table.clone(), "new")]).await.unwrap();
    let ask = |reads, base| fixture.repository.commit("main", CommitRequest { reads, base, allow_empty: true, ..request(vec![]) });
    let prefix = |part: &[u8]| Read::Prefix(Key::prefix(KeyKind::Table, &[part]).unwrap());
    ask(vec![Read::Key(key("read")), Read::Key(key("absent")), prefix(b"elsewhere")], Some(base)).await.unwrap();
    for (read, moved) in [(Read::Key(key("other")), key("other")), (Read::Key(table.clone()), table.clone()), (prefix(b"ns"), table)] {
        match ask(vec![Read::Key(key("read")), read], Some(base)).await {
            Err(Error::ReadConflict { key, base: at }) => assert_eq!((key, at), (moved, base)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ask(vec![Read::Key(key("read"))], None).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

/// Adds one to a number in the map.
#[derive(Debug)]
pub(super) struct Increment(pub(super) Key);

#[async_trait]
impl Apply for Increment {
    async fn apply(&mut self, head: &dyn MapReader) -> Result<Vec<Change>, ApplyError> {
        let held = head.get(&self.0).await?;
        let number: u64 = held.as_deref().map_or(0, |held| std::str::from_utf8(held).unwrap().parse().unwrap());
        let expect = held.map_or(Expect::Absent, Expect::Value);
        Ok(vec![Change::Put { key: self.0.clone(), value: (number + 1).to_string().into(), expect }])
    }
}

/// Answers with an error.
#[derive(Debug)]
struct Refuse(Option<ApplyError>);

#[async_trait]
impl Apply for Refuse {
    async fn apply(&mut self, _head: &dyn MapReader) -> Result<Vec<Change>, ApplyError> {
        Err(self.0.take().unwrap_or(ApplyError::Stale))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the table is full")]
struct TableFull;

impl Kinded for TableFull {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Exhausted
    }
}

#[tokio::test]
async fn a_prepared_change_sees_the_changes_before_it_and_may_refuse() {
    let fixture = in_memory().await;
    let increment = || Change::Apply(Box::new(Increment(key("n"))));
    let made = commit(&fixture, vec![increment(), put("m", "x"), put("n", "41"), increment()]).await.unwrap();
    assert_eq!(fixture.repository.get(&made.commit, &key("n")).await.unwrap().unwrap(), "42");
    let refuse = |error| Change::Apply(Box::new(Refuse(Some(error))));
    assert!(matches!(commit(&fixture, vec![refuse(ApplyError::Stale)]).await, Err(Error::Stale { .. })));
    let error = commit(&fixture, vec![put("z", "1"), refuse(ApplyError::Refused(Box::new(TableFull)))]).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Exhausted, "the table is full"));
    let Error::Refused { source, .. } = error else { panic!("another error") };
    assert!(source.downcast_ref::<TableFull>().is_some());
    assert_eq!(head(&fixture).await, made.commit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_of_one_branch_lose_no_update_and_share_packs() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = on_disk(folder.path()).await;
    let writers = (0..200).map(|writer| {
        let repository = fixture.repository.clone();
        tokio::spawn(async move {
            let mut changes = vec![Change::Apply(Box::new(Increment(key("counter")))), put(&format!("writer/{writer}"), "here")];
            if writer % 10 == 0 {
                changes.push(Change::Put { key: key("counter"), value: Bytes::new(), expect: Expect::Absent });
            }
            (writer, repository.commit("main", request(changes)).await)
        })
    });
    let outcomes: Vec<_> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
    for (writer, outcome) in &outcomes {
        assert_eq!(outcome.is_ok(), writer % 10 != 0, "{outcome:?}");
    }
    let head = head(&fixture).await;
    let map = content(&fixture.repository, &head).await;
    assert_eq!((map.len(), &map[&key("counter")][..]), (181, &b"180"[..]));
    let log = fixture.repository.log(&LogQuery::new(head, 1000)).await.unwrap();
    assert_eq!(log.commits.len(), 181);
    let acknowledged = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok());
    for made in acknowledged {
        let info = log.commits.iter().find(|info| info.id == made.commit).unwrap();
        assert_eq!((info.commit.parents[0], info.commit.root), (made.previous, made.root));
    }
    let branch = fixture.repository.branch("main").await.unwrap().id;
    assert_eq!(fixture.repository.reflog(branch, None, 1000).await.unwrap().len(), 181);
    let packs: Vec<_> = fixture.objects.list(Some(&"packs".into())).try_collect().await.unwrap();
    assert!(packs.len() < 90, "{} packs for 180 commits", packs.len());
}

#[tokio::test]
async fn metadata_writes_are_made_with_the_head() {
    let fixture = in_memory().await;
    let value = MetadataWrite::Put { space: "generations".to_owned(), key: "g".into(), value: "1".into() };
    let writes = vec![value, MetadataWrite::RaiseMark { name: "ids".to_owned(), to: 9 }, MetadataWrite::BumpEpoch { tag: "t".to_owned() }];
    let good = CommitRequest { metadata_writes: writes, ..request(vec![put("a", "1")]) };
    fixture.repository.commit("main", good).await.unwrap();
    assert_eq!(fixture.metadata.value("generations", b"g").await.unwrap().unwrap(), "1");
    assert_eq!((fixture.metadata.allocate("ids", 1).await.unwrap(), fixture.metadata.epochs(&["t"]).await.unwrap()), (9, vec![Some(1)]));
    let bad = MetadataWrite::RaiseMark { name: "ids".to_owned(), to: u64::MAX };
    let bad = CommitRequest { metadata_writes: vec![bad], ..request(vec![put("a", "2")]) };
    assert_eq!(fixture.repository.commit("main", bad).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn after_closing_commits_are_refused_and_reading_goes_on() {
    let fixture = in_memory().await;
    let made = commit(&fixture, vec![put("a", "1")]).await.unwrap();
    fixture.repository.close().await;
    assert!(matches!(commit(&fixture, vec![put("a", "2")]).await, Err(Error::Closing)));
    assert_eq!(fixture.repository.get(&made.commit, &key("a")).await.unwrap().unwrap(), "1");
}

#[tokio::test]
async fn a_clock_that_runs_backwards_breaks_nothing() {
    let fixture = in_memory().await;
    for now in [5_000_000, -3, 4_000_000, i64::MIN, i64::MAX, 0] {
        fixture.clock.set(Timestamp(now));
        let made = commit(&fixture, vec![put("a", &now.to_string())]).await.unwrap();
        assert_eq!(fixture.repository.commit_info(&made.commit).await.unwrap().commit.time, Timestamp(now));
    }
    let log = fixture.repository.log(&LogQuery::new(head(&fixture).await, 10)).await.unwrap();
    assert_eq!(log.commits.len(), 7);
}

#[tokio::test]
async fn blobs_are_kept_by_content_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let digest = on_disk(folder.path()).await.repository.put_blob("a small file".into()).await.unwrap();
    let fixture = on_disk(folder.path()).await;
    assert_eq!(fixture.repository.blob(&digest).await.unwrap(), "a small file");
    let none = crate::Digest::of(b"none");
    assert_eq!(fixture.repository.blob(&none).await.unwrap_err().kind(), ErrorKind::NotFound);
    std::fs::write(folder.path().join(format!("objects/blobs/{none}")), "something else").unwrap();
    let error = fixture.repository.blob(&none).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Internal && error.to_string().contains(&none.to_string()), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Random commits on two branches, one forked from the other, against a map for each commit.
    #[test]
    fn every_commit_reads_as_the_map_that_it_made(
        commits in proptest::collection::vec((any::<bool>(), proptest::collection::vec((0..300u16, proptest::option::of(any::<u16>())), 1..40)), 1..12),
    ) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let fixture = in_memory().await;
            fixture.repository.create_branch("side", &spec("main"), "ada").await.unwrap();
            let mut states = BTreeMap::from([(false, BTreeMap::new()), (true, BTreeMap::new())]);
            let mut made = Vec::new();
            for (side, edits) in commits {
                let state = states.get_mut(&side).unwrap();
                let changes = edits.into_iter().map(|(name, value)| {
                    let key = key(&format!("{name:05}"));
                    match value {
                        Some(value) => {
                            let value = Bytes::from(value.to_string().repeat(usize::from(value % 97)));
                            state.insert(key.clone(), value.clone());
                            Change::put(key, value)
                        }
                        None => {
                            state.remove(&key);
                            Change::delete(key)
                        }
                    }
                });
                let request = CommitRequest { allow_empty: true, ..request(changes.collect()) };
                let committed = fixture.repository.commit(if side { "side" } else { "main" }, request).await.unwrap();
                made.push((committed, state.clone()));
            }
            let reopened = open(&fixture.metadata, &fixture.objects).await;
            for (committed, state) in &made {
                assert_eq!(&content(&reopened.repository, &committed.commit).await, state);
                for (other, its) in &made {
                    assert_eq!(committed.root == other.root, state == its);
                }
            }
        });
    }
}

#[tokio::test]
async fn nodes_are_shared_between_commits() {
    let fixture = in_memory().await;
    let many = (0..20_000).map(|number| put(&format!("key/{number:06}"), "a value of some length")).collect();
    commit(&fixture, many).await.unwrap();
    let size = async || {
        let sizes = fixture.objects.list(Some(&"packs".into())).map(|object| object.unwrap().size).collect::<Vec<_>>().await;
        sizes.into_iter().sum::<u64>()
    };
    let before = size().await;
    commit(&fixture, vec![put("key/010000", "another")]).await.unwrap();
    let grown = size().await - before;
    assert!(grown < 60_000, "{grown} bytes for one key");
}

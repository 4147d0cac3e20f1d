//! Merges that are no fast-forwards, previews, and who decides them.

use std::sync::atomic::{AtomicUsize, Ordering};

use anabranch_core::{ErrorKind, Kinded};
use async_trait::async_trait;
use futures::future::join_all;

use super::*;
use crate::{
    ApplyError, Error, HeadChange, HeadGuard, MAX_CONFLICTS, MapReader, Merge, MergeRequest, MetadataWrite, Operation, PreviewOutcome, Resolution,
    Resolver, Sides, Strategy, Triple,
};

async fn on(fixture: &Fixture, branch: &str, changes: Vec<Change>) -> CommitId {
    fixture.repository.commit(branch, request(changes)).await.unwrap().commit
}

async fn branch(fixture: &Fixture, name: &str) {
    fixture.repository.create_branch(name, &spec("main"), "ada").await.unwrap();
}

fn merge_of(source: &str) -> MergeRequest {
    MergeRequest::new(spec(source), "bob")
}

async fn merged(fixture: &Fixture, request: MergeRequest) -> (CommitId, CommitId) {
    match fixture.repository.merge("main", request).await.unwrap() {
        Merge::Merged { to, base, .. } => (to, base),
        other => panic!("{other:?}"),
    }
}

async fn with_resolvers(resolvers: Vec<Arc<dyn Resolver>>) -> Fixture {
    let metadata: Arc<dyn MetadataStore> = Arc::new(MemoryMetadata::new(&RandomIds::seeded(2)));
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    let mut options = RepositoryOptions::default();
    options.resolvers.extend(resolvers);
    let repository = Repository::open(metadata.clone(), objects.clone(), clock.clone(), Arc::new(RandomIds::seeded(1)), options).await.unwrap();
    Fixture { repository, metadata, objects, clock }
}

#[tokio::test]
async fn a_merge_takes_what_one_side_changed_and_names_both_parents() {
    let fixture = in_memory().await;
    let fork = on(&fixture, "main", vec![put("a", "0"), put("b", "0"), put("c", "0"), put("d", "0")]).await;
    branch(&fixture, "side").await;
    let theirs = on(&fixture, "side", vec![put("a", "1"), Change::delete(key("b")), put("same", "x")]).await;
    let ours = on(&fixture, "main", vec![put("c", "1"), Change::delete(key("d")), put("same", "x")]).await;
    let (to, base) = merged(&fixture, merge_of("side")).await;
    assert_eq!((base, head(&fixture).await), (fork, to));
    let info = fixture.repository.commit_info(&to).await.unwrap();
    assert_eq!((&info.commit.parents[..], info.commit.height), (&[ours, theirs][..], 3));
    assert_eq!((info.commit.message.as_str(), info.commit.author.as_str()), ("merge branch:side into main", "bob"));
    let expected = [("a", "1"), ("c", "1"), ("same", "x")].map(|(name, value)| (key(name), Bytes::from(value)));
    assert_eq!(content(&fixture.repository, &to).await, expected.into());
    let main = fixture.repository.branch("main").await.unwrap().id;
    assert_eq!(fixture.repository.reflog(main, None, 1).await.unwrap()[0].action, "merge");
    assert_eq!(fixture.repository.merge("main", merge_of("side")).await.unwrap(), Merge::UpToDate { head: to });
    assert_eq!(fixture.repository.merge("main", merge_of("main")).await.unwrap(), Merge::UpToDate { head: to });
    // The other way round there is nothing to merge.
    assert_eq!(fixture.repository.merge("side", merge_of("main")).await.unwrap(), Merge::FastForward { from: theirs, to });
}

#[tokio::test]
async fn a_merge_that_changes_nothing_is_a_commit_and_such_a_squash_is_refused() {
    let fixture = in_memory().await;
    branch(&fixture, "side").await;
    let theirs = on(&fixture, "side", vec![put("a", "1")]).await;
    // At the same instant it would be the same commit.
    fixture.clock.advance(anabranch_core::Span(1));
    on(&fixture, "main", vec![put("a", "1")]).await;
    let squash = MergeRequest { squash: true, ..merge_of("side") };
    assert!(matches!(fixture.repository.merge("main", squash).await, Err(Error::NothingChanged { .. })));
    let (to, _) = merged(&fixture, merge_of("side")).await;
    assert!(fixture.repository.is_ancestor(&theirs, &to).await.unwrap());
}

#[tokio::test]
async fn a_squash_is_one_commit_with_one_parent_also_where_a_fast_forward_would_do() {
    let fixture = in_memory().await;
    let start = on(&fixture, "main", vec![put("a", "0")]).await;
    branch(&fixture, "side").await;
    on(&fixture, "side", vec![put("a", "1")]).await;
    on(&fixture, "side", vec![put("b", "1")]).await;
    let metadata = BTreeMap::from([("ticket".to_owned(), "7".to_owned())]);
    let (to, base) = merged(&fixture, MergeRequest { squash: true, metadata: metadata.clone(), ..merge_of("side") }).await;
    let info = fixture.repository.commit_info(&to).await.unwrap();
    assert_eq!((&info.commit.parents[..], base, &info.commit.metadata), (&[start][..], start, &metadata));
    assert_eq!(info.commit.message, "squash branch:side into main");
    let side = fixture.repository.branch("side").await.unwrap().head;
    assert_eq!(content(&fixture.repository, &to).await, content(&fixture.repository, &side).await);
}

#[tokio::test]
async fn a_conflict_lists_every_key_with_all_values_and_changes_nothing() {
    let fixture = in_memory().await;
    on(&fixture, "main", vec![put("a", "0"), put("b", "0")]).await;
    branch(&fixture, "side").await;
    on(&fixture, "side", vec![put("a", "theirs"), Change::delete(key("b")), put("c", "theirs"), put("d", "theirs")]).await;
    let before = on(&fixture, "main", vec![put("a", "ours"), put("b", "ours"), put("c", "ours")]).await;
    let write = MetadataWrite::BumpEpoch { tag: "t".to_owned() };
    let error = fixture.repository.merge("main", MergeRequest { metadata_writes: vec![write], ..merge_of("side") }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("branch:side") && error.to_string().contains("object/\"a\""), "{error}");
    let Error::Conflicts { conflicts, total, into, .. } = error else { panic!("another error") };
    assert_eq!((total, into.as_str()), (3, "main"));
    let text = |value: &Option<Bytes>| value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned());
    let listed: Vec<_> = conflicts.iter().map(|one| (one.key.clone(), text(&one.base), text(&one.ours), text(&one.theirs))).collect();
    let some = |text: &str| Some(text.to_owned());
    let expected = [
        (key("a"), some("0"), some("ours"), some("theirs")),
        (key("b"), some("0"), some("ours"), None),
        (key("c"), None, some("ours"), some("theirs")),
    ];
    assert_eq!(listed, expected);
    assert_eq!((head(&fixture).await, fixture.metadata.epochs(&["t"]).await.unwrap()), (before, vec![None]));
    let preview = fixture.repository.preview_merge("main", &merge_of("side"), 10).await.unwrap();
    assert_eq!((preview.merge, preview.conflict_count, &preview.conflicts[..]), (PreviewOutcome::ThreeWay, 3, &conflicts[..]));
    assert_eq!(preview.differences.items.iter().map(|one| one.key.clone()).collect::<Vec<_>>(), [key("d")]);
    // A side may be chosen; what is not in conflict is merged all the same.
    let theirs = MergeRequest { strategy: Strategy::Theirs, ..merge_of("side") };
    let preview = fixture.repository.preview_merge("main", &theirs, 2).await.unwrap();
    assert_eq!((preview.differences.items.len(), preview.differences.next, preview.conflict_count), (2, Some(key("b")), 0));
    let (to, _) = merged(&fixture, MergeRequest { strategy: Strategy::Ours, ..merge_of("side") }).await;
    let expected = [("a", "ours"), ("b", "ours"), ("c", "ours"), ("d", "theirs")].map(|(name, value)| (key(name), Bytes::from(value)));
    assert_eq!(content(&fixture.repository, &to).await, expected.into());
}

#[tokio::test]
async fn theirs_wins_where_asked_and_more_conflicts_than_are_listed_are_counted() {
    let fixture = in_memory().await;
    branch(&fixture, "side").await;
    let many = |value: &str| (0..MAX_CONFLICTS + 5).map(|n| put(&format!("{n:05}"), value)).collect::<Vec<_>>();
    let side = on(&fixture, "side", many("theirs")).await;
    on(&fixture, "main", many("ours")).await;
    let Err(Error::Conflicts { conflicts, total, .. }) = fixture.repository.merge("main", merge_of("side")).await else { panic!("merged") };
    assert_eq!((conflicts.len(), total, conflicts[0].key.clone()), (MAX_CONFLICTS, MAX_CONFLICTS as u64 + 5, key("00000")));
    let (to, _) = merged(&fixture, MergeRequest { strategy: Strategy::Theirs, ..merge_of("side") }).await;
    assert_eq!(content(&fixture.repository, &to).await, content(&fixture.repository, &side).await);
}

#[tokio::test]
async fn previews_say_what_a_merge_does_and_do_nothing() {
    let fixture = in_memory().await;
    let start = on(&fixture, "main", vec![put("a", "0")]).await;
    branch(&fixture, "side").await;
    let preview = async || fixture.repository.preview_merge("main", &merge_of("side"), 10).await.unwrap();
    assert_eq!((preview().await.merge, preview().await.differences.items.len()), (PreviewOutcome::UpToDate, 0));
    let side = on(&fixture, "side", vec![put("b", "1")]).await;
    let ahead = preview().await;
    assert_eq!((ahead.merge, ahead.base, ahead.head, ahead.source), (PreviewOutcome::FastForward, Some(start), start, side));
    assert_eq!(ahead.differences.items[0].key, key("b"));
    assert_eq!(fixture.repository.preview_merge("main", &merge_of("side"), 0).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(fixture.repository.preview_merge("main", &merge_of("none"), 1).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fixture.repository.preview_merge("none", &merge_of("side"), 1).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(head(&fixture).await, start);
}

#[tokio::test]
async fn histories_that_have_nothing_in_common_are_not_merged() {
    let (fixture, other) = (in_memory().await, with_other_history().await);
    // The other repository's history comes in as it would by an import.
    fixture.metadata.create_branch("foreign", &other, Timestamp(0), "ada").await.unwrap();
    let missing = fixture.repository.merge("main", merge_of("foreign")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let orphan = crate::Commit {
        root: fixture.repository.commit_info(&head(&fixture).await).await.unwrap().commit.root,
        parents: Vec::new(),
        height: 0,
        author: "eve".to_owned(),
        message: "another first commit".to_owned(),
        time: Timestamp(0),
        metadata: BTreeMap::new(),
    };
    let bytes = Bytes::from(orphan.encode().unwrap());
    let id = CommitId::of(&bytes);
    let pack = fixture.repository.store.write_pack(&[crate::store::Fresh::Commit(id, Arc::new(orphan), bytes)]).await.unwrap();
    fixture.metadata.publish(&crate::Publication { pack, ..crate::Publication::default() }).await.unwrap();
    let error = fixture.repository.merge("main", merge_of(&id.to_string())).await.unwrap_err();
    assert!(matches!(error, Error::Unrelated { .. }) && error.kind() == ErrorKind::FailedPrecondition, "{error}");
    assert!(matches!(fixture.repository.preview_merge("main", &merge_of(&id.to_string()), 1).await, Err(Error::Unrelated { .. })));
    assert_eq!(fixture.repository.merge_base(&head(&fixture).await, &id).await.unwrap(), None);
}

async fn with_other_history() -> CommitId {
    let fixture = in_memory().await;
    on(&fixture, "main", vec![put("x", "1")]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merges_of_many_branches_into_one_at_once_all_succeed() {
    const BRANCHES: usize = 120;
    let folder = tempfile::tempdir().unwrap();
    let fixture = on_disk(folder.path()).await;
    on(&fixture, "main", vec![put("shared", "0")]).await;
    for n in 0..BRANCHES {
        branch(&fixture, &format!("b{n}")).await;
        on(&fixture, &format!("b{n}"), vec![put(&format!("key/{n}"), "here")]).await;
    }
    // Each twice, and commits of others between them.
    let tasks = (0..2 * BRANCHES).map(|n| {
        let repository = fixture.repository.clone();
        tokio::spawn(async move {
            if n % 10 == 0 {
                repository.commit("main", request(vec![put(&format!("other/{n}"), "x")])).await.unwrap();
            }
            repository.merge("main", merge_of(&format!("b{}", n % BRANCHES))).await
        })
    });
    let outcomes: Vec<Merge> = join_all(tasks).await.into_iter().map(|outcome| outcome.unwrap().unwrap()).collect();
    let up_to_date = outcomes.iter().filter(|outcome| matches!(outcome, Merge::UpToDate { .. })).count();
    assert_eq!(up_to_date, BRANCHES, "one of each two found itself merged");
    let map = content(&fixture.repository, &head(&fixture).await).await;
    assert_eq!(map.len(), 1 + BRANCHES + 2 * BRANCHES / 10);
}

/// Adds numbers up, and reads a key that everybody changes.
#[derive(Debug, Default)]
struct Sum {
    asked: AtomicUsize,
}

fn number(value: &Option<Bytes>) -> i64 {
    value.as_ref().map_or(0, |value| std::str::from_utf8(value).unwrap().parse().unwrap())
}

#[async_trait]
impl Resolver for Sum {
    fn kinds(&self) -> &[KeyKind] {
        &[KeyKind::Object]
    }

    async fn resolve(&self, _operation: Operation, changes: &[Triple], _sides: &Sides<'_>) -> Result<Resolution> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let [change] = changes else { panic!("{changes:?}") };
        let sum = number(&change.ours) + number(&change.theirs) - number(&change.base);
        Ok(Resolution::Value(Some(sum.to_string().into())))
    }

    async fn check(&self, candidate: &dyn MapReader, touched: &[Key]) -> Result<Vec<(Key, String)>> {
        let limit = number(&candidate.get(&key("limit")).await?);
        let mut over = Vec::new();
        for key in touched {
            if number(&candidate.get(key).await?) > limit {
                over.push((key.clone(), "over the limit".to_owned()));
            }
        }
        Ok(over)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merges_that_meet_in_a_key_are_resolved_on_the_head_there_is_and_lose_nothing() {
    let fixture = with_resolvers(vec![Arc::new(Sum::default())]).await;
    on(&fixture, "main", vec![put("sum", "0"), put("limit", "10000")]).await;
    // No two of them come to what one of them is: both sides would hold the same then, and nothing would be resolved.
    for n in 100..140 {
        branch(&fixture, &format!("b{n}")).await;
        on(&fixture, &format!("b{n}"), vec![put("sum", &n.to_string())]).await;
    }
    let tasks = (100..140).map(|n| {
        let repository = fixture.repository.clone();
        tokio::spawn(async move { repository.merge("main", merge_of(&format!("b{n}"))).await })
    });
    for outcome in join_all(tasks).await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(content(&fixture.repository, &head(&fixture).await).await[&key("sum")], "4780");
    // What does not fit as a whole is a conflict, and what was read of the head to see that is looked at again.
    branch(&fixture, "more").await;
    on(&fixture, "more", vec![put("sum", "9900")]).await;
    on(&fixture, "main", vec![put("sum", "9000")]).await;
    let Err(Error::Conflicts { conflicts, .. }) = fixture.repository.merge("main", merge_of("more")).await else { panic!("merged") };
    assert_eq!((conflicts[0].key.clone(), conflicts[0].reason.as_str()), (key("sum"), "over the limit"));
    assert_eq!(conflicts[0].theirs, Some("9900".into()));
}

/// Keys of one first part are one unit.
#[derive(Debug)]
struct Folders;

#[async_trait]
impl Resolver for Folders {
    fn kinds(&self) -> &[KeyKind] {
        &[KeyKind::Object]
    }

    fn scope(&self, change: &Triple) -> Result<Vec<Key>> {
        Ok(vec![Key::prefix(KeyKind::Object, &[change.key.part(0).unwrap_or_default()])?])
    }

    async fn resolve(&self, _operation: Operation, changes: &[Triple], _sides: &Sides<'_>) -> Result<Resolution> {
        Ok(crate::ChooseSide::choose(changes))
    }
}

#[tokio::test]
async fn keys_of_one_unit_are_taken_from_one_side_as_a_whole() {
    let in_folder = |folder: &str, name: &str, value: &str| {
        Change::put(Key::new(KeyKind::Object, &[folder.as_bytes(), name.as_bytes()]).unwrap(), value.to_owned())
    };
    for (strategy, expected) in [(Strategy::Ours, ["ours", "base", "-", "theirs"]), (Strategy::Theirs, ["-", "base", "theirs", "theirs"])] {
        let fixture = with_resolvers(vec![Arc::new(Folders)]).await;
        on(&fixture, "main", vec![in_folder("f", "base", "base"), in_folder("g", "x", "base")]).await;
        branch(&fixture, "side").await;
        on(&fixture, "side", vec![in_folder("f", "theirs", "theirs"), in_folder("g", "x", "theirs")]).await;
        on(&fixture, "main", vec![in_folder("f", "ours", "ours")]).await;
        let Err(Error::Conflicts { conflicts, total, .. }) = fixture.repository.merge("main", merge_of("side")).await else { panic!("merged") };
        assert_eq!((total, conflicts[0].key.part(1), conflicts[1].key.part(1)), (2, Some(&b"ours"[..]), Some(&b"theirs"[..])));
        let (to, _) = merged(&fixture, MergeRequest { strategy, ..merge_of("side") }).await;
        let map = content(&fixture.repository, &to).await;
        let held = |folder: &str, name: &str| {
            let key = Key::new(KeyKind::Object, &[folder.as_bytes(), name.as_bytes()]).unwrap();
            map.get(&key).map_or_else(|| "-".to_owned(), |value| String::from_utf8_lossy(value).into_owned())
        };
        assert_eq!([held("f", "ours"), held("f", "base"), held("f", "theirs"), held("g", "x")], expected, "{strategy:?}");
    }
}

/// Lets no key go.
#[derive(Debug)]
struct KeepsKeys;

#[derive(Debug, thiserror::Error)]
#[error("{0} would go")]
struct Gone(Key);

impl Kinded for Gone {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FailedPrecondition
    }
}

#[async_trait]
impl HeadGuard for KeepsKeys {
    async fn check(&self, change: &HeadChange<'_>) -> Result<(), ApplyError> {
        for difference in change.diff(&Scan::all()).await?.items {
            assert_eq!((change.before(&difference.key).await?, change.after(&difference.key).await?), (difference.left, difference.right.clone()));
            if difference.right.is_none() {
                return Err(ApplyError::Refused(Box::new(Gone(difference.key))));
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_guard_refuses_a_move_before_it_is_made() {
    let fixture = in_memory().await;
    on(&fixture, "main", vec![put("a", "0")]).await;
    branch(&fixture, "side").await;
    let picked = on(&fixture, "side", vec![Change::delete(key("a"))]).await;
    let guard: Option<Arc<dyn HeadGuard>> = Some(Arc::new(KeepsKeys));
    let guarded = |source: &str| MergeRequest { guard: guard.clone(), ..merge_of(source) };
    let before = head(&fixture).await;
    let error = fixture.repository.merge("main", guarded("side")).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::FailedPrecondition, "object/\"a\" would go"));
    let pick = crate::ReplayRequest { guard: guard.clone(), ..crate::ReplayRequest::new(crate::RefSpec::commit(picked), "ada") };
    assert!(matches!(fixture.repository.cherry_pick("main", pick).await, Err(Error::Refused { .. })));
    let reset = crate::ResetRequest { guard: guard.clone(), ..crate::ResetRequest::new(spec("main~1"), "ada") };
    assert!(matches!(fixture.repository.reset("main", reset).await, Err(Error::Refused { .. })));
    assert_eq!(head(&fixture).await, before);
    on(&fixture, "side", vec![put("a", "0"), put("b", "1")]).await;
    fixture.repository.merge("main", guarded("side")).await.unwrap();
}

#[tokio::test]
async fn evidence_is_had_from_both_sides() {
    let evidence = |name: &str, value: &str| Change::put(Key::new(KeyKind::Evidence, &[name.as_bytes()]).unwrap(), value.to_owned());
    let fixture = in_memory().await;
    branch(&fixture, "side").await;
    on(&fixture, "side", vec![evidence("both", "theirs"), evidence("theirs", "1")]).await;
    on(&fixture, "main", vec![evidence("both", "ours"), evidence("ours", "1")]).await;
    let (to, _) = merged(&fixture, merge_of("side")).await;
    let held: Vec<_> = content(&fixture.repository, &to).await.into_values().collect();
    assert_eq!(held, ["ours", "1", "1"]);
}

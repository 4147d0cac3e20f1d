//! Reverts, cherry-picks, resets, the log and ancestry.

use std::collections::BTreeSet;

use anabranch_core::{ErrorKind, Kinded};
use proptest::prelude::*;

use super::*;
use crate::repository::history::CommitReader;
use crate::repository::history::ancestry::{Common, merge_base};
use crate::{Commit, Error, LogCursor, LogQuery, MergeRequest, NodeHash, ReplayRequest, ResetRequest, Strategy as Side};

async fn on(fixture: &Fixture, branch: &str, changes: Vec<Change>) -> CommitId {
    fixture.repository.commit(branch, request(changes)).await.unwrap().commit
}

fn replay(commit: CommitId) -> ReplayRequest {
    ReplayRequest::new(RefSpec::commit(commit), "bob")
}

async fn texts(fixture: &Fixture) -> Vec<String> {
    content(&fixture.repository, &head(fixture).await).await.into_values().map(|value| String::from_utf8_lossy(&value).into_owned()).collect()
}

#[tokio::test]
async fn a_revert_takes_back_one_commit_and_leaves_what_came_after() {
    let fixture = in_memory().await;
    on(&fixture, "main", vec![put("a", "a0"), put("b", "b0")]).await;
    let bad = on(&fixture, "main", vec![put("a", "a1"), Change::delete(key("b")), put("c", "c1")]).await;
    let previous = on(&fixture, "main", vec![put("d", "d1")]).await;
    let made = fixture.repository.revert("main", replay(bad)).await.unwrap();
    assert_eq!(
        (made.previous, head(&fixture).await, texts(&fixture).await),
        (previous, made.commit, vec!["a0".into(), "b0".into(), "d1".to_owned()])
    );
    let info = fixture.repository.commit_info(&made.commit).await.unwrap();
    assert!(info.commit.message.starts_with("revert \"change things\"") && info.commit.message.contains(&bad.to_string()));
    let branch = fixture.repository.branch("main").await.unwrap().id;
    assert_eq!(fixture.repository.reflog(branch, None, 1).await.unwrap()[0].action, "revert");
    assert!(matches!(fixture.repository.revert("main", replay(bad)).await, Err(Error::NothingChanged { .. })));
    // And back again.
    fixture.repository.revert("main", replay(made.commit)).await.unwrap();
    assert_eq!(texts(&fixture).await, ["a1", "c1", "d1"]);
    on(&fixture, "main", vec![put("a", "a2")]).await;
    let Err(Error::Conflicts { conflicts, total, .. }) = fixture.repository.revert("main", replay(bad)).await else { panic!("reverted") };
    assert_eq!((total, conflicts[0].key.clone(), conflicts[0].theirs.clone()), (1, key("a"), Some("a0".into())));
    fixture.repository.revert("main", ReplayRequest { strategy: Side::Ours, ..replay(bad) }).await.unwrap();
    assert_eq!(texts(&fixture).await, ["a2", "b0", "d1"]);
}

#[tokio::test]
async fn a_merge_is_reverted_against_the_parent_that_is_named() {
    let fixture = in_memory().await;
    fixture.repository.create_branch("side", &spec("main"), "ada").await.unwrap();
    on(&fixture, "side", vec![put("s", "side")]).await;
    on(&fixture, "main", vec![put("m", "main")]).await;
    fixture.repository.merge("main", MergeRequest::new(spec("side"), "ada")).await.unwrap();
    let merge = head(&fixture).await;
    let revert = |parent| fixture.repository.revert("main", ReplayRequest { parent, ..replay(merge) });
    for parent in [None, Some(0), Some(3), Some(u32::MAX)] {
        assert_eq!(revert(parent).await.unwrap_err().kind(), ErrorKind::InvalidArgument, "{parent:?}");
    }
    revert(Some(1)).await.unwrap();
    assert_eq!(texts(&fixture).await, ["main"]);
    revert(Some(2)).await.unwrap();
    assert!(texts(&fixture).await.is_empty());
}

#[tokio::test]
async fn a_cherry_pick_makes_a_change_again_elsewhere_once() {
    let fixture = in_memory().await;
    fixture.repository.create_branch("side", &spec("main"), "ada").await.unwrap();
    on(&fixture, "side", vec![put("first", "1")]).await;
    let wanted = on(&fixture, "side", vec![put("wanted", "2")]).await;
    let made = fixture.repository.cherry_pick("main", replay(wanted)).await.unwrap();
    assert_eq!(texts(&fixture).await, ["2"]);
    let info = fixture.repository.commit_info(&made.commit).await.unwrap();
    assert_eq!((info.commit.author.as_str(), info.commit.parents.len()), ("bob", 1));
    assert!(info.commit.message.starts_with("change things\n\n") && info.commit.message.contains(&wanted.to_string()));
    // Again, and of an ancestor, it changes nothing.
    for commit in [wanted, made.commit] {
        assert!(matches!(fixture.repository.cherry_pick("main", replay(commit)).await, Err(Error::NothingChanged { .. })));
    }
    let root = fixture.repository.resolve(&spec("side~2")).await.unwrap().commit;
    for parent in [None, Some(1)] {
        let root = ReplayRequest { parent, ..replay(root) };
        assert_eq!(fixture.repository.revert("main", root.clone()).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(fixture.repository.cherry_pick("main", root).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    let nowhere = ReplayRequest::new(spec("nowhere"), "bob");
    assert_eq!(fixture.repository.revert("main", nowhere.clone()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fixture.repository.cherry_pick("nowhere", nowhere).await.unwrap_err().kind(), ErrorKind::NotFound);
}

fn offset(branch: anabranch_core::BranchId, value: &str) -> Change {
    Change::put(Key::new(KeyKind::Offset, &[&branch.0.to_be_bytes(), b"push", &[0, 0, 0, 1]]).unwrap(), value.to_owned())
}

#[tokio::test]
async fn a_reset_keeps_the_branches_own_offsets_unless_they_are_rewound() {
    let fixture = in_memory().await;
    let main = fixture.repository.branch("main").await.unwrap().id;
    let other = anabranch_core::BranchId(main.0 + 7);
    let first = on(&fixture, "main", vec![put("a", "1"), offset(main, "1"), offset(other, "x")]).await;
    let second = on(&fixture, "main", vec![put("a", "2"), offset(main, "2"), offset(other, "y")]).await;
    let reset = |to: CommitId, rewind_offsets, expected| {
        let request = ResetRequest { rewind_offsets, expected, ..ResetRequest::new(RefSpec::commit(to), "bob") };
        fixture.repository.reset("main", request)
    };
    assert!(matches!(reset(first, false, Some(first)).await, Err(Error::HeadMoved { .. })));
    let kept = reset(first, false, Some(second)).await.unwrap();
    assert_eq!((kept.from, texts(&fixture).await), (second, vec!["2".into(), "x".into(), "1".to_owned()]));
    assert_eq!((fixture.repository.commit_info(&kept.to).await.unwrap().commit.parents[0], head(&fixture).await), (first, kept.to));
    let rewound = reset(first, true, None).await.unwrap();
    assert_eq!((rewound.from, rewound.to, texts(&fixture).await), (kept.to, first, vec!["1".into(), "x".into(), "1".to_owned()]));
    let nothing = reset(first, false, None).await.unwrap();
    assert_eq!((nothing.from, nothing.to), (first, first));
    let log = fixture.repository.reflog(main, None, 10).await.unwrap();
    assert_eq!(log.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>(), ["reset", "reset", "reset", "commit", "commit", "create"]);
    fixture.repository.protect_branch("main", true).await.unwrap();
    assert!(matches!(reset(second, false, None).await, Err(Error::Protected(_))));
    // Also forward, to where it was.
    fixture.repository.protect_branch("main", false).await.unwrap();
    assert_eq!(reset(second, true, None).await.unwrap().to, second);
}

async fn ids(fixture: &Fixture, query: LogQuery) -> Vec<CommitId> {
    let mut query = LogQuery { after: None, ..query };
    let mut ids = Vec::new();
    loop {
        let page = fixture.repository.log(&query).await.unwrap();
        assert!(page.commits.len() <= query.limit);
        ids.extend(page.commits.iter().map(|info| info.id));
        match page.next {
            Some(next) => query.after = Some(next.to_string().parse().unwrap()),
            None => return ids,
        }
    }
}

#[tokio::test]
async fn a_log_is_filtered_by_path_time_and_author_and_goes_on_where_it_ended() {
    let fixture = in_memory().await;
    let start = head(&fixture).await;
    let mut made = Vec::new();
    for (second, name) in [(2, "a"), (3, "b"), (4, "a")] {
        fixture.clock.set(Timestamp(second * 1_000_000));
        let request = CommitRequest { author: format!("author {second}"), ..request(vec![put(name, &second.to_string())]) };
        made.push(fixture.repository.commit("main", request).await.unwrap().commit);
    }
    fixture.repository.create_branch("side", &spec("main~1"), "ada").await.unwrap();
    let side = on(&fixture, "side", vec![put("b", "side")]).await;
    fixture.repository.merge("main", MergeRequest::new(spec("side"), "ada")).await.unwrap();
    let top = head(&fixture).await;
    let query = || LogQuery::new(top, 2);
    let twins = if side > made[2] { [side, made[2]] } else { [made[2], side] };
    assert_eq!(ids(&fixture, query()).await, [top, twins[0], twins[1], made[1], made[0], start]);
    assert_eq!(ids(&fixture, LogQuery { first_parent: true, ..query() }).await, [top, made[2], made[1], made[0], start]);
    assert_eq!(ids(&fixture, LogQuery { paths: vec![key("a")], ..query() }).await, [made[2], made[0]]);
    assert_eq!(ids(&fixture, LogQuery { paths: vec![key("b")], ..query() }).await, [side, made[1]]);
    assert_eq!(ids(&fixture, LogQuery { paths: vec![key("b")], first_parent: true, ..query() }).await, [top, made[1]]);
    let between = LogQuery { since: Some(Timestamp(2_500_000)), until: Some(Timestamp(3_000_000)), ..query() };
    assert_eq!(ids(&fixture, between).await, [made[1]]);
    assert_eq!(ids(&fixture, LogQuery { author: Some("author 2".into()), ..query() }).await, [made[0]]);
    assert_eq!(fixture.repository.log(&LogQuery { limit: 0, ..query() }).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    for text in ["", "w", "x1", "w12", "b1", "b1.x", &format!("bx.{top}")] {
        assert!(text.parse::<LogCursor>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn a_log_of_more_lines_than_a_cursor_names_goes_on_too() {
    let fixture = in_memory().await;
    for n in 0..40 {
        let name = format!("b{n}");
        fixture.repository.create_branch(&name, &spec("main"), "ada").await.unwrap();
    }
    for n in 0..40 {
        on(&fixture, &format!("b{n}"), vec![put(&n.to_string(), "1")]).await;
        fixture.repository.merge("main", MergeRequest { author: n.to_string(), ..MergeRequest::new(spec(&format!("b{n}")), "ada") }).await.unwrap();
    }
    let top = head(&fixture).await;
    let whole = ids(&fixture, LogQuery::new(top, 1000)).await;
    assert_eq!((whole.len(), whole.iter().collect::<BTreeSet<_>>().len()), (80, 80));
    assert_eq!(ids(&fixture, LogQuery::new(top, 7)).await, whole);
}

/// Commits of a graph without content.
struct Graph(Vec<(CommitId, Arc<Commit>)>);

impl Graph {
    fn new(shape: &[Vec<prop::sample::Index>]) -> Self {
        let mut commits: Vec<(CommitId, Arc<Commit>)> = Vec::new();
        for (number, parents) in shape.iter().enumerate() {
            let parents: BTreeSet<usize> = parents.iter().filter(|_| number > 0).map(|parent| parent.index(number)).collect();
            let height = parents.iter().map(|parent| commits[*parent].1.height + 1).max().unwrap_or(0);
            let parents = parents.into_iter().map(|parent| commits[parent].0).collect();
            let (author, message) = (String::new(), number.to_string());
            let commit = Commit { root: NodeHash([0; 32]), parents, height, author, message, time: Timestamp(0), metadata: BTreeMap::new() };
            commits.push((CommitId::of(&commit.encode().unwrap()), Arc::new(commit)));
        }
        Self(commits)
    }

    fn ancestors(&self, of: &CommitId) -> BTreeSet<(u64, CommitId)> {
        let (_, commit) = self.0.iter().find(|(id, _)| id == of).unwrap();
        let own = BTreeSet::from([(commit.height, *of)]);
        commit.parents.iter().fold(own, |all, parent| all.union(&self.ancestors(parent)).copied().collect())
    }
}

#[async_trait::async_trait]
impl CommitReader for Graph {
    async fn commit(&self, id: &CommitId) -> Result<Arc<Commit>> {
        self.0.iter().find(|(known, _)| known == id).map(|(_, commit)| commit.clone()).ok_or(Error::NoCommit(*id))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Graphs with several roots, merges and criss-crosses.
    #[test]
    fn the_merge_base_is_the_highest_common_ancestor_also_when_the_head_moved(
        shape in proptest::collection::vec(proptest::collection::vec(any::<prop::sample::Index>(), 0..3), 1..16),
        [a, b, c] in any::<[prop::sample::Index; 3]>(),
    ) {
        let graph = Graph::new(&shape);
        let pick = |index: prop::sample::Index| graph.0[index.index(graph.0.len())].0;
        let (a, b, c) = (pick(a), pick(b), pick(c));
        let expected = |a: &CommitId, b: &CommitId| graph.ancestors(a).intersection(&graph.ancestors(b)).last().map(|(_, id)| *id);
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            assert_eq!(merge_base(&graph, &a, &b).await.unwrap(), expected(&a, &b));
            assert_eq!(merge_base(&graph, &b, &a).await.unwrap(), expected(&a, &b));
            let common = Common::find(&graph, &a, &b).await.unwrap();
            // A later head, if it is one.
            let later = graph.ancestors(&c).iter().any(|(_, id)| *id == a);
            match common.advanced(&graph, &a, &c).await.unwrap() {
                Some(base) => assert!(later && base == expected(&c, &b)),
                None => assert!(!later),
            }
        });
    }
}

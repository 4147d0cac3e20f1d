//! The laws of [`MetadataStore`], run on every back-end.

use anabranch_core::Timestamp;
use bytes::Bytes;

use crate::{CommitId, EntryKind, HeadMove, HeadStep, IndexEntry, Location, MetadataStore, MetadataWrite, PackId, PackIndex, Publication, Result};

/// Checks every law on an empty store; panics where one is broken.
///
/// # Errors
/// The store's own failures.
pub async fn metadata_laws(store: &dyn MetadataStore) -> Result<()> {
    branches_have_unique_names_and_ids_of_their_own(store).await?;
    a_head_moves_only_from_where_it_is_and_nothing_else_happens_then(store).await?;
    the_reflog_tells_every_step_and_where_a_head_was(store).await?;
    an_index_keeps_the_first_place_and_knows_commits_from_nodes(store).await?;
    tags_are_made_once(store).await?;
    values_scan_in_order_and_swap_by_comparison(store).await?;
    marks_give_no_id_twice_and_are_only_raised(store).await?;
    epochs_grow_by_one(store).await
}

fn commit(number: u8) -> CommitId {
    CommitId([number; 32])
}

fn step(number: u8, time: i64) -> HeadStep {
    HeadStep { commit: commit(number), time: Timestamp(time), author: "ada".to_owned(), action: "commit".to_owned() }
}

async fn branches_have_unique_names_and_ids_of_their_own(store: &dyn MetadataStore) -> Result<()> {
    assert_eq!(store.incarnation().await?, store.incarnation().await?);
    let first = store.create_branch("law/b", &commit(1), Timestamp(5), "ada").await?;
    let Some(first) = first else { panic!("a free name was refused") };
    assert_eq!((first.name.as_str(), first.head, first.created, first.protected), ("law/b", commit(1), Timestamp(5), false));
    assert!(store.create_branch("law/b", &commit(2), Timestamp(5), "ada").await?.is_none());
    assert_eq!(store.branch("law/b").await?, Some(first.clone()));
    assert!(store.create_branch("law/A", &commit(1), Timestamp(5), "ada").await?.is_some());
    let names: Vec<_> = store.branches().await?.into_iter().map(|branch| branch.name).collect();
    assert_eq!(names, ["law/A", "law/b"]);
    assert!(store.protect_branch("law/b", true).await? && !store.protect_branch("law/none", true).await?);
    assert!(store.branch("law/b").await?.is_some_and(|branch| branch.protected));
    assert!(!store.delete_branch("law/b", first.id).await?, "a protected branch is not deleted");
    assert!(store.protect_branch("law/b", false).await?);
    assert!(store.delete_branch("law/b", first.id).await?);
    assert!(!store.delete_branch("law/b", first.id).await?);
    let again = store.create_branch("law/b", &commit(1), Timestamp(5), "ada").await?;
    assert!(again.is_some_and(|again| again.id > first.id));
    assert!(!store.delete_branch("law/b", first.id).await?, "the id of an earlier branch must not delete a later one");
    Ok(())
}

async fn a_head_moves_only_from_where_it_is_and_nothing_else_happens_then(store: &dyn MetadataStore) -> Result<()> {
    let Some(branch) = store.create_branch("law/cas", &commit(1), Timestamp(0), "ada").await? else { panic!("a free name was refused") };
    let write = MetadataWrite::Put { space: "law".to_owned(), key: Bytes::from_static(b"cas"), value: Bytes::from_static(b"x") };
    let pack =
        PackIndex { pack: PackId([9; 32]), bytes: 10, entries: vec![IndexEntry { hash: [0xCA; 32], kind: EntryKind::Commit, offset: 8, len: 2 }] };
    let mut publication = Publication {
        pack: Some(pack),
        head: Some(HeadMove { branch: branch.id, expected: commit(7), steps: vec![step(2, 1)] }),
        writes: vec![write],
        fence: None,
    };
    assert!(!store.publish(&publication).await?);
    assert_eq!(store.branch("law/cas").await?, Some(branch.clone()));
    assert_eq!((store.value("law", b"cas").await?, store.locate(&[[0xCA; 32]]).await?), (None, vec![None]));
    publication.head = Some(HeadMove { branch: branch.id, expected: commit(1), steps: vec![step(2, 1)] });
    assert!(store.publish(&publication).await?);
    assert!(!store.publish(&publication).await?, "the head is no longer where it was");
    assert_eq!(store.branch("law/cas").await?.map(|branch| branch.head), Some(commit(2)));
    assert_eq!(store.value("law", b"cas").await?.as_deref(), Some(&b"x"[..]));
    assert!(store.delete_branch("law/cas", branch.id).await?);
    publication.head = Some(HeadMove { branch: branch.id, expected: commit(2), steps: vec![step(3, 1)] });
    assert!(!store.publish(&publication).await?, "the branch is gone");
    Ok(())
}

async fn the_reflog_tells_every_step_and_where_a_head_was(store: &dyn MetadataStore) -> Result<()> {
    let Some(branch) = store.create_branch("law/log", &commit(1), Timestamp(10), "ada").await? else { panic!("a free name was refused") };
    // The clock runs backwards between the steps.
    let steps = vec![step(2, 30), step(3, 20), step(4, 40)];
    let head = Some(HeadMove { branch: branch.id, expected: commit(1), steps });
    assert!(store.publish(&Publication { head, ..Publication::default() }).await?);
    let log = store.reflog(branch.id, None, 10).await?;
    let moves: Vec<_> = log.iter().map(|entry| (entry.old, entry.new)).collect();
    let (one, two, three, four) = (commit(1), commit(2), commit(3), commit(4));
    assert_eq!(moves, [(Some(three), four), (Some(two), three), (Some(one), two), (None, one)]);
    assert!(log.windows(2).all(|pair| pair[0].seq > pair[1].seq));
    assert_eq!(store.reflog(branch.id, Some(log[1].seq), 1).await?, log[2..3]);
    for (time, head) in [(9, None), (10, Some(one)), (19, Some(one)), (20, Some(three)), (39, Some(three)), (40, Some(four))] {
        assert_eq!(store.head_at(branch.id, Timestamp(time)).await?, head, "at {time}");
    }
    Ok(())
}

async fn an_index_keeps_the_first_place_and_knows_commits_from_nodes(store: &dyn MetadataStore) -> Result<()> {
    let entry = |first: u8, kind, offset| {
        let mut hash = [0; 32];
        hash[0] = first;
        IndexEntry { hash, kind, offset, len: 3 }
    };
    let pack = |number: u8, offset| {
        let commits = [0xB1, 0xB3].map(|first| entry(first, EntryKind::Commit, offset));
        let nodes = (0..250u8).map(|node| IndexEntry { hash: [node; 32], kind: EntryKind::Node, offset, len: 3 });
        PackIndex {
            pack: PackId([number; 32]),
            bytes: 1,
            entries: commits.into_iter().chain([entry(0xB2, EntryKind::Node, offset)]).chain(nodes).collect(),
        }
    };
    assert!(store.publish(&Publication { pack: Some(pack(1, 100)), ..Publication::default() }).await?);
    assert!(store.publish(&Publication { pack: Some(pack(2, 200)), ..Publication::default() }).await?);
    let first = Location { pack: PackId([1; 32]), offset: 100, len: 3 };
    let hashes = [entry(0xB1, EntryKind::Commit, 0).hash, [0xFF; 32], [249; 32]];
    assert_eq!(store.locate(&hashes).await?, [Some(first), None, Some(first)]);
    let (low, high) = (CommitId(entry(0xB0, EntryKind::Commit, 0).hash), CommitId([0xBF; 32]));
    let found = store.commits_between(&low, &high, 10).await?;
    assert_eq!(found.iter().map(|id| id.0[0]).collect::<Vec<_>>(), [0xB1, 0xB3]);
    assert_eq!(store.commits_between(&low, &high, 1).await?.len(), 1);
    Ok(())
}

async fn tags_are_made_once(store: &dyn MetadataStore) -> Result<()> {
    assert!(store.create_tag("law/v1", &commit(1), Timestamp(3)).await?.is_some());
    assert!(store.create_tag("law/v1", &commit(2), Timestamp(4)).await?.is_none());
    assert!(store.create_tag("law/V", &commit(2), Timestamp(4)).await?.is_some());
    assert_eq!(store.tag("law/v1").await?.map(|tag| (tag.commit, tag.created)), Some((commit(1), Timestamp(3))));
    assert_eq!(store.tags().await?.into_iter().map(|tag| tag.name).collect::<Vec<_>>(), ["law/V", "law/v1"]);
    assert!(store.delete_tag("law/v1").await? && !store.delete_tag("law/v1").await?);
    assert_eq!(store.tag("law/v1").await?, None);
    Ok(())
}

async fn values_scan_in_order_and_swap_by_comparison(store: &dyn MetadataStore) -> Result<()> {
    let keys: [&[u8]; 5] = [b"", b"a", b"a\x00", b"a\xff", b"b"];
    let put = |key: &[u8]| MetadataWrite::Put { space: "scan".to_owned(), key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(key) };
    let mut writes: Vec<_> = keys.into_iter().rev().map(put).collect();
    writes.push(MetadataWrite::Put { space: "scan2".to_owned(), key: Bytes::from_static(b"a"), value: Bytes::new() });
    assert!(store.publish(&Publication { writes, ..Publication::default() }).await?);
    let names = |found: Vec<(Bytes, Bytes)>| found.into_iter().map(|(key, _)| key.to_vec()).collect::<Vec<_>>();
    assert_eq!(names(store.values("scan", b"", None, 10).await?), keys);
    assert_eq!(names(store.values("scan", b"a", None, 10).await?), keys[1..4]);
    assert_eq!(names(store.values("scan", b"a", Some(b"a"), 1).await?), keys[2..3]);
    assert_eq!(names(store.values("scan", b"a", Some(b""), 1).await?), keys[1..2]);
    assert!(!store.swap_value("scan", b"b", None, Some(b"x")).await?);
    assert!(!store.swap_value("scan", b"b", Some(b"y"), Some(b"x")).await?);
    assert!(store.swap_value("scan", b"b", Some(b"b"), Some(b"x")).await?);
    assert!(store.swap_value("scan", b"c", None, Some(b"")).await?);
    assert_eq!(store.value("scan", b"c").await?, Some(Bytes::new()));
    assert!(store.swap_value("scan", b"b", Some(b"x"), None).await?);
    let delete = MetadataWrite::Delete { space: "scan".to_owned(), key: Bytes::from_static(b"c") };
    assert!(store.publish(&Publication { writes: vec![delete], ..Publication::default() }).await?);
    assert_eq!((store.value("scan", b"b").await?, store.value("scan", b"c").await?), (None, None));
    Ok(())
}

async fn marks_give_no_id_twice_and_are_only_raised(store: &dyn MetadataStore) -> Result<()> {
    assert_eq!((store.mark("law").await?, store.allocate("law", 3).await?, store.allocate("law", 1).await?), (1, 1, 4));
    let raise = |to| Publication { writes: vec![MetadataWrite::RaiseMark { name: "law".to_owned(), to }], ..Publication::default() };
    assert!(store.publish(&raise(2)).await?);
    assert_eq!(store.mark("law").await?, 5);
    assert!(store.publish(&raise(50)).await?);
    assert_eq!(store.allocate("law", 0).await?, 50);
    assert_eq!(store.allocate("law", 1).await?, 50);
    assert!(store.allocate("law", u64::MAX).await.is_err() && store.publish(&raise(u64::MAX)).await.is_err());
    assert_eq!(store.mark("law").await?, 51);
    Ok(())
}

async fn epochs_grow_by_one(store: &dyn MetadataStore) -> Result<()> {
    let bump = |tag: &str| MetadataWrite::BumpEpoch { tag: tag.to_owned() };
    assert_eq!(store.epochs(&["a", "b"]).await?, [None, None]);
    assert!(store.publish(&Publication { writes: vec![bump("a"), bump("b"), bump("a")], ..Publication::default() }).await?);
    assert_eq!(store.epochs(&["b", "none", "a"]).await?, [Some(1), None, Some(2)]);
    Ok(())
}

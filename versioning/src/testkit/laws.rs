//! The laws of [`MetadataStore`], run on every back-end.

use anabranch_core::{ErrorKind, Kinded, RandomIds, Timestamp};
use bytes::Bytes;
use futures::future::{join_all, try_join_all};

use crate::{
    BranchInfo, CommitId, EntryKind, Fence, HeadMove, HeadStep, IndexEntry, Location, MemoryMetadata, MetadataStore, MetadataWrite, PackId,
    PackIndex, Publication, Renamed, Result,
};

/// Checks every law on an empty store; panics where one is broken.
///
/// # Errors
/// The store's own failures.
pub async fn metadata_laws(store: &dyn MetadataStore) -> Result<()> {
    a_load_into_an_empty_store_restores_all_of_a_dump(store).await?;
    branches_have_unique_names_and_ids_of_their_own(store).await?;
    a_renamed_branch_is_the_same_branch(store).await?;
    names_are_listed_in_pages_by_prefix(store).await?;
    a_head_moves_only_from_where_it_is_and_nothing_else_happens_then(store).await?;
    the_reflog_tells_every_step_and_where_a_head_was(store).await?;
    an_index_keeps_the_first_place_and_knows_commits_from_nodes(store).await?;
    tags_are_made_once(store).await?;
    values_scan_in_order_and_swap_by_comparison(store).await?;
    marks_give_no_id_twice_and_are_only_raised(store).await?;
    epochs_grow_by_one(store).await?;
    a_lease_has_one_holder_and_passes_in_turn(store).await?;
    a_publication_passes_its_fence_only_under_the_current_token(store).await?;
    packs_are_replaced_as_a_whole(store).await?;
    calls_at_once_are_each_answered_for_themselves(store, store).await?;
    what_was_dumped_is_what_a_load_gives(store).await
}

/// Checks on two handles of one database that each sees at once what the other did; panics where a law is broken.
///
/// # Errors
/// The stores' own failures.
pub async fn shared_metadata_laws(one: &dyn MetadataStore, two: &dyn MetadataStore) -> Result<()> {
    assert_eq!(one.incarnation().await?, two.incarnation().await?);
    for (round, (here, there)) in [(one, two), (two, one)].into_iter().enumerate() {
        let name = format!("shared/{round}");
        let branch = made(here, &name, 1).await?;
        assert_eq!(there.branch(&name).await?, Some(branch.clone()));
        assert!(there.create_branch(&name, &commit(1), Timestamp(0), "ada").await?.is_none());
        let advance = |new| {
            let head = HeadMove { branch: branch.id, expected: commit(1), steps: vec![step(new, 1)] };
            Publication { head: Some(head), ..Publication::default() }
        };
        let (ours, theirs) = (advance(2), advance(3));
        let (ours, theirs) = futures::try_join!(here.publish(&ours), there.publish(&theirs))?;
        assert!(ours != theirs, "of two moves from one head exactly one is made");
        let won = if ours { commit(2) } else { commit(3) };
        assert_eq!(there.branch(&name).await?.map(|branch| branch.head), Some(won));
        assert!(here.take_lease(&name, "here", None).await?.is_held_by("here"));
        assert_eq!(there.take_lease(&name, "there", None).await?.waiting, ["there"]);
        here.release_lease(&name, "here").await?;
        assert!(there.lease(&name).await?.is_held_by("there"));
    }
    let ids = join_all((0..40u32).map(|i| if i.is_multiple_of(2) { one.allocate("shared", 1) } else { two.allocate("shared", 1) })).await;
    let mut ids = ids.into_iter().collect::<Result<Vec<_>>>()?;
    ids.sort_unstable();
    assert_eq!(ids, (1..=40).collect::<Vec<_>>(), "an id was given twice or left out");
    calls_at_once_are_each_answered_for_themselves(one, two).await
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

async fn made(store: &dyn MetadataStore, name: &str, head: u8) -> Result<BranchInfo> {
    let made = store.create_branch(name, &commit(head), Timestamp(7), "ada").await?;
    Ok(made.unwrap_or_else(|| panic!("the free name {name} was refused")))
}

async fn a_renamed_branch_is_the_same_branch(store: &dyn MetadataStore) -> Result<()> {
    let (old, other) = (made(store, "law/old", 1).await?, made(store, "law/other", 2).await?);
    assert_eq!(store.rename_branch("law/old", other.id, "law/new").await?, Renamed::NoBranch);
    assert_eq!(store.rename_branch("law/none", old.id, "law/new").await?, Renamed::NoBranch);
    assert_eq!(store.rename_branch("law/old", old.id, "law/other").await?, Renamed::Taken);
    assert_eq!(store.rename_branch("law/old", old.id, "law/old").await?, Renamed::Taken);
    assert!(store.protect_branch("law/old", true).await?);
    assert_eq!(store.rename_branch("law/old", old.id, "law/new").await?, Renamed::NoBranch, "a protected branch keeps its name");
    assert!(store.protect_branch("law/old", false).await?);
    let renamed = BranchInfo { name: "law/new".to_owned(), ..old.clone() };
    assert_eq!(store.rename_branch("law/old", old.id, "law/new").await?, Renamed::Done(renamed.clone()));
    assert_eq!((store.branch("law/old").await?, store.branch("law/new").await?), (None, Some(renamed)));
    assert_eq!(store.reflog(old.id, None, 10).await?.len(), 1);
    let again = made(store, "law/old", 1).await?;
    assert!(again.id > old.id);
    for (name, id) in [("law/new", old.id), ("law/other", other.id), ("law/old", again.id)] {
        assert!(store.delete_branch(name, id).await?);
    }
    Ok(())
}

async fn names_are_listed_in_pages_by_prefix(store: &dyn MetadataStore) -> Result<()> {
    // In the order of their bytes, whatever a locale makes of them.
    let names = ["page", "page/A", "page/B", "page/a", "page/a/b", "page/a\u{D7FF}", "page/a\u{10FFFF}", "page/ab", "page/é", "pagf"];
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    for name in names.iter().rev() {
        made(store, name, 1).await?;
        assert!(store.create_tag(name, &commit(1), Timestamp(0)).await?.is_some());
    }
    for prefix in ["page", "page/", "page/a", "page/a\u{D7FF}", "page/a\u{10FFFF}", "page/\u{10FFFF}", "pag", "none"] {
        let expected: Vec<_> = sorted.iter().copied().filter(|name| name.starts_with(prefix)).collect();
        let (mut branches, mut tags) = (Vec::<String>::new(), Vec::<String>::new());
        loop {
            let page = store.branches_page(prefix, branches.last().map(String::as_str), 3).await?;
            assert!(page.len() <= 3);
            let tags_page = store.tags_page(prefix, tags.last().map(String::as_str), 3).await?;
            if page.is_empty() && tags_page.is_empty() {
                break;
            }
            branches.extend(page.into_iter().map(|branch| branch.name));
            tags.extend(tags_page.into_iter().map(|tag| tag.name));
        }
        assert_eq!((&branches, &tags), (&expected.iter().map(ToString::to_string).collect(), &expected.iter().map(ToString::to_string).collect()));
    }
    assert!(store.branches_page("page", None, 0).await?.is_empty());
    assert_eq!(store.branches_page("page/", Some("a"), 1).await?.len(), 1, "what comes before the prefix bounds nothing");
    for name in names {
        let Some(branch) = store.branch(name).await? else { panic!("{name} is gone") };
        assert!(store.delete_branch(name, branch.id).await? && store.delete_tag(name).await?);
    }
    Ok(())
}

async fn a_lease_has_one_holder_and_passes_in_turn(store: &dyn MetadataStore) -> Result<()> {
    let fence = |token| Fence { lease: "law".to_owned(), token };
    let free = store.lease("law").await?;
    assert_eq!((free.token, free.holder, free.waiting.len()), (0, None, 0));
    assert!(!store.renew_lease(&fence(0)).await?, "a free lease has no holder");
    let taken = store.take_lease("law", "a", None).await?;
    assert!(taken.is_held_by("a") && taken.token > 0 && taken.beat == 0);
    assert_eq!(store.take_lease("law", "a", None).await?, taken, "taking twice is taking once");
    for _ in 0..2 {
        assert_eq!(store.take_lease("law", "b", None).await?.waiting, ["b"]);
    }
    assert_eq!(store.take_lease("law", "c", None).await?.waiting, ["b", "c"]);
    assert!(store.renew_lease(&fence(taken.token)).await? && !store.renew_lease(&fence(taken.token + 1)).await?);
    let seen = (taken.token, taken.beat);
    assert!(store.take_lease("law", "b", Some(seen)).await?.is_held_by("a"), "the beat has moved: the holder lives");
    store.release_lease("law", "a").await?;
    let passed = store.lease("law").await?;
    assert!(passed.is_held_by("b") && passed.token > taken.token && passed.waiting == ["c"]);
    assert!(!store.renew_lease(&fence(taken.token)).await?, "yesterday's token is no longer good");
    store.release_lease("law", "a").await?;
    assert_eq!(store.lease("law").await?, passed, "who holds nothing releases nothing");
    let over = store.take_lease("law", "d", Some((passed.token, passed.beat))).await?;
    assert!(over.is_held_by("d") && over.token > passed.token && over.waiting == ["c"], "a holder that did not move is taken over");
    store.release_lease("law", "c").await?;
    assert!(store.lease("law").await?.waiting.is_empty(), "who waits may leave");
    store.release_lease("law", "d").await?;
    let free = store.lease("law").await?;
    assert!(free.holder.is_none() && !store.renew_lease(&fence(free.token)).await?);
    let again = store.take_lease("law", "a", None).await?;
    assert!(again.is_held_by("a") && again.token > over.token, "tokens only grow");
    store.release_lease("law", "a").await?;
    for name in ["", "two\nlines"] {
        assert_eq!(store.take_lease("law/odd", name, None).await.map_err(|error| error.kind()), Err(ErrorKind::InvalidArgument));
    }
    Ok(())
}

async fn a_publication_passes_its_fence_only_under_the_current_token(store: &dyn MetadataStore) -> Result<()> {
    let branch = made(store, "law/fenced", 1).await?;
    let publication = |token, new: u8| {
        let write = MetadataWrite::Put { space: "law".to_owned(), key: Bytes::from_static(b"fenced"), value: Bytes::from(vec![new]) };
        Publication {
            head: Some(HeadMove { branch: branch.id, expected: commit(new - 1), steps: vec![step(new, 1)] }),
            writes: vec![write],
            fence: Some(Fence { lease: "law/fence".to_owned(), token }),
            pack: None,
        }
    };
    for token in [0, 1] {
        assert!(!store.publish(&publication(token, 2)).await?, "nobody has taken the lease");
    }
    let first = store.take_lease("law/fence", "a", None).await?;
    assert!(!store.publish(&publication(first.token + 1, 2)).await?);
    assert!(store.publish(&publication(first.token, 2)).await?);
    let held = store.lease("law/fence").await?;
    assert!(held.beat > 0, "what passes the fence renews the lease");
    // While `a` is paused, `b` takes over: what `a` sends then comes too late, though the head is where it expects it.
    let second = store.take_lease("law/fence", "b", Some((held.token, held.beat))).await?;
    assert!(second.is_held_by("b"));
    assert!(!store.publish(&publication(first.token, 3)).await?);
    assert_eq!(store.branch("law/fenced").await?.map(|branch| branch.head), Some(commit(2)));
    assert_eq!(store.value("law", b"fenced").await?.as_deref(), Some(&[2][..]));
    assert!(store.publish(&publication(second.token, 3)).await?);
    assert!(!store.publish(&publication(second.token, 3)).await?, "the fence does not replace the compare-and-set");
    store.release_lease("law/fence", "b").await?;
    assert!(!store.publish(&publication(second.token, 4)).await?, "a lease that was released is no longer held");
    assert!(store.delete_branch("law/fenced", branch.id).await?);
    Ok(())
}

async fn packs_are_replaced_as_a_whole(store: &dyn MetadataStore) -> Result<()> {
    let hash = |number: u16| {
        let mut hash = [0xD0; 32];
        hash[1..3].copy_from_slice(&number.to_be_bytes());
        hash
    };
    let pack = |id: u8, offset: u64, entries: std::ops::Range<u16>| PackIndex {
        pack: PackId([id; 32]),
        bytes: u64::from(id),
        entries: entries.map(|number| IndexEntry { hash: hash(number), kind: EntryKind::Node, offset, len: 3 }).collect(),
    };
    let publish = async |pack: &PackIndex| store.publish(&Publication { pack: Some(pack.clone()), ..Publication::default() }).await;
    let (one, two, three) = (pack(0xD1, 1, 0..100), pack(0xD2, 2, 50..150), pack(0xD3, 3, 150..160));
    for pack in [&one, &two, &three, &three] {
        assert!(publish(pack).await?);
    }
    let summaries = async || -> Result<Vec<_>> {
        let after = PackId([0xD0; 32]);
        let (first, mut all) = (store.packs(Some(&after), 1).await?, Vec::new());
        all.extend(first.iter().cloned());
        if let Some(last) = first.last() {
            all.extend(store.packs(Some(&last.id), 100).await?);
        }
        Ok(all.into_iter().filter(|pack| pack.id.0[0] < 0xE0).map(|pack| (pack.id.0[0], pack.entries, pack.bytes)).collect())
    };
    let before = [(0xD1, 100, 0xD1), (0xD2, 50, 0xD2), (0xD3, 10, 0xD3)];
    assert_eq!(summaries().await?, before);
    let olds = [one.pack, two.pack];
    for (new, old) in [
        (vec![pack(0xD4, 4, 0..149)], vec![one.pack, two.pack]),
        (vec![pack(0xD4, 4, 0..150)], vec![one.pack, two.pack, PackId([0xDE; 32])]),
        (vec![one.clone()], vec![one.pack]),
        (vec![], vec![three.pack]),
    ] {
        assert!(!store.replace_packs(&new, &old).await?);
        assert_eq!(summaries().await?, before, "a refused replacement changes nothing");
    }
    let (left, right) = (pack(0xD4, 4, 0..90), pack(0xD5, 5, 80..170));
    assert!(store.replace_packs(&[left, right], &olds).await?);
    assert!(!store.replace_packs(&[pack(0xD4, 4, 0..150)], &olds).await?, "what is forgotten is not replaced again");
    let after = summaries().await?;
    assert_eq!(after.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), [0xD3, 0xD4, 0xD5]);
    assert_eq!(after.iter().map(|(_, entries, _)| entries).sum::<u64>(), 170);
    let places = store.locate(&(0..171).map(hash).collect::<Vec<_>>()).await?;
    for (number, place) in places.into_iter().enumerate() {
        let pack = place.map(|place| (place.pack.0[0], place.offset));
        match number {
            0..80 => assert_eq!(pack, Some((0xD4, 4))),
            80..90 => assert!(matches!(pack, Some((0xD4, 4) | (0xD5, 5)))),
            90..150 | 160..170 => assert_eq!(pack, Some((0xD5, 5))),
            150..160 => assert_eq!(pack, Some((0xD3, 3)), "what another pack holds keeps its place"),
            _ => assert_eq!(pack, None),
        }
    }
    assert!(store.replace_packs(&[], &[]).await?);
    Ok(())
}

/// Many calls under way at once, some of which must fail, on one or two handles.
async fn calls_at_once_are_each_answered_for_themselves(one: &dyn MetadataStore, two: &dyn MetadataStore) -> Result<()> {
    let handle = |i: usize| if i.is_multiple_of(2) { one } else { two };
    let names: Vec<_> = (0..100).map(|i| format!("many/{}", i / 2)).collect();
    let head = commit(1);
    let creating = names.iter().enumerate().map(|(i, name)| handle(i).create_branch(name, &head, Timestamp(0), "ada"));
    let overflowing = (0..4).map(|i| handle(i).allocate("many", u64::MAX));
    let swapping = (0..8).map(|i| handle(i).swap_value("many", b"once", None, Some(b"x")));
    let (made, overflowed, swapped) = futures::join!(join_all(creating), join_all(overflowing), join_all(swapping));
    let made = made.into_iter().collect::<Result<Vec<_>>>()?;
    for pair in made.chunks(2) {
        assert_eq!(pair.iter().flatten().count(), 1, "of two that want one name exactly one gets it");
    }
    assert!(overflowed.iter().all(|answer| answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidArgument)));
    assert_eq!(swapped.into_iter().collect::<Result<Vec<_>>>()?.into_iter().filter(|swapped| *swapped).count(), 1);
    let mut branches: Vec<_> = made.into_iter().flatten().collect();
    assert_eq!(one.branches_page("many/", None, 1000).await?.len(), 50);
    branches.sort_by_key(|branch| branch.id);
    branches.dedup_by_key(|branch| branch.id);
    assert_eq!(branches.len(), 50, "an id was given twice");
    let logs = try_join_all(branches.iter().map(|branch| two.reflog(branch.id, None, 10))).await?;
    assert!(logs.iter().all(|log| log.len() == 1 && log[0].old.is_none()));
    let deleted = try_join_all(branches.iter().enumerate().map(|(i, branch)| handle(i).delete_branch(&branch.name, branch.id))).await?;
    assert!(deleted.into_iter().all(|deleted| deleted) && one.swap_value("many", b"once", Some(b"x"), None).await?);
    Ok(())
}

/// The store stays empty to all appearance, but for ids that later branches do not get.
async fn a_load_into_an_empty_store_restores_all_of_a_dump(store: &dyn MetadataStore) -> Result<()> {
    let incarnation = store.incarnation().await?;
    let source = MemoryMetadata::new(&RandomIds::seeded(77));
    let (kept, gone) = (made(&source, "kept/é", 1).await?, made(&source, "gone", 2).await?);
    assert!(source.delete_branch("gone", gone.id).await? && source.protect_branch("kept/é", true).await?);
    source.create_tag("v1", &commit(9), Timestamp(-5)).await?;
    let put = MetadataWrite::Put { space: "s".to_owned(), key: Bytes::from_static(b"\x00k"), value: Bytes::new() };
    let raise = MetadataWrite::RaiseMark { name: "ids".to_owned(), to: 1 << 40 };
    let head = HeadMove { branch: kept.id, expected: commit(1), steps: (2..100).map(|number| step(number, -i64::from(number))).collect() };
    let writes = vec![put, raise, MetadataWrite::BumpEpoch { tag: "loaded".to_owned() }];
    assert!(source.publish(&Publication { head: Some(head), writes, ..Publication::default() }).await?);
    let dump = source.dump().await?;
    let mut odd = dump.clone();
    odd.last_branch = 0;
    assert!(store.load(&odd).await.is_err());
    odd.last_branch = u64::MAX;
    assert!(store.load(&odd).await.is_err());
    store.load(&dump).await?;
    assert_eq!(store.dump().await?, dump);
    assert_eq!(store.incarnation().await?, incarnation, "a restored database is another one");
    assert_eq!(store.load(&dump).await.map_err(|error| error.kind()), Err(ErrorKind::InvalidArgument), "a store that is not empty takes no load");
    let next = made(store, "after", 1).await?;
    assert!(next.id > gone.id, "an id was given again");
    let log = store.reflog(kept.id, None, 1000).await?;
    let newest = store.reflog(next.id, None, 1).await?;
    assert!(log.len() == 99 && newest[0].seq > log[0].seq, "the reflog goes on");
    assert!(store.protect_branch("kept/é", false).await?);
    for branch in [kept, next] {
        assert!(store.delete_branch(&branch.name, branch.id).await?);
    }
    assert!(store.delete_tag("v1").await? && store.swap_value("s", b"\x00k", Some(b""), None).await?);
    Ok(())
}

async fn what_was_dumped_is_what_a_load_gives(store: &dyn MetadataStore) -> Result<()> {
    let dump = store.dump().await?;
    assert!(!dump.branches.is_empty() && !dump.reflog.is_empty() && !dump.tags.is_empty() && !dump.values.is_empty() && !dump.marks.is_empty());
    let other = MemoryMetadata::new(&RandomIds::seeded(78));
    other.load(&dump).await?;
    assert_eq!(other.dump().await?, dump);
    Ok(())
}

//! Compaction: what it may never change, and its crash points.

use anabranch_core::{ErrorKind, Kinded, Span};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use super::*;
use crate::pack::PackBuilder;
use crate::store::pack_path;
use crate::testkit::{FaultyMetadata, LossyFiles, MetadataFault};
use crate::{Compaction, CompactionOptions, Location, PackId, PackIndex, Publication, local_objects_on};

const GRACE: Span = Span::seconds(3600);
const NONE: Span = Span(0);
const SUSPECTS: &str = "packs.retired";

type States = Vec<(CommitId, BTreeMap<Key, Bytes>)>;

fn options(grace: Span) -> CompactionOptions {
    CompactionOptions { min_packs: 2, grace, ..CompactionOptions::default() }
}

/// Commits that each leave a small pack; what each of them holds.
async fn small_commits(fixture: &Fixture, count: usize) -> States {
    let first = head(fixture).await;
    let mut map = content(&fixture.repository, &first).await;
    let mut states = vec![(first, map.clone())];
    for number in 0..count {
        // Every third goes back to an earlier value, so that packs hold the same nodes.
        let (name, value) = (format!("k{}", number % 5), format!("v{}", number % 3));
        if map.insert(key(&name), value.clone().into()).is_none_or(|held| held != value) {
            states.push((commit(fixture, vec![put(&name, &value)]).await.unwrap().commit, map.clone()));
        }
    }
    states
}

/// Every state, read by a server that has nothing in memory.
async fn check(fixture: &Fixture, states: &States) {
    let cold = open(&fixture.metadata, &fixture.objects).await;
    for (id, state) in states {
        assert_eq!(&content(&cold.repository, id).await, state);
    }
}

async fn objects(fixture: &Fixture) -> Vec<String> {
    let listed: Vec<_> = fixture.objects.list(Some(&"packs".into())).try_collect().await.unwrap();
    let mut names: Vec<_> = listed.into_iter().map(|meta| meta.location.to_string()).collect();
    names.sort();
    names
}

async fn known(fixture: &Fixture) -> Vec<String> {
    fixture.metadata.packs(None, 1000).await.unwrap().iter().map(|pack| pack_path(&pack.id).to_string()).collect()
}

async fn compact(fixture: &Fixture, grace: Span) -> Compaction {
    fixture.repository.compact(&options(grace)).await.unwrap()
}

/// The grace passes, and whatever was left half done is finished.
async fn settle(fixture: &Fixture) {
    for _ in 0..2 {
        fixture.clock.advance(GRACE);
        compact(fixture, GRACE).await;
    }
    fixture.clock.advance(GRACE);
    compact(fixture, GRACE).await;
    assert_eq!(objects(fixture).await, known(fixture).await);
    assert_eq!(fixture.metadata.values(SUSPECTS, &[], None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn small_packs_become_one_and_every_commit_reads_as_before() {
    let folder = tempfile::tempdir().unwrap();
    for fixture in [in_memory().await, on_disk(folder.path()).await] {
        compact_and_check(fixture).await;
    }
}

async fn compact_and_check(fixture: Fixture) {
    let states = small_commits(&fixture, 20).await;
    let done = compact(&fixture, GRACE).await;
    assert_eq!((done.packs_before, done.packs_after, done.objects_deleted), (states.len() as u64, 1, 0));
    assert!(done.entries_moved as usize > states.len() && done.bytes_moved > 0);
    check(&fixture, &states).await;
    // The old ones stay for the grace, also for a server that is started anew.
    assert_eq!(objects(&fixture).await.len(), states.len() + 1);
    let restarted = open(&fixture.metadata, &fixture.objects).await;
    restarted.clock.advance(Span(GRACE.0 / 2));
    assert_eq!(compact(&restarted, GRACE).await.objects_deleted, 0);
    restarted.clock.advance(Span(GRACE.0 / 2));
    let later = compact(&restarted, GRACE).await;
    assert_eq!((later.objects_deleted, later.entries_moved), (states.len() as u64, 0));
    assert_eq!(objects(&fixture).await, known(&fixture).await);
    check(&fixture, &states).await;
    commit(&fixture, vec![put("after", "all")]).await.unwrap();
}

#[tokio::test]
async fn packs_of_a_quarter_of_the_target_and_few_small_ones_are_left_alone() {
    let fixture = in_memory().await;
    small_commits(&fixture, 6).await;
    let many = CompactionOptions { min_packs: 100, ..options(GRACE) };
    assert_eq!(fixture.repository.compact(&many).await.unwrap().entries_moved, 0);
    let tiny = CompactionOptions { target_bytes: 400, ..options(GRACE) };
    assert_eq!(fixture.repository.compact(&tiny).await.unwrap().entries_moved, 0);
}

#[tokio::test]
async fn an_entry_that_several_packs_hold_stays_where_the_first_holds_it() {
    let fixture = in_memory().await;
    let big: String = (0..4000u32).map(|n| blake3::hash(&n.to_be_bytes()).to_hex().to_string()).collect();
    // The big value comes first and fills a leaf; the leaf behind it is made twice.
    let made = commit(&fixture, vec![put("0", &big), put("a", "1")]).await.unwrap().commit;
    let large = fixture.metadata.locate(&[made.0]).await.unwrap()[0].unwrap().pack;
    let index = PackIndex::read(&read(&fixture, &large).await).unwrap();
    for value in ["2", "1", "2", "1"] {
        commit(&fixture, vec![put("a", value)]).await.unwrap();
    }
    let hashes: Vec<_> = index.entries.iter().map(|entry| entry.hash).collect();
    let before = fixture.metadata.locate(&hashes).await.unwrap();
    let head = head(&fixture).await;
    let small = CompactionOptions { target_bytes: 256 << 10, ..options(NONE) };
    let done = fixture.repository.compact(&small).await.unwrap();
    assert!(done.packs_before - done.packs_after >= 3 && done.objects_deleted >= 4, "{done:?}");
    assert_eq!(fixture.metadata.locate(&hashes).await.unwrap(), before);
    // In the packs of the last commits lie copies of those nodes; the copies were not moved.
    let moved = fixture.metadata.locate(&[head.0]).await.unwrap()[0].unwrap().pack;
    let moved = PackIndex::read(&read(&fixture, &moved).await).unwrap();
    assert!(moved.entries.iter().all(|entry| !hashes.contains(&entry.hash)));
    check(&fixture, &vec![(head, BTreeMap::from([(key("0"), big.into()), (key("a"), "1".into())]))]).await;
}

async fn read(fixture: &Fixture, pack: &PackId) -> Bytes {
    fixture.objects.get(&pack_path(pack)).await.unwrap().bytes().await.unwrap()
}

#[tokio::test]
async fn a_pack_in_which_nothing_is_looked_up_is_forgotten_unread() {
    let fixture = in_memory().await;
    let states = small_commits(&fixture, 4).await;
    let location = fixture.metadata.locate(&[states[0].0.0]).await.unwrap()[0].unwrap();
    let bytes = read(&fixture, &location.pack).await;
    let mut copy = PackBuilder::new();
    let entry = &bytes[location.offset as usize..location.offset as usize + location.len as usize];
    copy.add_encoded(crate::EntryKind::Commit, states[0].0.0, entry);
    // Its object was never written.
    let (_, index) = copy.finish();
    fixture.metadata.publish(&Publication { pack: Some(index.clone()), ..Publication::default() }).await.unwrap();
    assert!(known(&fixture).await.contains(&pack_path(&index.pack).to_string()));
    let done = compact(&fixture, NONE).await;
    assert_eq!((done.packs_after, &done.damaged[..]), (1, &[][..]));
    check(&fixture, &states).await;
}

#[tokio::test]
async fn a_reader_that_finds_its_pack_compacted_away_looks_again() {
    let fixture = in_memory().await;
    let states = small_commits(&fixture, 6).await;
    let store = &fixture.repository.store;
    let hash = states[3].0.0;
    let stale: Location = fixture.metadata.locate(&[hash]).await.unwrap()[0].unwrap();
    compact(&fixture, NONE).await;
    assert!(!objects(&fixture).await.contains(&pack_path(&stale.pack).to_string()));
    let bytes = store.fetch_at(stale, &hash, "the commit").await.unwrap().unwrap();
    assert_eq!(CommitId::of(&bytes), states[3].0);
    // What the index still places in a pack that is missing is damage.
    let now = fixture.metadata.locate(&[hash]).await.unwrap()[0].unwrap();
    fixture.objects.delete(&pack_path(&now.pack)).await.unwrap();
    let error = store.fetch_at(stale, &hash, "the commit").await.unwrap_err().to_string();
    assert!(error.contains("the commit") && error.contains(&now.pack.to_string()) && error.contains("missing"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_writers_go_on_while_packs_are_compacted() {
    let fixture = in_memory().await;
    let states = small_commits(&fixture, 30).await;
    // Each read is one of the store's: nothing is kept in memory.
    let (clock, ids) = (fixture.clock.clone(), Arc::new(RandomIds::seeded(3)));
    let uncached = RepositoryOptions { cache_bytes: 0, ..RepositoryOptions::default() };
    let cold = Repository::open(fixture.metadata.clone(), fixture.objects.clone(), clock, ids, uncached).await.unwrap();
    let reading = {
        let (cold, states) = (cold.clone(), states.clone());
        tokio::spawn(async move {
            for _ in 0..20 {
                for (id, state) in &states {
                    assert_eq!(&content(&cold, id).await, state);
                }
            }
        })
    };
    // No reader can miss a pack more often than packs are compacted.
    for round in 0..2 {
        let options = options(NONE);
        let (done, made) = tokio::join!(fixture.repository.compact(&options), commit(&fixture, vec![put("w", &round.to_string())]));
        done.unwrap();
        made.unwrap();
    }
    reading.await.unwrap();
    check(&fixture, &states).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_compact_at_once_lose_nothing() {
    let fixture = in_memory().await;
    let states = small_commits(&fixture, 25).await;
    let other = open(&fixture.metadata, &fixture.objects).await;
    let (a, b) = (options(GRACE), options(GRACE));
    let (a, b) = tokio::join!(fixture.repository.compact(&a), other.repository.compact(&b));
    // A group is moved by one of them only.
    let moved = [a.unwrap(), b.unwrap()].map(|done| done.entries_moved);
    assert!(moved.contains(&0) && moved != [0, 0], "{moved:?}");
    check(&fixture, &states).await;
    settle(&fixture).await;
    check(&fixture, &states).await;
}

#[tokio::test]
async fn a_failure_at_the_transaction_changes_nothing_or_is_finished_later() {
    for fault in [MetadataFault::Before, MetadataFault::After, MetadataFault::Outrun] {
        let inner = in_memory().await;
        let states = small_commits(&inner, 12).await;
        let faults = Arc::new(FaultyMetadata::new(inner.metadata.clone()));
        let metadata: Arc<dyn MetadataStore> = faults.clone();
        let fixture = open(&metadata, &inner.objects).await;
        faults.arm(fault);
        match fixture.repository.compact(&options(GRACE)).await {
            Ok(done) => assert_eq!((fault, done.entries_moved, done.packs_after), (MetadataFault::Outrun, 0, done.packs_before)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
        }
        check(&fixture, &states).await;
        settle(&fixture).await;
        assert_eq!(known(&fixture).await.len(), 1, "{fault:?}");
        check(&fixture, &states).await;
    }
}

#[tokio::test]
async fn a_claimed_pack_holds_its_group_back_until_the_claim_is_old() {
    let fixture = in_memory().await;
    let states = small_commits(&fixture, 8).await;
    let pack = fixture.metadata.packs(None, 1).await.unwrap()[0].id;
    // A server died between its claim and the deletion.
    let claim = [&[2][..], &1_000_000i64.to_be_bytes()].concat();
    assert!(fixture.metadata.swap_value(SUSPECTS, &pack.0, None, Some(&claim)).await.unwrap());
    assert_eq!(compact(&fixture, GRACE).await.entries_moved, 0);
    fixture.clock.advance(GRACE);
    compact(&fixture, GRACE).await;
    assert!(objects(&fixture).await.contains(&pack_path(&pack).to_string()), "the index knows it");
    assert!(compact(&fixture, GRACE).await.entries_moved > 0);
    settle(&fixture).await;
    check(&fixture, &states).await;
}

#[tokio::test]
async fn a_damaged_pack_is_named_and_the_others_are_compacted() {
    let fixture = in_memory().await;
    let states = small_commits(&fixture, 8).await;
    let damaged = fixture.metadata.locate(&[states[2].0.0]).await.unwrap()[0].unwrap().pack;
    let whole = read(&fixture, &damaged).await;
    let mut bytes = whole.to_vec();
    bytes[20] ^= 1;
    fixture.objects.put(&pack_path(&damaged), bytes.into()).await.unwrap();
    let done = compact(&fixture, NONE).await;
    assert!(done.damaged.len() == 1 && done.damaged[0].contains(&damaged.to_string()), "{done:?}");
    assert_eq!(done.packs_after, 2);
    fixture.objects.put(&pack_path(&damaged), whole.into()).await.unwrap();
    check(&fixture, &states).await;
    compact(&fixture, NONE).await;
    check(&fixture, &states).await;
}

#[tokio::test]
async fn power_lost_at_any_step_leaves_every_commit_readable() {
    for cut in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let files = LossyFiles::default();
        let metadata: Arc<dyn MetadataStore> = Arc::new(MemoryMetadata::new(&RandomIds::seeded(2)));
        let objects = || local_objects_on(Arc::new(files.clone()), &folder.path().join("objects")).unwrap();
        let fixture = open(&metadata, &objects()).await;
        let states = small_commits(&fixture, 5).await;
        files.cut_power_after(cut);
        let done = fixture.repository.compact(&options(NONE)).await;
        files.lose_power().unwrap();
        let fixture = open(&metadata, &objects()).await;
        check(&fixture, &states).await;
        fixture.clock.advance(GRACE);
        compact(&fixture, GRACE).await;
        check(&fixture, &states).await;
        if done.is_ok() {
            assert!(cut > 5, "{cut} steps are too few to be all");
            return;
        }
    }
}

//! Damage is found, named by hash and pack, and never served; and how much a commit writes.

use anabranch_core::{ErrorKind, Kinded};
use object_store::ObjectStoreExt;

use super::*;
use crate::store::pack_path;
use crate::tree::NodeReader;
use crate::{EntryKind, Error, IndexEntry, NodeHash, PackIndex};

/// A map of many leaves in one commit, and its pack.
async fn many_leaves(fixture: &Fixture, count: u32) -> (CommitId, Bytes, PackIndex) {
    let value = |n: u32| blake3::hash(&n.to_be_bytes()).as_bytes().to_vec();
    let changes = (0..count).map(|n| Change::put(key(&format!("{n:08}")), value(n))).collect();
    let made = commit(fixture, changes).await.unwrap().commit;
    let pack = fixture.metadata.locate(&[made.0]).await.unwrap()[0].unwrap().pack;
    let bytes = fixture.objects.get(&pack_path(&pack)).await.unwrap().bytes().await.unwrap();
    let index = PackIndex::read(&bytes).unwrap();
    assert_eq!(index.pack, pack);
    (made, bytes, index)
}

/// What a server with nothing in memory says of an entry, read alone and among all nodes.
async fn errors(fixture: &Fixture, index: &PackIndex, entry: &IndexEntry) -> Vec<Error> {
    let cold = open(&fixture.metadata, &fixture.objects).await;
    let store = &cold.repository.store;
    if entry.kind == EntryKind::Commit {
        return vec![store.commit(&CommitId(entry.hash)).await.unwrap_err()];
    }
    let nodes: Vec<_> = index.entries.iter().filter(|entry| entry.kind == EntryKind::Node).map(|entry| NodeHash(entry.hash)).collect();
    vec![store.nodes(&nodes).await.unwrap_err(), store.node(&NodeHash(entry.hash)).await.unwrap_err()]
}

fn assert_names(errors: Vec<Error>, index: &PackIndex, entry: &IndexEntry) {
    for error in errors {
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Internal, "{message}");
        assert!(message.contains(&NodeHash(entry.hash).to_string()) && message.contains(&pack_path(&index.pack).to_string()), "{message}");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_any_entry_is_told_with_the_entry_and_its_pack() {
    let fixture = in_memory().await;
    let (made, bytes, index) = many_leaves(&fixture, 3000).await;
    assert!(index.entries.len() > 6);
    for entry in &index.entries {
        for at in [entry.offset, entry.offset + 4, entry.offset + u64::from(entry.len) / 2] {
            let mut damaged = bytes.to_vec();
            damaged[at as usize] ^= 0x41;
            fixture.objects.put(&pack_path(&index.pack), damaged.into()).await.unwrap();
            assert_names(errors(&fixture, &index, entry).await, &index, entry);
        }
    }
    fixture.objects.put(&pack_path(&index.pack), bytes.into()).await.unwrap();
    let whole = open(&fixture.metadata, &fixture.objects).await;
    assert_eq!(content(&whole.repository, &made).await.len(), 3000);
}

#[tokio::test]
async fn a_pack_cut_short_is_told_with_the_entry_and_the_pack() {
    let folder = tempfile::tempdir().unwrap();
    for fixture in [in_memory().await, on_disk(folder.path()).await] {
        let (_, bytes, index) = many_leaves(&fixture, 2000).await;
        for entry in &index.entries {
            for len in [entry.offset, entry.offset + u64::from(entry.len) - 1] {
                fixture.objects.put(&pack_path(&index.pack), bytes.slice(..len as usize).into()).await.unwrap();
                // Among all nodes, the first that lies behind the cut is named.
                let alone = errors(&fixture, &index, entry).await.pop().unwrap();
                assert!(alone.to_string().contains("cut short"), "{alone}");
                assert_names(vec![alone], &index, entry);
            }
        }
    }
}

#[tokio::test]
async fn a_missing_pack_is_told_with_the_entry_and_the_pack() {
    let folder = tempfile::tempdir().unwrap();
    for fixture in [in_memory().await, on_disk(folder.path()).await] {
        let (_, _, index) = many_leaves(&fixture, 2000).await;
        fixture.objects.delete(&pack_path(&index.pack)).await.unwrap();
        for entry in &index.entries {
            let alone = errors(&fixture, &index, entry).await.pop().unwrap();
            assert!(alone.to_string().contains("missing"), "{alone}");
            assert_names(vec![alone], &index, entry);
        }
    }
}

#[tokio::test]
async fn a_commit_of_one_key_writes_a_node_or_two_of_each_level() {
    let fixture = in_memory().await;
    // Keys as long as paths, so that a few entries make several levels.
    let name = |n: u32| format!("trajectories/2026/11/21/robot-{:032}/episode-{:064}", n / 1000, n);
    let value = |n: u32| Bytes::copy_from_slice(blake3::hash(&n.to_be_bytes()).as_bytes());
    let changes = (0..40_000).map(|n| Change::put(key(&name(n)), value(n))).collect();
    let made = commit(&fixture, changes).await.unwrap().commit;
    let root = fixture.repository.at(&made).await.unwrap().root();
    let levels = u64::from(fixture.repository.store.node(&root).await.unwrap().level()) + 1;
    assert!(levels >= 3);
    let (mut sum, rounds) = (0, 24u32);
    for round in 0..rounds {
        let change = Change::put(key(&name(round * 1637)), value(round + 1_000_000));
        let made = commit(&fixture, vec![change]).await.unwrap().commit;
        let pack = fixture.metadata.locate(&[made.0]).await.unwrap()[0].unwrap().pack;
        let bytes = fixture.objects.head(&pack_path(&pack)).await.unwrap().size;
        // With four levels, which hold 10^8 keys, this is below 200 kB.
        assert!(bytes <= levels * 48_000, "{bytes} bytes over {levels} levels");
        sum += bytes;
    }
    assert!(sum / u64::from(rounds) <= levels * 20_000, "{} bytes over {levels} levels", sum / u64::from(rounds));
}

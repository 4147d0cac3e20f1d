use anabranch_core::RandomIds;

use super::*;
use crate::OnlineStoreExt;
use crate::testkit::redis::{DURABLE, TestRedis};
use crate::testkit::{advance, at, entity, row, write};
use keys::Root;

const G: Generation = Generation(1);

fn ids() -> Arc<dyn Ids> {
    Arc::new(RandomIds::from_os())
}

#[test]
fn a_walk_comes_back_from_its_cursor_and_others_are_refused() {
    let walk = Walk { address: "h:1".to_owned(), cursor: 77, pending: vec![b"a".to_vec(), Vec::new(), vec![0; 300]] };
    assert_eq!(Walk::parse(&walk.to_bytes()).unwrap(), walk);
    let bytes = walk.to_bytes();
    for cut in [0, 7, 8, 11, bytes.len() - 1] {
        assert!(Walk::parse(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn chunks_are_bounded_and_leave_no_row_out() {
    assert!(chunks(&[]).is_empty());
    let many: Vec<_> = (0..5_000).map(|i| write(G, i, at(i), b"")).collect();
    let cut = chunks(&many);
    assert!(cut.iter().all(|chunk| chunk.len() <= CHUNK_ROWS) && cut.concat() == many);
    let large: Vec<_> = (0..5).map(|i| write(G, i, at(i), &vec![0; CHUNK_BYTES / 2])).collect();
    assert_eq!(chunks(&large).iter().map(|chunk| chunk.len()).collect::<Vec<_>>(), [1; 5]);
}

/// Whoever opened the store was killed after the root said that it opens.
#[tokio::test]
async fn an_opening_that_was_cut_short_goes_on_where_it_stood() {
    let server = TestRedis::start(DURABLE);
    let store = RedisOnlineStore::open(&server.config(), ids()).await.unwrap();
    store.write(&[write(G, 1, at(1), b"x")]).await.unwrap();
    advance(&store, G, b"c1").await;
    let (call, key) = (store.call("test"), store.cluster.keys.root());
    let half = Root { incarnation: Incarnation(7), open: false };
    store.one(key.clone(), cmd("SET").arg(key).arg(half.to_bytes()).take(), &call).await.unwrap();
    for _ in 0..2 {
        let next = RedisOnlineStore::open(&server.config(), ids()).await.unwrap();
        assert_eq!(next.incarnation().await.unwrap(), Incarnation(7));
        assert_eq!(next.published_to(G).await.unwrap(), None);
    }
    // The one that was there before learns of it with its next lookup.
    assert_eq!(store.get(G, &entity(1)).await.unwrap(), Some(row(at(1), b"x")));
    assert_eq!(store.incarnation().await.unwrap(), Incarnation(7));
}

#[tokio::test]
async fn servers_that_open_an_empty_redis_at_once_agree_on_its_incarnation() {
    let server = TestRedis::start(DURABLE);
    let opening: Vec<_> = (0..8)
        .map(|_| {
            let config = server.config();
            tokio::spawn(async move { RedisOnlineStore::open(&config, ids()).await.unwrap() })
        })
        .collect();
    let mut incarnations = Vec::new();
    for store in opening {
        let store = store.await.unwrap();
        store.sync().await.unwrap();
        incarnations.push(store.incarnation().await.unwrap());
    }
    incarnations.dedup();
    assert_eq!(incarnations.len(), 1);
}

#[tokio::test]
async fn a_store_of_a_newer_format_is_refused() {
    let server = TestRedis::start(DURABLE);
    let store = RedisOnlineStore::open(&server.config(), ids()).await.unwrap();
    let (call, key) = (store.call("test"), store.cluster.keys.root());
    store.one(key.clone(), cmd("SET").arg(key).arg(&[2_u8; 18][..]).take(), &call).await.unwrap();
    let error = RedisOnlineStore::open(&server.config(), ids()).await.unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 2, .. }), "{error}");
}

//! The budget and its users.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anabranch_core::{ErrorKind, Kinded};
use anabranch_offline_store::batches::CacheUse;
use anabranch_offline_store::dataset::ContentDigest;

use crate::support::{CONTENT, cache, columns, packed, rows};

fn content(n: u8) -> ContentDigest {
    ContentDigest([n; 32])
}

#[tokio::test]
async fn many_who_ask_at_a_time_are_served_by_one_computation() {
    let columns = columns(&["i64"]);
    let (_folder, cache) = cache(u64::MAX, 0);
    let (table, fills) = (rows(&columns, 100, 1), AtomicU32::new(0));
    let ask = || {
        cache.rows(CONTENT, &columns, |mut builder| async {
            fills.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            builder.push(&table)?;
            builder.finish()
        })
    };
    let answers = futures::future::try_join_all((0..20).map(|_| ask())).await.unwrap();
    assert_eq!((fills.load(Ordering::Relaxed), cache.usage().builds), (1, 1));
    assert!(answers.iter().all(|rows| Arc::ptr_eq(rows, &answers[0])));
}

#[tokio::test]
async fn when_the_first_gives_up_the_next_one_packs_and_nothing_is_left_of_the_former() {
    let columns = columns(&["i64"]);
    let (_folder, cache) = cache(1 << 20, 0);
    let table = rows(&columns, 20_000, 1);
    {
        let begun = cache.rows(CONTENT, &columns, |mut builder| async {
            builder.push(&table)?;
            std::future::pending::<()>().await;
            builder.finish()
        });
        let mut begun = std::pin::pin!(begun);
        assert!(futures::poll!(&mut begun).is_pending());
        assert!(cache.usage().memory_bytes > 0);
    }
    assert_eq!(cache.usage(), CacheUse::default());
    packed(&cache, CONTENT, &table, &columns, 100).await.unwrap();
    assert_eq!(cache.usage().datasets, 1);
}

#[tokio::test]
async fn what_nobody_reads_makes_room_the_longest_unused_first() {
    let columns = columns(&["i64"]);
    let table = rows(&columns, 16_384, 1);
    // A row takes 9 bytes; two datasets fit.
    let (_folder, cache) = cache(2 * 16_384 * 9, 0);
    packed(&cache, content(1), &table, &columns, 16_384).await.unwrap();
    packed(&cache, content(2), &table, &columns, 16_384).await.unwrap();
    packed(&cache, content(1), &table, &columns, 16_384).await.unwrap();
    assert_eq!(cache.usage().builds, 2);
    packed(&cache, content(3), &table, &columns, 16_384).await.unwrap();
    packed(&cache, content(1), &table, &columns, 16_384).await.unwrap();
    assert_eq!((cache.usage().builds, cache.usage().datasets), (3, 2), "the second made room");
    packed(&cache, content(2), &table, &columns, 16_384).await.unwrap();
    assert_eq!(cache.usage().builds, 4);
}

#[tokio::test]
async fn what_is_read_stays_and_who_finds_no_room_is_told_which_setting_to_raise() {
    let columns = columns(&["i64"]);
    let table = rows(&columns, 16_384, 1);
    let (_folder, cache) = cache(16_384 * 9, 16_384 * 9);
    let first = packed(&cache, content(1), &table, &columns, 16_384).await.unwrap();
    let second = packed(&cache, content(2), &table, &columns, 16_384).await.unwrap();
    let usage = cache.usage();
    assert_eq!((usage.memory_bytes, usage.disk_bytes), (first.bytes(), second.bytes()));
    let refused = packed(&cache, content(3), &table, &columns, 16_384).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Exhausted && refused.to_string().contains("datasets.cache_disk_bytes"), "{refused}");
    assert_eq!(cache.usage(), usage);
    drop(second);
    let third = packed(&cache, content(3), &table, &columns, 16_384).await.unwrap();
    assert_eq!(cache.usage().disk_bytes, third.bytes());
}

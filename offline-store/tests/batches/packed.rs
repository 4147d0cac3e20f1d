//! Rows come out of their packed form as they went in.

use anabranch_offline_store::batches::{BatchesError, RowOrder};
use arrow::array::UInt64Array;
use arrow::compute::take_record_batch;
use proptest::prelude::*;

use crate::support::{CONTENT, TYPES, cache, columns, packed, rows};

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn picked_rows_are_those_that_were_packed(
        types in prop::collection::vec(prop::sample::select(TYPES.to_vec()), 1..8),
        count in 1_u64..300,
        seed: u64,
        batch in 1_usize..100,
        memory in prop::sample::select(vec![0, u64::MAX]),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        wanted in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let (columns, (_folder, cache)) = (columns(&types), cache(memory, u64::MAX));
        let table = rows(&columns, count, seed);
        let packed = run(packed(&cache, CONTENT, &table, &columns, batch)).unwrap();
        prop_assert_eq!(packed.rows(), count);
        let picks: Vec<u64> = picks.iter().map(|pick| pick.index(count as usize) as u64).collect();
        let wanted: Vec<usize> = wanted.iter().map(|column| column.index(columns.len())).collect();
        let expected = take_record_batch(&table, &UInt64Array::from(picks.clone())).unwrap();
        let all = packed.pick(&picks, &packed.select(&[]).unwrap()).unwrap();
        prop_assert_eq!(&all, &expected);
        prop_assert_eq!(packed.pick(&picks, &wanted).unwrap(), expected.project(&wanted).unwrap());
    }
}

#[test]
fn rows_of_many_blocks_come_from_memory_and_disk_alike() {
    let columns = columns(&["i64", "string", "f32"]);
    let table = rows(&columns, 50_000, 5);
    // Room for some of the blocks.
    let (folder, cache) = cache(700_000, u64::MAX);
    let packed = run(packed(&cache, CONTENT, &table, &columns, 7_000)).unwrap();
    let usage = cache.usage();
    assert!(usage.memory_bytes > 0 && usage.disk_bytes > 0, "{usage:?}");
    assert_eq!(usage.memory_bytes + usage.disk_bytes, packed.bytes());
    let order = RowOrder::new(&CONTENT, "", 50_000, Some(1), 0);
    let picks: Vec<_> = (0..50_000).map(|position| order.row(position)).collect();
    assert_eq!(packed.pick(&picks, &[0, 1, 2]).unwrap(), take_record_batch(&table, &UInt64Array::from(picks)).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has a name");
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let columns = columns(&["i64"]);
    let (_folder, cache) = cache(u64::MAX, 0);
    let packed = run(packed(&cache, CONTENT, &rows(&columns, 3, 1), &columns, 3)).unwrap();
    let message = packed.select(&["price".to_owned()]).unwrap_err().to_string();
    assert!(message.contains("\"price\"") && message.contains("c0"), "{message}");
    assert!(packed.pick(&[3], &[0]).is_err());
    assert_eq!(packed.pick(&[], &[0]).unwrap().num_rows(), 0);
}

#[test]
fn rows_of_other_columns_are_refused() {
    let announced = columns(&["i64", "string"]);
    for other in [columns(&["i64"]), columns(&["string", "i64"])] {
        let (_folder, cache) = cache(u64::MAX, 0);
        let refused = run(packed(&cache, CONTENT, &rows(&other, 3, 1), &announced, 3)).unwrap_err();
        assert!(matches!(refused, BatchesError::Rows { .. }), "{refused}");
    }
}

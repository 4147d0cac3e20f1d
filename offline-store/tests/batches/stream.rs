//! Batches out of packed rows.

use std::sync::Arc;

use anabranch_offline_store::batches::{AHEAD, Chunk, ChunkRequest, Cursor, PackedRows, RowOrder, RowSet, Stripe, chunks};
use anabranch_offline_store::dataset::SplitRule;
use arrow::array::{AsArray, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::Int64Type;
use futures::{StreamExt, TryStreamExt};

use crate::support::{CONTENT, cache, columns, packed, rows};

const ROWS: u64 = 1_000;

fn request(rows: &Arc<PackedRows>, stripe: Stripe, chunk_bytes: u64) -> ChunkRequest {
    ChunkRequest {
        rows: Arc::clone(rows),
        columns: rows.select(&[]).unwrap().into(),
        among: Arc::new(RowSet::All(rows.rows())),
        order: Arc::new(RowOrder::new(&CONTENT, "", rows.rows(), Some(4), 1)),
        stripe,
        cursor: Cursor::new(CONTENT, "", Some(4), 1, stripe.start),
        chunk_bytes,
    }
}

fn stripe(start: u64, batch_size: u32, rank: u32, world_size: u32) -> Stripe {
    Stripe { rows: ROWS, start, batch_size, rank, world_size, drop_last: false }
}

/// The batches of a rank with the cursor behind each.
async fn batches(request: ChunkRequest) -> Vec<(RecordBatch, Cursor)> {
    let chunks: Vec<_> = chunks(request).try_collect().await.unwrap();
    let mut all = Vec::new();
    for Chunk { rows, sizes, cursors } in chunks {
        let mut at = 0;
        for (size, cursor) in sizes.into_iter().zip(cursors) {
            all.push((rows.slice(at, size as usize), cursor));
            at += size as usize;
        }
        assert_eq!(at, rows.num_rows());
    }
    all
}

#[tokio::test]
async fn a_rank_gets_its_rows_in_the_epoch_s_order_however_large_a_chunk_is() {
    let columns = columns(&["i64", "string"]);
    let (table, (_folder, cache)) = (rows(&columns, ROWS, 3), cache(u64::MAX, 0));
    let packed = packed(&cache, CONTENT, &table, &columns, 64).await.unwrap();
    let order = RowOrder::new(&CONTENT, "", ROWS, Some(4), 1);
    for chunk_bytes in [1, 5_000, u64::MAX] {
        let got = batches(request(&packed, stripe(0, 30, 1, 3), chunk_bytes)).await;
        let expected: Vec<_> = (1..ROWS).step_by(3).map(|position| order.row(position)).collect();
        let expected = take_record_batch(&table, &UInt64Array::from(expected)).unwrap();
        assert!(got[..got.len() - 1].iter().all(|(batch, _)| batch.num_rows() == 30));
        assert_eq!(concat_batches(&table.schema(), got.iter().map(|(batch, _)| batch)).unwrap(), expected);
    }
}

#[tokio::test]
async fn going_on_from_any_cursor_gives_the_rest_of_the_uninterrupted_epoch() {
    let columns = columns(&["i64"]);
    let (table, (_folder, cache)) = (rows(&columns, ROWS, 3), cache(0, u64::MAX));
    let packed = packed(&cache, CONTENT, &table, &columns, 1_000).await.unwrap();
    let whole = batches(request(&packed, stripe(0, 64, 0, 2), 2_000)).await;
    for (done, (_, cursor)) in whole.iter().enumerate() {
        let place = cursor.to_string().parse::<Cursor>().unwrap().position;
        assert_eq!(batches(request(&packed, stripe(place, 64, 0, 2), 1_000)).await, whole[done + 1..]);
    }
}

#[test]
fn no_more_is_gathered_than_a_fixed_number_of_chunks_ahead_of_the_reader() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let columns = columns(&["i64"]);
    let (_folder, cache) = cache(u64::MAX, 0);
    let packed = runtime.block_on(packed(&cache, CONTENT, &rows(&columns, ROWS, 3), &columns, 1_000)).unwrap();
    runtime.block_on(async {
        let mut stream = std::pin::pin!(chunks(request(&packed, stripe(0, 10, 0, 1), 1)));
        for taken in 1..=5 {
            stream.next().await.unwrap().unwrap();
            assert!(packed.picks() <= taken + AHEAD as u64);
        }
    });
    // What had begun ends; nothing else begins.
    drop(runtime);
    assert!((5..=5 + AHEAD as u64).contains(&packed.picks()), "{}", packed.picks());
    assert_eq!(Arc::strong_count(&packed), 2, "the stream holds nothing any more");
}

#[tokio::test]
async fn a_split_has_its_own_rows_once_each() {
    let columns = columns(&["i64", "f64"]);
    let (table, (_folder, cache)) = (rows(&columns, 20_000, 3), cache(u64::MAX, 0));
    let packed = packed(&cache, CONTENT, &table, &columns, 3_000).await.unwrap();
    let rule = SplitRule::Hash { columns: vec!["c0".to_owned()], seed: 0, shares: vec![800_000, 200_000] };
    let assigned = rule.assign(&table).unwrap();
    for place in 0..2 {
        let among = packed.split(&rule, 2, place).unwrap();
        assert!(Arc::ptr_eq(&among, &packed.split(&rule, 2, place).unwrap()), "looked at once");
        let stripe = Stripe { rows: among.len(), start: 0, batch_size: 100, rank: 0, world_size: 1, drop_last: false };
        let order = Arc::new(RowOrder::new(&CONTENT, "split", among.len(), Some(4), 1));
        let got = batches(ChunkRequest { among, order, ..request(&packed, stripe, 1 << 20) }).await;
        let mut got: Vec<_> = got.iter().flat_map(|(batch, _)| batch.column(0).as_primitive::<Int64Type>().iter()).collect();
        let all = table.column(0).as_primitive::<Int64Type>();
        let mut expected: Vec<_> = all.iter().zip(&assigned).filter(|(_, found)| **found == place).map(|(value, _)| value).collect();
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected);
    }
}

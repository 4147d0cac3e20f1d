//! Orders, stripes and cursors.

use std::collections::BTreeSet;

use anabranch_offline_store::batches::{BatchesError, Cursor, RowOrder, RowSet, Stripe};
use anabranch_offline_store::dataset::ContentDigest;
use proptest::prelude::*;

use crate::support::CONTENT;

#[test]
fn an_order_is_the_one_that_is_written_down() {
    let order = |split, rows, seed, epoch| {
        let order = RowOrder::new(&CONTENT, split, rows, Some(seed), epoch);
        (0..8.min(rows)).map(|position| order.row(position)).collect::<Vec<_>>()
    };
    assert_eq!(order("", 8, 0, 0), GOLDEN[0]);
    assert_eq!(order("", 1_000_003, 42, 3), GOLDEN[1]);
    assert_eq!(order("train", 1_000_003, 42, 3), GOLDEN[2]);
}

/// Made by another implementation of the text, in Python: `sdk/python/tests/orders.py`.
const GOLDEN: [[u64; 8]; 3] = [
    [3, 6, 0, 5, 4, 1, 7, 2],
    [867_802, 595_969, 185_532, 529_060, 82_596, 309_170, 949_143, 334_965],
    [606_199, 361_826, 604_154, 27_989, 174_223, 911_058, 319_828, 641_651],
];

#[test]
fn without_a_seed_rows_keep_their_order() {
    let order = RowOrder::new(&CONTENT, "", 100, None, 5);
    assert!((0..100).all(|position| order.row(position) == position));
}

#[test]
fn every_row_is_about_equally_often_first() {
    for rows in [2_u64, 3, 5, 8, 13] {
        let mut first = vec![0_u32; rows as usize];
        (0..3_000).for_each(|seed| first[RowOrder::new(&CONTENT, "", rows, Some(seed), 0).row(0) as usize] += 1);
        let expected = 3_000 / rows as u32;
        assert!(first.iter().all(|count| count.abs_diff(expected) < expected / 4), "{rows}: {first:?}");
    }
}

#[test]
fn neighbours_go_their_own_ways_and_epochs_differ() {
    let order = |epoch| (0..1_000).map(|position| RowOrder::new(&CONTENT, "", 1_000, Some(9), epoch).row(position)).collect::<Vec<_>>();
    let (first, second) = (order(0), order(1));
    let together = first.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
    let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
    assert!(together < 12 && same < 12, "{together} {same}");
}

fn stripes() -> impl Strategy<Value = (u64, u64, u32, u32, bool)> {
    (0_u64..400, 0_u64..400, 1_u32..40, 1_u32..9, any::<bool>())
        .prop_map(|(rows, start, batch, world, drop)| (rows, start.min(rows), batch, world, drop))
}

/// The positions of each rank, batch by batch.
fn read(rows: u64, start: u64, batch_size: u32, world_size: u32, drop_last: bool) -> Vec<Vec<(Vec<u64>, u64)>> {
    let rank = |rank| {
        let stripe = Stripe { rows, start, batch_size, rank, world_size, drop_last };
        stripe.check().unwrap();
        let batch = |index| (stripe.batch(index).positions().collect(), stripe.batch(index).after);
        (0..stripe.batches()).map(batch).collect()
    };
    (0..world_size).map(rank).collect()
}

proptest! {
    #[test]
    fn an_order_has_each_row_once(rows in 0_u64..3_000, seed: u64, epoch: u64, content: [u8; 32]) {
        let order = RowOrder::new(&ContentDigest(content), "s", rows, Some(seed), epoch);
        let seen: BTreeSet<_> = (0..rows).map(|position| order.row(position)).collect();
        prop_assert_eq!(seen, (0..rows).collect());
    }

    #[test]
    fn rows_of_a_vast_order_are_its_own_and_differ(rows in 1_u64.., seed: u64, first: u64) {
        let order = RowOrder::new(&CONTENT, "", rows, Some(seed), 0);
        let first = first % rows;
        let positions = first..rows.min(first.saturating_add(200));
        let seen: BTreeSet<_> = positions.clone().map(|position| order.row(position)).collect();
        prop_assert_eq!(seen.len() as u64, positions.end - positions.start);
        prop_assert!(seen.iter().all(|row| *row < rows));
    }

    #[test]
    fn ranks_are_disjoint_and_complete((rows, start, batch, world, drop_last) in stripes()) {
        let ranks = read(rows, start, batch, world, drop_last);
        let mut all: Vec<_> = ranks.iter().flatten().flat_map(|(positions, _)| positions.clone()).collect();
        all.sort_unstable();
        let global = u64::from(batch) * u64::from(world);
        let end = if drop_last { rows - (rows - start) % global } else { rows };
        prop_assert_eq!(all, (start..end).collect::<Vec<_>>());
        let sizes: Vec<_> = ranks.iter().map(|batches| batches.iter().map(|(positions, _)| positions.len()).sum::<usize>()).collect();
        let uneven = usize::from(!drop_last);
        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= uneven);
    }

    #[test]
    fn batches_are_full_but_the_last_and_ranks_stand_together((rows, start, batch, world, drop_last) in stripes()) {
        let ranks = read(rows, start, batch, world, drop_last);
        for batches in &ranks {
            for (index, (positions, after)) in batches.iter().enumerate() {
                prop_assert!(!positions.is_empty());
                prop_assert!(positions.len() == batch as usize || index + 1 == batches.len() && !drop_last);
                prop_assert_eq!(*after, ranks[0][index].1);
            }
        }
    }

    #[test]
    fn the_interleaved_ranks_are_the_global_order_whatever_the_world((rows, start, batch, world, _) in stripes()) {
        let ranks = read(rows, start, batch, world, false);
        let mut order: Vec<u64> = Vec::new();
        for index in 0..ranks[0].len() {
            let parts: Vec<_> = ranks.iter().filter_map(|batches| batches.get(index)).map(|(positions, _)| positions).collect();
            (0..parts[0].len()).for_each(|i| order.extend(parts.iter().filter_map(|part| part.get(i))));
        }
        prop_assert_eq!(order, (start..rows).collect::<Vec<_>>());
    }

    #[test]
    fn going_on_after_any_batch_in_any_world_gives_what_is_left((rows, start, batch, world, _) in stripes(), at: prop::sample::Index, other in stripes()) {
        let before = read(rows, start, batch, world, false);
        prop_assume!(!before[0].is_empty());
        let done = at.index(before[0].len());
        let place = before[0][done].1;
        let mut all: Vec<_> = before.iter().flat_map(|batches| batches.iter().take(done + 1)).flat_map(|(positions, _)| positions.clone()).collect();
        all.extend(read(rows, place, other.2, other.3, false).into_iter().flatten().flat_map(|(positions, _)| positions));
        all.sort_unstable();
        prop_assert_eq!(all, (start..rows).collect::<Vec<_>>());
    }

    #[test]
    fn a_cursor_survives_as_text(content: [u8; 32], split in "[a-z]{0,5}", seed: Option<u64>, epoch: u64, position: u64) {
        let cursor = Cursor::new(ContentDigest(content), &split, seed, epoch, position);
        let text = cursor.to_string();
        prop_assert!(text.len() < 100 && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'));
        prop_assert_eq!(text.parse::<Cursor>().unwrap(), cursor);
    }

    #[test]
    fn whatever_is_no_cursor_is_refused(text in ".{0,120}") {
        let refused = matches!(text.parse::<Cursor>(), Err(BatchesError::Cursor { .. }));
        prop_assert!(refused);
    }
}

#[test]
fn a_cursor_s_bytes_are_those_that_are_written_down() {
    let cursor = Cursor::new(CONTENT, "train", Some(42), 3, 1_000);
    assert_eq!(cursor.to_string(), GOLDEN_CURSOR);
}

const GOLDEN_CURSOR: &str = "AQcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHQWTAVYCAahUBAAAAAAAAACoAAAAAAAAAAwAAAAAAAAPoUZv_pA";

#[test]
fn a_cursor_with_any_bit_changed_is_refused() {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let bytes = engine.decode(Cursor::new(CONTENT, "", None, 0, 9).to_string()).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(engine.encode(damaged).parse::<Cursor>().is_err(), "{bit}");
    }
}

#[test]
fn a_cursor_of_other_rows_or_another_order_says_what_differs() {
    let cursor = Cursor::new(CONTENT, "train", Some(1), 2, 3);
    cursor.check_rows(&CONTENT, "train").unwrap();
    cursor.check_order(None, None).unwrap();
    cursor.check_order(Some(1), Some(2)).unwrap();
    let differs = |result: Result<(), BatchesError>| match result.unwrap_err() {
        BatchesError::OtherOrder { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(differs(cursor.check_rows(&ContentDigest([8; 32]), "train")), "dataset");
    assert_eq!(differs(cursor.check_rows(&CONTENT, "")), "split");
    assert_eq!(differs(cursor.check_order(Some(2), None)), "seed");
    assert_eq!(differs(cursor.check_order(None, Some(0))), "epoch");
}

#[test]
fn a_stripe_that_cannot_be_is_refused() {
    let good = Stripe { rows: 10, start: 0, batch_size: 2, rank: 0, world_size: 2, drop_last: false };
    good.check().unwrap();
    for (bad, what) in [
        (Stripe { batch_size: 0, ..good }, "batch_size"),
        (Stripe { world_size: 0, ..good }, "world_size"),
        (Stripe { rank: 2, ..good }, "rank"),
        (Stripe { start: 11, ..good }, "cursor"),
    ] {
        assert!(matches!(bad.check(), Err(BatchesError::Invalid { what: found, .. }) if found == what), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn the_nth_of_some_rows_is_found(member in prop::collection::vec(any::<bool>(), 0..3_000)) {
        let expected: Vec<_> = (0..).zip(&member).filter(|(_, member)| **member).map(|(row, _)| row).collect();
        let set: RowSet = member.into_iter().collect();
        prop_assert_eq!(set.len(), expected.len() as u64);
        prop_assert_eq!((0..).map_while(|n| set.nth(n)).collect::<Vec<u64>>(), expected);
    }
}

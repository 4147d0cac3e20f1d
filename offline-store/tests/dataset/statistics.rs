//! What columns are like, and how far two of them lie apart.

use std::sync::Arc;

use anabranch_offline_store::dataset::statistics::{Distance, FINENESS, KeyRoom, distance};
use anabranch_offline_store::dataset::{Cell, ColumnStatistics, DatasetColumn, statistics};
use arrow::array::{ArrayRef, BooleanArray, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value as Json;

fn of(data_type: &str, array: ArrayRef) -> ColumnStatistics {
    let columns = [DatasetColumn { name: "x".to_owned(), data_type: data_type.parse().unwrap() }];
    let rows = vec![RecordBatch::try_from_iter([("x", array)]).unwrap()].into();
    let found = statistics(&columns, &rows, None).unwrap().remove(0);
    // The same where few values are held, or hardly any.
    for keys in [1, 100] {
        let room = KeyRoom { keys, files: Arc::new(tempfile::tempfile) };
        assert_eq!(statistics(&columns, &rows, Some(&room)).unwrap(), std::slice::from_ref(&found));
    }
    found
}

fn floats(values: &[f64]) -> ColumnStatistics {
    of("f64", Arc::new(Float64Array::from(values.to_vec())))
}

#[test]
fn numbers_are_counted_and_measured() {
    let found = of("i64", Arc::new(Int64Array::from(vec![Some(2), Some(4), None, Some(4), Some(4), Some(5), Some(5), Some(7), Some(9)])));
    assert_eq!((found.count, found.nulls, found.nans, found.distinct), (8, 1, 0, 5));
    assert_eq!((found.min, found.max), (2.into(), 9.into()));
    assert_eq!((found.mean, found.stddev), (Some(5.0), Some(2.0)));
    assert_eq!(found.quantiles, [2, 4, 4, 5, 7].map(Json::from));
    assert_eq!(found.cells.len(), 5);
}

#[test]
fn odd_floats_have_their_place() {
    let found = floats(&[-0.0, 0.0, f64::NAN, f64::NEG_INFINITY, f64::INFINITY, -1.5]);
    assert_eq!((found.count, found.nans, found.distinct), (6, 1, 4));
    assert_eq!((found.min, found.max), ("-inf".into(), "inf".into()));
    assert_eq!((found.mean, found.stddev), (None, None));
    assert_eq!(found.quantiles[2], 0.0);
    let nothing = of("f32", Arc::new(Float32Array::from(vec![None, Some(f32::NAN)])));
    assert_eq!((nothing.count, nothing.nulls, nothing.nans, nothing.min, nothing.mean), (1, 1, 1, Json::Null, None));
    assert!(nothing.quantiles.is_empty() && nothing.cells.is_empty());
}

#[test]
fn times_bools_and_texts_are_told_in_their_own_words() {
    let times = of("timestamp", Arc::new(TimestampMicrosecondArray::from(vec![0, 60_000_000]).with_timezone("UTC")));
    assert_eq!((times.min, times.max, times.mean), ("1970-01-01T00:00:00Z".into(), "1970-01-01T00:01:00Z".into(), None));
    let flags = of("bool", Arc::new(BooleanArray::from(vec![true, false, true, true])));
    assert_eq!((flags.min, flags.mean, flags.distinct), (false.into(), Some(0.75), 2));
    let long = "ä".repeat(40);
    let texts = of("string", Arc::new(StringArray::from(vec![Some(long.as_str()), Some("b"), None, Some("b")])));
    assert_eq!((texts.min, texts.max, texts.distinct, texts.nulls), ("b".into(), "ä".repeat(32).into(), 2, 1));
    assert!(texts.quantiles.is_empty() && texts.mean.is_none());
}

#[test]
fn datasets_of_one_distribution_are_near_and_moved_ones_are_far() {
    let spread = |from: f64| (0..10_000).map(|i| from + f64::from(i) / 10_000.0).collect::<Vec<_>>();
    let (here, also_here, moved) = (floats(&spread(0.0)), floats(&spread(0.000_05)), floats(&spread(0.25)));
    assert!(here.cells.len() <= 2 * FINENESS + 64, "{}", here.cells.len());
    let same = distance(&here, &also_here, "f64".parse().unwrap()).unwrap();
    let far = distance(&here, &moved, "f64".parse().unwrap()).unwrap();
    assert!(same.psi < 0.01 && same.ks.unwrap() < 0.001, "{same:?}");
    assert!(far.psi > 0.25 && (0.2..=0.2501).contains(&far.ks.unwrap()), "{far:?}");
    let texts = |values: &[&str]| of("string", Arc::new(StringArray::from(values.to_vec())));
    let words = distance(&texts(&["a", "b"].repeat(50)), &texts(&["a", "c"].repeat(50)), "string".parse().unwrap()).unwrap();
    assert!(words.psi > 1.0 && words.ks.is_none(), "{words:?}");
    assert_eq!(distance(&here, &floats(&[]), "f64".parse().unwrap()), None);
}

#[test]
fn no_bytes_are_a_cell_that_is_none() {
    for text in [r#"["8",65,1]"#, r#"["8000000000000001",4,1]"#, r#"["zz",8,1]"#, r#"["00000000000000000",4,1]"#] {
        assert!(serde_json::from_str::<Cell>(text).is_err(), "{text}");
    }
}

/// The largest difference of the two distribution functions, from all values.
fn exact_ks(left: &[f64], right: &[f64]) -> f64 {
    let share = |values: &[f64], x: f64| values.iter().filter(|value| **value <= x).count() as f64 / values.len() as f64;
    left.iter().chain(right).map(|x| (share(left, *x) - share(right, *x)).abs()).fold(0.0, f64::max)
}

proptest! {
    #[test]
    fn cells_part_all_values(values in vec(prop_oneof![any::<f64>(), (0..50_i32).prop_map(f64::from)], 0..400)) {
        let found = floats(&values);
        prop_assert_eq!(found.cells.iter().map(|cell| cell.rows).sum::<u64>() + found.nans, values.len() as u64);
        prop_assert!(found.cells.windows(2).all(|pair| pair[0].high() < pair[1].low));
        let keys = values.iter().filter(|x| !x.is_nan()).count();
        prop_assert!(found.cells.iter().all(|cell| cell.bits == 64 || cell.rows as usize <= keys / FINENESS));
        let text = serde_json::to_string(&found).unwrap();
        prop_assert_eq!(serde_json::from_str::<ColumnStatistics>(&text).unwrap(), found);
    }

    #[test]
    fn the_distance_is_never_more_than_the_true_one(left in vec(-9.0..9.0_f64, 1..200), right in vec(-7.0..12.0_f64, 1..200)) {
        let found = distance(&floats(&left), &floats(&right), "f64".parse().unwrap()).unwrap().ks.unwrap();
        let exact = exact_ks(&left, &right);
        prop_assert!(found <= exact + 1e-12, "{} of {}", found, exact);
        if left.len() < FINENESS && right.len() < FINENESS {
            prop_assert!((found - exact).abs() < 1e-12, "{} of {}", found, exact);
        }
        prop_assert_eq!(distance(&floats(&left), &floats(&left), "f64".parse().unwrap()), Some(Distance { psi: 0.0, ks: Some(0.0) }));
    }

    #[test]
    fn batches_do_not_matter(values in vec(proptest::option::of(any::<f64>()), 0..80), cuts in vec(0_usize..80, 0..5)) {
        let whole = RecordBatch::try_from_iter_with_nullable([("x", Arc::new(Float64Array::from(values)) as ArrayRef, true)]).unwrap();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(whole.num_rows())).chain([0, whole.num_rows()]).collect();
        cuts.sort_unstable();
        let parts: Vec<_> = cuts.windows(2).map(|pair| whole.slice(pair[0], pair[1] - pair[0])).collect();
        let columns = [DatasetColumn { name: "x".to_owned(), data_type: "f64".parse().unwrap() }];
        prop_assert_eq!(statistics(&columns, &parts.into(), None).unwrap(), statistics(&columns, &vec![whole].into(), None).unwrap());
    }
}

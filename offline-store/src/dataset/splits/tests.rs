use std::sync::Arc;

use arrow::array::{Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use proptest::prelude::*;

use super::*;

fn spec(text: &str) -> Result<SplitSpec, DatasetError> {
    SplitSpec::parse(text, Vec::new(), 0)
}

fn rule(text: &str, seed: u64) -> SplitRule {
    SplitSpec::parse(text, Vec::new(), seed).unwrap().rule(&["k".to_owned()], &["k".to_owned()], "at").unwrap()
}

fn keys(keys: impl Iterator<Item = i64>) -> RecordBatch {
    RecordBatch::try_from_iter([("k", Arc::new(Int64Array::from_iter_values(keys)) as ArrayRef)]).unwrap()
}

#[test]
fn what_cannot_be_a_split_is_refused_with_the_reason() {
    for (text, said) in [
        ("train=1", "at least two"),
        ("train=0.8,test=0.1", "add up to 0.900000"),
        ("train=0.8,train=0.2", "two of the name"),
        ("train=0.8,test", "no share"),
        ("train=0.0000001,test=0.9999999", "6 decimals"),
        ("train=-1,test=2", "no share above 0"),
        ("train=0,test=1", "no share above 0"),
        ("train=.,test=1", "no share above 0"),
        ("a b=0.5,c=0.5", "split name"),
        ("train,test", "no time"),
        ("train<noon,test", "noon"),
        ("train<2026-02-01,valid<2026-01-01,test", "does not come after"),
        ("train<2026-01-01,test<2026-02-01", "takes the rest"),
        ("", "at least two"),
    ] {
        let error = spec(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    let by_column = SplitSpec::parse("a<2026-01-01,b", vec!["k".to_owned()], 0).unwrap_err();
    assert!(by_column.to_string().contains("take no columns"), "{by_column}");
    let unknown = SplitSpec::parse("a=0.5,b=0.5", vec!["x".to_owned()], 0).unwrap().rule(&["k".to_owned()], &[], "at").unwrap_err();
    assert!(unknown.to_string().contains("no column \"x\"; it has k"), "{unknown}");
}

#[test]
fn a_row_is_in_the_split_that_was_recorded_for_ever() {
    let splits = rule("train=0.7,valid=0.1,test=0.2", 0).assign(&keys(0..24)).unwrap();
    let text: String = splits.iter().map(|split| char::from(b'0' + *split as u8)).collect();
    assert_eq!(text, include_str!("../../../tests/golden/splits_v1.txt").trim());
    assert_ne!(rule("train=0.7,valid=0.1,test=0.2", 1).assign(&keys(0..24)).unwrap(), splits);
}

#[test]
fn shares_are_what_was_asked_for_and_every_width_of_a_key_is_one_key() {
    let rule = rule("train=0.8,test=0.2", 7);
    let splits = rule.assign(&keys(0..50_000)).unwrap();
    let tests = splits.iter().filter(|split| **split == 1).count();
    // Five deviations of a binomial of 50,000 and 0.2.
    assert!((9_550..10_450).contains(&tests), "{tests}");
    let narrow = RecordBatch::try_from_iter([("k", Arc::new(Int32Array::from_iter_values(0..50_000)) as ArrayRef)]).unwrap();
    assert_eq!(rule.assign(&narrow).unwrap(), splits);
    let of_text = RecordBatch::try_from_iter([("other", Arc::new(StringArray::from(vec!["a"])) as ArrayRef)]).unwrap();
    assert_eq!(rule.assign(&of_text), Err(DatasetError::Schema));
}

#[test]
fn a_time_on_the_boundary_is_in_the_later_split() {
    let rule = rule("train<1970-01-02,valid<1970-01-03,test", 0);
    let day = 86_400_000_000;
    let times = TimestampMicrosecondArray::from(vec![i64::MIN, day - 1, day, 2 * day - 1, 2 * day, i64::MAX]).with_timezone("UTC");
    let batch = RecordBatch::try_from_iter([("at", Arc::new(times) as ArrayRef)]).unwrap();
    assert_eq!(rule.assign(&batch).unwrap(), [0, 0, 1, 1, 2, 2]);
}

proptest! {
    #[test]
    fn splits_read_as_they_are_written(shares in proptest::collection::vec(1_u32..200_000, 1..5), seed: u64) {
        let last = MILLION - shares.iter().sum::<u32>();
        let shares: Vec<u32> = shares.into_iter().chain([last]).collect();
        let parts: Vec<_> = (0..shares.len()).map(|place| Split { name: format!("s{place}"), rows: 3 }).collect();
        let splits = Splits { rule: SplitRule::Hash { columns: vec!["k".to_owned()], seed, shares }, parts };
        let again = SplitSpec::parse(&splits.to_string(), vec!["k".to_owned()], seed).unwrap();
        prop_assert_eq!(SplitSpec::from(&splits), again.clone());
        prop_assert_eq!(again.rule(&["k".to_owned()], &[], "at").unwrap(), splits.rule);
    }
}

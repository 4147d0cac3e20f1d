//! A dataset's digest depends on its values and on nothing else; its manifest reads as it is written.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod refresh;
mod splits;
mod statistics;

use std::sync::Arc;

use anabranch_core::definition::DefinitionDigest;
use anabranch_core::types::DataType;
use anabranch_core::{Kinded, Timestamp, Value, columns::column_of};
use anabranch_offline_store::dataset::{
    Cell, ColumnStatistics, CommitName, ContentDigest, DatasetBase, DatasetColumn, DatasetError, DatasetManifest, DatasetPart, DatasetSelection,
    SpineSource, Split, SplitRule, Splits, canonical_type, content_digest,
};
use anabranch_offline_store::join::{JoinOptions, Knowledge};
use arrow::array::{
    ArrayRef, Decimal128Array, FixedSizeListArray, Float32Array, Float64Array, Int8Array, Int64Array, LargeListArray, ListArray, RecordBatch,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType as ArrowType, Field, Float32Type, Int32Type, Schema, TimeUnit};
use proptest::collection::vec;
use proptest::prelude::*;

fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().map(|(name, c)| (Field::new(name, c.data_type().clone(), true), c)).unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn digest(batch: &RecordBatch) -> Result<ContentDigest, DatasetError> {
    content_digest(&batch.schema(), std::slice::from_ref(batch))
}

fn digest_of(column: ArrayRef) -> Result<ContentDigest, DatasetError> {
    digest(&table(vec![("x", column)]))
}

fn data_type(text: &str) -> DataType {
    text.parse().unwrap()
}

/// Every type, a null in each, and values at the edges.
fn every_type() -> RecordBatch {
    let time = |t| Value::Timestamp(Timestamp(t));
    let text = |s: &str| Value::String(s.to_owned());
    let columns = [
        ("flag", "bool", [Value::Bool(true), Value::Null, Value::Bool(false)]),
        ("small", "i32", [Value::I32(i32::MIN), Value::I32(7), Value::Null]),
        ("big", "i64", [Value::Null, Value::I64(i64::MAX), Value::I64(-1)]),
        ("single", "f32", [Value::F32(-0.0), Value::F32(f32::NAN), Value::Null]),
        ("double", "f64", [Value::F64(0.1), Value::F64(f64::NEG_INFINITY), Value::Null]),
        ("text", "string", [text("hä"), text(""), Value::Null]),
        ("raw", "bytes", [Value::Bytes(vec![0, 255]), Value::Bytes(vec![]), Value::Null]),
        ("at", "timestamp", [time(-1), time(1_356_998_400_000_000), Value::Null]),
        ("tags", "list<string>", [Value::List(vec![text("a"), text("")]), Value::List(vec![]), Value::Null]),
        ("embedding", "vector<2>", [Value::Vector(vec![1.0, -2.5]), Value::Null, Value::Vector(vec![0.0, f32::INFINITY])]),
    ];
    table(columns.iter().map(|(name, of, values)| (*name, column_of(data_type(of), values).unwrap())).collect())
}

#[test]
fn the_digest_is_as_recorded() {
    let golden = include_str!("../golden/content_digest_v1.txt").trim();
    assert_eq!(digest(&every_type()).unwrap().to_string(), golden);
    assert_eq!(golden.parse::<ContentDigest>().unwrap().to_string(), golden);
}

#[test]
fn the_digest_follows_the_drawing() {
    // Built by hand from the drawing in the module's text.
    let cells = [&[0_u8][..], &[1, 0, 0, 0, 0, 0, 0, 0, 1, b'a']].concat();
    let mut bytes = b"anabranch dataset\x01\x00\x00\x00\x01\x00\x00\x00\x01x\x00\x00\x00\x06string".to_vec();
    bytes.extend(blake3::hash(&cells).as_bytes());
    bytes.extend(2_u64.to_be_bytes());
    let column = column_of(data_type("string"), &[Value::Null, Value::String("a".into())]).unwrap();
    assert_eq!(digest_of(column).unwrap().0, *blake3::hash(&bytes).as_bytes());
}

/// The same values in another layout.
fn relaid() -> Vec<(&'static str, ArrowType)> {
    let micros_elsewhere = ArrowType::Timestamp(TimeUnit::Microsecond, Some("+02:00".into()));
    let item = Arc::new(Field::new("item", ArrowType::LargeUtf8, true));
    vec![
        ("text", ArrowType::LargeUtf8),
        ("text", ArrowType::Utf8View),
        ("text", ArrowType::Dictionary(Box::new(ArrowType::UInt16), Box::new(ArrowType::Utf8))),
        ("raw", ArrowType::LargeBinary),
        ("raw", ArrowType::BinaryView),
        ("at", micros_elsewhere),
        ("at", ArrowType::Timestamp(TimeUnit::Microsecond, None)),
        ("at", ArrowType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))),
        ("tags", ArrowType::LargeList(item)),
    ]
}

#[test]
fn the_layout_does_not_matter() {
    let batch = every_type();
    let expected = digest(&batch).unwrap();
    for (name, to) in relaid() {
        let place = batch.schema().index_of(name).unwrap();
        let mut columns: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).zip(batch.columns().to_vec()).collect();
        columns[place].1 = cast(&columns[place].1, &to).unwrap();
        let relaid = table(columns.iter().map(|(name, column)| (name.as_str(), Arc::clone(column))).collect());
        assert_eq!(digest(&relaid).unwrap(), expected, "{name} as {to}");
    }
    let narrow: ArrayRef = Arc::new(Int8Array::from(vec![Some(-3), None]));
    assert_eq!(digest_of(Arc::clone(&narrow)), digest_of(cast(&narrow, &ArrowType::Int32).unwrap()));
    let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![3]));
    assert_eq!(digest_of(unsigned), digest_of(Arc::new(Int64Array::from(vec![3]))));
}

#[test]
fn what_lies_under_a_null_does_not_matter() {
    let nulls = Some(vec![false, true].into());
    let one: ArrayRef = Arc::new(Int64Array::new(vec![5, 1].into(), nulls.clone()));
    let other: ArrayRef = Arc::new(Int64Array::new(vec![9, 1].into(), nulls));
    assert_eq!(digest_of(one), digest_of(other));
}

#[test]
fn every_nan_is_one_and_zeros_are_two() {
    let floats = |x: f64| digest_of(Arc::new(Float64Array::from(vec![x]))).unwrap();
    assert_eq!(floats(f64::NAN), floats(-f64::from_bits(0x7ff8_0000_0000_beef)));
    assert_ne!(floats(0.0), floats(-0.0));
    let single = |x: f32| digest_of(Arc::new(Float32Array::from(vec![x]))).unwrap();
    assert_eq!(single(f32::NAN), single(f32::from_bits(0xffc0_0001)));
}

#[test]
fn names_types_order_and_places_matter() {
    let integers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let of = |columns: Vec<(&str, ArrayRef)>| digest(&table(columns)).unwrap();
    let doubled: ArrayRef = Arc::new(Int64Array::from(vec![2, 1]));
    let digests = [
        of(vec![("x", Arc::clone(&integers))]),
        of(vec![("y", Arc::clone(&integers))]),
        of(vec![("x", cast(&integers, &ArrowType::Int32).unwrap())]),
        of(vec![("x", Arc::clone(&doubled))]),
        of(vec![("x", Arc::clone(&integers)), ("y", Arc::clone(&doubled))]),
        of(vec![("y", Arc::clone(&doubled)), ("x", Arc::clone(&integers))]),
        of(vec![("x", doubled), ("y", integers)]),
    ];
    for (i, digest) in digests.iter().enumerate() {
        assert!(!digests[..i].contains(digest), "{i}");
    }
}

#[test]
fn what_no_type_of_ours_holds_exactly_is_refused() {
    let decimal: ArrayRef = Arc::new(Decimal128Array::from(vec![1]));
    let error = digest_of(decimal).unwrap_err();
    assert!(matches!(&error, DatasetError::ColumnType { column, .. } if column == "x"), "{error}");
    assert_eq!(error.kind().name(), "invalid_argument");
    let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![Some(1_000), None, Some(1_001)]));
    let huge: ArrayRef = Arc::new(UInt64Array::from(vec![0, 1, u64::MAX]));
    let holes: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([None, Some(vec![]), Some(vec![Some(1), None])]));
    let wide_holes: ArrayRef = Arc::new(LargeListArray::from_iter_primitive::<Int32Type, _, _>([None, Some(vec![]), Some(vec![None])]));
    for column in [nanos, huge, holes, wide_holes] {
        let refused = digest_of(Arc::clone(&column)).unwrap_err();
        assert!(matches!(refused, DatasetError::Misfit { row: 2, .. }), "{refused} for {}", column.data_type());
    }
    let batch = table(vec![("x", Arc::new(Int64Array::from(vec![1])))]);
    let other = table(vec![("x", Arc::new(Float64Array::from(vec![1.0])))]);
    assert_eq!(content_digest(&batch.schema(), &[batch, other]), Err(DatasetError::Schema));
}

#[test]
fn fixed_size_lists_of_f32_are_vectors() {
    let vectors = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>([Some(vec![Some(1.0), Some(-2.5)]), None], 2);
    assert_eq!(canonical_type(vectors.data_type_ref()), Some(data_type("vector<2>")));
    let ours = column_of(data_type("vector<2>"), &[Value::Vector(vec![1.0, -2.5]), Value::Null]).unwrap();
    assert_eq!(digest_of(Arc::new(vectors)), digest_of(ours));
}

trait DataTypeRef {
    fn data_type_ref(&self) -> &ArrowType;
}

impl<A: arrow::array::Array> DataTypeRef for A {
    fn data_type_ref(&self) -> &ArrowType {
        self.data_type()
    }
}

/// Columns of as many cells each.
#[derive(Debug, Clone, PartialEq)]
struct Cells {
    integers: Vec<Option<i64>>,
    texts: Vec<Option<String>>,
    lists: Vec<Option<Vec<i64>>>,
}

fn columns() -> impl Strategy<Value = Cells> {
    (0_usize..60).prop_flat_map(|rows| {
        let integer = proptest::option::of(any::<i64>());
        let text = proptest::option::of("[a-c]{0,3}");
        let list = proptest::option::of(vec(any::<i64>(), 0..3));
        (vec(integer, rows), vec(text, rows), vec(list, rows)).prop_map(|(integers, texts, lists)| Cells { integers, texts, lists })
    })
}

fn build(Cells { integers, texts, lists }: &Cells) -> RecordBatch {
    let integers: Vec<_> = integers.iter().map(|x| x.map_or(Value::Null, Value::I64)).collect();
    let texts: Vec<_> = texts.iter().map(|x| x.clone().map_or(Value::Null, Value::String)).collect();
    let list = |items: &Vec<i64>| Value::List(items.iter().map(|i| Value::I64(*i)).collect());
    let lists: Vec<_> = lists.iter().map(|x| x.as_ref().map_or(Value::Null, list)).collect();
    table(vec![
        ("i", column_of(data_type("i64"), &integers).unwrap()),
        ("s", column_of(data_type("string"), &texts).unwrap()),
        ("l", column_of(data_type("list<i64>"), &lists).unwrap()),
    ])
}

proptest! {
    #[test]
    fn batches_do_not_matter(columns in columns(), cuts in vec(0_usize..60, 0..6)) {
        let batch = build(&columns);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(batch.num_rows())).chain([0, batch.num_rows()]).collect();
        cuts.sort_unstable();
        let parts: Vec<_> = cuts.windows(2).map(|pair| batch.slice(pair[0], pair[1] - pair[0])).collect();
        prop_assert_eq!(content_digest(&batch.schema(), &parts).unwrap(), digest(&batch).unwrap());
    }

    #[test]
    fn other_values_have_another_digest(one in columns(), other in columns()) {
        let same = digest(&build(&one)).unwrap() == digest(&build(&other)).unwrap();
        prop_assert_eq!(same, one == other);
    }

    #[test]
    fn any_bytes_are_a_manifest_or_refused(bytes in vec(any::<u8>(), 0..64), cut in 0_usize..600) {
        prop_assert!(DatasetManifest::from_bytes(&bytes).is_err());
        let mut good = manifest().to_bytes();
        good.truncate(cut.min(good.len() - 1));
        prop_assert!(DatasetManifest::from_bytes(&good).is_err());
    }
}

fn manifest() -> DatasetManifest {
    DatasetManifest {
        name: "training_2013".to_owned(),
        commit: CommitName::new("0123456789abcdef".repeat(4)).unwrap(),
        definitions: DefinitionDigest([0x5a; 32]),
        spine_digest: ContentDigest([1; 32]),
        time_column: "event_timestamp".to_owned(),
        selection: DatasetSelection::Features(vec!["weather:wind".to_owned(), "delay".to_owned()]),
        options: JoinOptions { knowledge: Knowledge::At(Timestamp(1_385_000_000_000_000)), strict: true, full_names: false },
        columns: vec![
            DatasetColumn { name: "event_timestamp".to_owned(), data_type: data_type("timestamp") },
            DatasetColumn { name: "wind".to_owned(), data_type: data_type("f32") },
        ],
        rows: 328_521,
        content_digest: ContentDigest([2; 32]),
        created: Timestamp(1_385_100_000_000_000),
        spine: SpineSource::Sql("SELECT origin, at AS event_timestamp FROM weather".to_owned()),
        spine_columns: 1,
        parts: vec![DatasetPart {
            path: format!("dataset-rows/{}/00000.parquet", ContentDigest([2; 32])),
            rows: 328_521,
            bytes: 4_096,
            checksum: "ab".repeat(32),
        }],
        splits: Some(Splits {
            rule: SplitRule::Hash { columns: vec!["origin".to_owned()], seed: 7, shares: vec![800_000, 200_000] },
            parts: vec![Split { name: "train".to_owned(), rows: 262_900 }, Split { name: "test".to_owned(), rows: 65_621 }],
        }),
        statistics: vec![
            ColumnStatistics {
                count: 328_521,
                nulls: 0,
                nans: 0,
                distinct: 2,
                min: "2013-01-01T00:00:00Z".into(),
                max: "2013-12-31T23:00:00Z".into(),
                mean: None,
                stddev: None,
                quantiles: Vec::new(),
                cells: vec![Cell { low: 0x8004_d000_0000_0000, bits: 20, rows: 328_521 }],
            },
            ColumnStatistics {
                count: 328_000,
                nulls: 521,
                nans: 1,
                distinct: 1,
                min: 0.1.into(),
                max: 0.1.into(),
                mean: Some(0.1),
                stddev: Some(0.0),
                quantiles: vec![0.1.into(); 5],
                cells: vec![Cell { low: 0xbfb9_9999_9999_999a, bits: 64, rows: 327_999 }],
            },
        ],
        base: Some(DatasetBase { name: "training".to_owned(), content_digest: ContentDigest([3; 32]), recomputed: 12, reason: None }),
    }
}

/// The same as the first releases had it.
fn manifest_of_format_1() -> DatasetManifest {
    DatasetManifest { spine: SpineSource::Table, spine_columns: 0, parts: Vec::new(), splits: None, statistics: Vec::new(), base: None, ..manifest() }
}

#[test]
fn the_manifest_is_as_recorded() {
    let golden = include_str!("../golden/dataset_manifest_v2.json").trim_end();
    assert_eq!(String::from_utf8(manifest().to_bytes()).unwrap(), golden);
    assert_eq!(DatasetManifest::from_bytes(golden.as_bytes()).unwrap(), manifest());
    assert_eq!(DatasetManifest::path("training_2013").unwrap(), "datasets/training_2013");
}

#[test]
fn a_manifest_of_the_first_releases_is_read() {
    let golden = include_str!("../golden/dataset_manifest_v1.json").trim_end();
    assert_eq!(DatasetManifest::from_bytes(golden.as_bytes()).unwrap(), manifest_of_format_1());
    assert_eq!(manifest_of_format_1().differences(&manifest()), ["splits"]);
}

#[test]
fn odd_manifests_are_refused_with_the_reason() {
    let golden = include_str!("../golden/dataset_manifest_v2.json");
    let refuse = |from: &str, to: &str| {
        assert!(golden.contains(from), "{from}");
        DatasetManifest::from_bytes(golden.replacen(from, to, 1).as_bytes()).unwrap_err().to_string()
    };
    assert!(refuse("\"format\":2", "\"format\":3").contains("format 3 is not known to this version, which reads 1 to 2"));
    assert!(refuse("\"kind\":\"dataset\"", "\"kind\":\"entity\"").contains("kind"));
    assert!(refuse("\"rows\"", "\"row\"").contains("row"));
    assert!(refuse("0123456789abcdef", "0123456789ABCDEF").contains("64 hex digits"));
    assert!(refuse("training_2013", "training/2013").contains("dataset name"));
    assert!(refuse("\"f32\"", "\"f16\"").contains("data type"));
    assert!(refuse("8004d", "8004dg").contains("is no cell"));
    assert!(DatasetManifest::path("a__b").is_err());
}

use anabranch_core::definition::{Definition, Definitions, Entity, FeatureView};
use anabranch_core::selection::Selection;
use anabranch_core::{DataType, ErrorKind, Kinded, Position, Scalar, SourceId, Timestamp};
use arrow::datatypes::{Field, Schema};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::error::of_query;
use super::*;
use crate::entry::Fill;
use crate::join::{JoinOptions, Knowledge};
use crate::{ViewFile, ViewFiles};

/// The plan of [`golden_table`], as format 2 has it.
fn golden() -> [Vec<u8>; 3] {
    let read = |name| std::fs::read(format!("tests/golden/join_plan_{name}.v2")).unwrap();
    ["table", "join", "parts"].map(read)
}

fn definitions() -> Definitions {
    let view = |name: &str| {
        let view = FeatureView::new(name, "at").entity("user").field("total", "f64".parse().unwrap());
        Definition::FeatureView(view.field("place", "string".parse().unwrap()))
    };
    [Definition::Entity(Entity::new("user", "user_id", Scalar::I64)), view("spend"), view("visits"), view("other")].into_iter().collect()
}

fn spine() -> SchemaRef {
    let field = |name: &str, of: &str| Field::new(name, of.parse::<DataType>().unwrap().to_arrow(), true);
    let number = Field::new("__row", arrow::datatypes::DataType::UInt32, false);
    Arc::new(Schema::new(vec![field("user_id", "i64"), field("event_timestamp", "timestamp"), field("\u{fc}ber", "list<f32>"), number]))
}

fn work(features: Vec<String>, options: JoinOptions, location: &str, views: Vec<ViewFiles>) -> JoinWork {
    JoinWork::new(&definitions(), &Selection::Features(features), options, "event_timestamp", location, views).unwrap()
}

fn view(name: &str, files: Vec<ViewFile>) -> ViewFiles {
    let all_files = files.len() as u64 + 1;
    ViewFiles { name: name.to_owned(), field_ids: vec![Some(1), None, Some(7)], sorted_by: vec![1, 2], files, all_files, all_rows: u64::MAX }
}

fn golden_table() -> JoinTable {
    let fill = Fill { arrival: Timestamp(-1), source: SourceId::new(9).unwrap(), first_position: Position::new(4).unwrap() };
    let files =
        vec![ViewFile { path: "data/x/a.parquet".to_owned(), fill: None }, ViewFile { path: "data/x/b.parquet".to_owned(), fill: Some(fill) }];
    let options = JoinOptions { knowledge: Knowledge::At(Timestamp(1_700_000_000_000_000)), strict: true, full_names: true };
    let work = work(vec!["spend".to_owned(), "visits:total".to_owned()], options, "file:///data", vec![view("spend", files), view("visits", vec![])]);
    JoinTable::new(work, spine(), "file:///exchange".to_owned(), vec!["s/0.arrow".to_owned(), "s/1.arrow".to_owned()]).unwrap()
}

/// A table's bytes, and those of the operators that it becomes.
fn encoded(table: JoinTable) -> [Vec<u8>; 3] {
    let codec = EngineCodec::default();
    let PartFiles { location, files } = table.joining.parts.clone();
    let parts: Arc<dyn ExecutionPlan> = Arc::new(SpineParts::new(Arc::clone(&table.spine), location, files).unwrap());
    let join = PointInTimeExec::new(Arc::clone(&parts), Arc::new(table.joining.work.clone()), None).unwrap();
    let mut bytes: [Vec<u8>; 3] = Default::default();
    codec.try_encode_table_provider(&TableReference::bare("joined"), Arc::new(table), &mut bytes[0]).unwrap();
    PhysicalExtensionCodec::try_encode(&codec, Arc::new(join), &mut bytes[1]).unwrap();
    PhysicalExtensionCodec::try_encode(&codec, parts, &mut bytes[2]).unwrap();
    bytes
}

fn decoded_table(bytes: &[u8]) -> Result<Arc<dyn TableProvider>> {
    EngineCodec::default().try_decode_table_provider(bytes, &TableReference::bare("joined"), spine(), &TaskContext::default())
}

fn decoded_plan(bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> Result<Arc<dyn ExecutionPlan>> {
    PhysicalExtensionCodec::try_decode(&EngineCodec::default(), bytes, inputs, &TaskContext::default())
}

/// What bytes decode to, encoded again, with the schemas that it has on its way.
fn again(bytes: &[Vec<u8>; 3]) -> ([Vec<u8>; 3], [SchemaRef; 3]) {
    let codec = EngineCodec::default();
    let table = decoded_table(&bytes[0]).unwrap();
    let parts = decoded_plan(&bytes[2], &[]).unwrap();
    let join = decoded_plan(&bytes[1], &[Arc::clone(&parts)]).unwrap();
    let schemas = [table.schema(), join.schema(), parts.schema()];
    let mut again: [Vec<u8>; 3] = Default::default();
    codec.try_encode_table_provider(&TableReference::bare("joined"), table, &mut again[0]).unwrap();
    PhysicalExtensionCodec::try_encode(&codec, join, &mut again[1]).unwrap();
    PhysicalExtensionCodec::try_encode(&codec, parts, &mut again[2]).unwrap();
    (again, schemas)
}

#[test]
fn the_bytes_of_a_plan_are_the_golden_ones() {
    let golden = golden();
    let bytes = encoded(golden_table());
    assert!(bytes == golden, "{}", bytes.map(|bytes| bytes.escape_ascii().to_string()).join("\n"));
    let (again, [table, join, parts]) = again(&golden);
    let columns: Vec<_> = table.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(columns, ["__row", "spend__total", "spend__place", "visits__total"]);
    assert_eq!(again, golden);
    assert_eq!(table, join);
    assert_eq!(table, golden_table().schema());
    assert_eq!(parts, spine());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_is_the_same_on_the_other_side(
        features in prop::sample::subsequence(vec!["spend", "visits:total", "visits:place", "other:place"], 1..=4),
        knowledge in prop_oneof![Just(Knowledge::Spine), Just(Knowledge::Any), any::<i64>().prop_map(|at| Knowledge::At(Timestamp(at)))],
        strict in any::<bool>(),
        location in "file:///[a-z \u{e4}\"\\\\]{0,12}",
        files in vec(("[a-z/\u{df}\"]{1,9}", prop::option::of((any::<i64>(), 0_u32..1000, 0_u64..1000))), 0..6),
        parts in vec("[a-z0-9]{1,8}/[0-9]{1,3}.arrow", 0..6),
    ) {
        let file = |(path, fill): (String, Option<(i64, u32, u64)>)| {
            let fill = fill.and_then(|(arrival, source, first)| {
                Some(Fill { arrival: Timestamp(arrival), source: SourceId::new(source).ok()?, first_position: Position::new(first).ok()? })
            });
            ViewFile { path, fill }
        };
        let files: Vec<_> = files.into_iter().map(file).collect();
        let options = JoinOptions { knowledge, strict, full_names: true };
        let features = features.into_iter().map(str::to_owned).collect();
        let table = JoinTable::new(work(features, options, &location, vec![view("spend", files)]), spine(), location, parts).unwrap();
        let schema = table.schema();
        let bytes = encoded(table);
        let (again, [table, join, parts]) = again(&bytes);
        prop_assert_eq!(again, bytes);
        prop_assert_eq!(&table, &schema);
        prop_assert_eq!(&join, &schema);
        prop_assert_eq!(&parts, &spine());
    }
}

#[test]
fn cut_damaged_or_newer_bytes_are_refused_by_kind() {
    let [table, join, parts] = encoded(golden_table());
    for bytes in [&table, &join, &parts] {
        for len in MAGIC.len()..bytes.len() - 8 {
            assert!(decoded_table(&bytes[..len]).is_err() && decoded_plan(&bytes[..len], &[]).is_err(), "{len}");
        }
    }
    let input = decoded_plan(&parts, &[]).unwrap();
    let kind = |error: DataFusionError| of_query(error).kind();
    // Each is read only as what it is.
    assert_eq!(kind(decoded_table(&join).unwrap_err()), ErrorKind::Internal);
    assert_eq!(kind(decoded_plan(&table, &[]).unwrap_err()), ErrorKind::Internal);
    assert!(decoded_plan(&join, &[]).is_err() && decoded_plan(&join, &[Arc::clone(&input), input]).is_err());
    for mut bytes in [table.clone(), join, parts] {
        bytes[MAGIC.len()] = FORMAT + 1;
        for error in [decoded_table(&bytes).unwrap_err(), decoded_plan(&bytes, &[]).unwrap_err()] {
            let error = of_query(error);
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
            assert!(error.to_string().contains("format 3"), "{error}");
        }
    }
    let mut damaged = table;
    damaged[HEAD] = b'[';
    assert_eq!(kind(decoded_table(&damaged).unwrap_err()), ErrorKind::Internal);
}

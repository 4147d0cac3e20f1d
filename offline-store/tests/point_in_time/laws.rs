//! The join against the oracle, on worlds so small that everything ties.

use std::collections::HashSet;
use std::sync::Arc;

use anabranch_core::columns::{column_of, value_at};
use anabranch_core::selection::Selection;
use anabranch_core::types::{DataType, Scalar};
use anabranch_core::{Timestamp, Value};
use anabranch_offline_store::dataset::digest_of_rows;
use anabranch_offline_store::join::{JoinOptions, JoinPlan, JoinedRows, Knowledge};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{cast, concat, concat_batches};
use arrow::datatypes::{DataType as ArrowType, TimeUnit};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::oracle;
use crate::world::{self, Lie, Memory, Row, Use, ViewSpec, data_type, definitions, table};

/// What a spine row says: its time and the key columns `user`, `small`, `airport`, `origin`, `dest`.
type SpineRow = (i64, [Value; 5]);

const SPINE_COLUMNS: [(&str, &str); 5] = [("user", "i64"), ("small", "i64"), ("airport", "string"), ("origin", "string"), ("dest", "string")];

#[derive(Debug, Clone)]
struct World {
    views: Vec<ViewSpec>,
    rows: Vec<Vec<Row>>,
    spine: Vec<SpineRow>,
    options: JoinOptions,
    spine_batch: usize,
    /// How much of the spine may lie in memory; none: all of it.
    spine_bytes: Option<usize>,
    /// How many rows of the spine are joined at once.
    part_rows: usize,
    view_batch: usize,
    view_file: usize,
    lie: Lie,
    prune: bool,
    text: ArrowType,
    time: ArrowType,
}

fn uses() -> Vec<Use> {
    vec![
        Use { view: 0, alias: None, columns: vec!["user"] },
        Use { view: 1, alias: None, columns: vec!["airport", "user"] },
        Use { view: 2, alias: Some("origin_weather"), columns: vec!["origin"] },
        Use { view: 2, alias: Some("dest_weather"), columns: vec!["dest"] },
        Use { view: 3, alias: None, columns: vec!["small"] },
        Use { view: 4, alias: None, columns: vec!["user"] },
    ]
}

fn views() -> impl Strategy<Value = Vec<ViewSpec>> {
    let settings = || (any::<bool>(), prop_oneof![Just(None), (1_i64..6).prop_map(Some), Just(Some(i64::MAX))]);
    let spec = |name, keys: &[(&'static str, Scalar)], features: &[(&'static str, &str)]| {
        let (keys, features) = (keys.to_vec(), features.iter().map(|(name, text)| (*name, data_type(text))).collect::<Vec<_>>());
        settings().prop_map(move |(known, lookback)| ViewSpec { name, keys: keys.clone(), known, lookback, features: features.clone() })
    };
    [
        spec("profile", &[("user", Scalar::I64)], &[("x", "i64"), ("text", "string"), ("list", "list<i32>"), ("vector", "vector<2>")]).boxed(),
        spec("pair", &[("airport", Scalar::String), ("user", Scalar::I32)], &[("x", "f64"), ("at", "timestamp"), ("flag", "bool")]).boxed(),
        spec("weather", &[("airport", Scalar::String)], &[("wind", "f32"), ("raw", "bytes")]).boxed(),
        spec("small", &[("small", Scalar::I32)], &[("tags", "list<string>"), ("count", "i32")]).boxed(),
        // Keyed like `profile`, in the other width: one key space, one timeline.
        spec("score", &[("user", Scalar::I32)], &[("score", "f64")]).boxed(),
    ]
    .prop_map(Into::into)
}

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![30 => 0_i64..12, 1 => Just(i64::MIN), 1 => Just(i64::MAX)]
}

fn key(scalar: Scalar) -> BoxedStrategy<Value> {
    match scalar {
        Scalar::I32 => (0..3).prop_map(Value::I32).boxed(),
        Scalar::I64 => prop_oneof![9 => (0_i64..3).prop_map(Value::I64), 1 => Just(Value::I64(1 << 40))].boxed(),
        _ => prop_oneof![Just("JFK"), Just("LGA"), Just(""), Just("J\0")].prop_map(|text| Value::String(text.to_owned())).boxed(),
    }
}

fn feature(data_type: DataType) -> BoxedStrategy<Value> {
    let scalar = |scalar| match scalar {
        Scalar::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Scalar::I32 => any::<i32>().prop_map(Value::I32).boxed(),
        Scalar::I64 => any::<i64>().prop_map(Value::I64).boxed(),
        Scalar::F32 => (-9_i16..9).prop_map(|x| Value::F32(f32::from(x) / 4.0)).boxed(),
        Scalar::F64 => (-9_i16..9).prop_map(|x| Value::F64(f64::from(x) / 4.0)).boxed(),
        Scalar::String => "[a-c]{0,4}".prop_map(Value::String).boxed(),
        Scalar::Bytes => vec(any::<u8>(), 0..4).prop_map(Value::Bytes).boxed(),
        Scalar::Timestamp => any::<i64>().prop_map(|t| Value::Timestamp(Timestamp(t))).boxed(),
    };
    let value = match data_type {
        DataType::Scalar(s) => scalar(s),
        DataType::List(s) => vec(scalar(s), 0..3).prop_map(Value::List).boxed(),
        DataType::Vector(n) => vec((-9_i16..9).prop_map(f32::from), n as usize).prop_map(Value::Vector).boxed(),
    };
    prop_oneof![4 => value, 1 => Just(Value::Null)].boxed()
}

fn rows(spec: &ViewSpec) -> impl Strategy<Value = Vec<Row>> + use<> {
    let keys: Vec<_> = spec.keys.iter().map(|(_, scalar)| key(*scalar)).collect();
    let features: Vec<_> = spec.features.iter().map(|(_, data_type)| feature(*data_type)).collect();
    let known = if spec.known { prop_oneof![1 => Just(None), 9 => time().prop_map(Some)].boxed() } else { Just(None).boxed() };
    let tombstone = prop_oneof![Just(None), Just(Some(false)), Just(Some(true))];
    let row = (keys, time(), known, 0_i64..2, 0..2, 0_i64..3, tombstone, features).prop_map(
        |(key, event, known, arrival, source, position, tombstone, features)| Row {
            key,
            event,
            known,
            arrival,
            source,
            position,
            tombstone,
            features,
        },
    );
    vec(row, 0..40).prop_map(|rows| {
        // Rows of one entity that are equal in the whole order would be one row.
        let mut seen = HashSet::new();
        rows.into_iter().filter(|row| seen.insert((format!("{:?}", row.key), row.order()))).collect()
    })
}

fn spine() -> impl Strategy<Value = Vec<SpineRow>> {
    let part = |scalar| prop_oneof![6 => key(scalar), 1 => Just(Value::Null)];
    let keys = [part(Scalar::I64), part(Scalar::I64), part(Scalar::String), part(Scalar::String), part(Scalar::String)];
    vec((time(), keys), 0..30)
}

fn options() -> impl Strategy<Value = JoinOptions> {
    let knowledge = prop_oneof![Just(Knowledge::Spine), Just(Knowledge::Any), time().prop_map(|t| Knowledge::At(Timestamp(t)))];
    (knowledge, any::<bool>(), any::<bool>()).prop_map(|(knowledge, strict, full_names)| JoinOptions { knowledge, strict, full_names })
}

fn world() -> impl Strategy<Value = World> {
    let data = views().prop_flat_map(|views| (views.iter().map(rows).collect::<Vec<_>>(), Just(views)));
    let lie = prop_oneof![Just(Lie::Anyhow), Just(Lie::ByTime), Just(Lie::Sorted)];
    let view_file = prop_oneof![1_usize..20, Just(usize::MAX)];
    let text = prop_oneof![
        Just(ArrowType::Utf8),
        Just(ArrowType::LargeUtf8),
        Just(ArrowType::Utf8View),
        Just(ArrowType::Dictionary(Box::new(ArrowType::Int8), Box::new(ArrowType::Utf8)))
    ];
    let time = prop_oneof![Just(None), Just(Some("UTC".into())), Just(Some("+01:00".into()))]
        .prop_map(|zone| ArrowType::Timestamp(TimeUnit::Microsecond, zone));
    let spine_bytes = prop_oneof![2 => Just(None), 1 => Just(Some(0)), 1 => (0_usize..4_096).prop_map(Some)];
    let batches = ((1_usize..20, spine_bytes), 1_usize..20, prop_oneof![1_usize..30, Just(usize::MAX)]);
    (data, spine(), options(), batches, view_file, lie, any::<bool>(), text, time).prop_map(
        |((rows, views), spine, options, ((spine_batch, spine_bytes), view_batch, part_rows), view_file, lie, prune, text, time)| World {
            views,
            rows,
            spine,
            options,
            spine_batch,
            spine_bytes,
            part_rows,
            view_batch,
            view_file,
            lie,
            prune,
            text,
            time,
        },
    )
}

impl World {
    fn spine_batch(&self) -> RecordBatch {
        let times: Vec<_> = self.spine.iter().map(|(time, _)| Value::Timestamp(Timestamp(*time))).collect();
        let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
        for (i, (name, of)) in SPINE_COLUMNS.iter().enumerate() {
            let column = column_of(data_type(of), self.spine.iter().map(|(_, keys)| &keys[i])).unwrap();
            columns.push((name, if *of == "string" { cast(&column, &self.text).unwrap() } else { column }));
        }
        // The time stands among the others, and a column of the caller's own is called like a feature.
        columns.insert(2, ("event_timestamp", cast(&column_of(data_type("timestamp"), &times).unwrap(), &self.time).unwrap()));
        columns.push(("score", column_of(data_type("i64"), (0..self.spine.len()).map(|i| Value::I64(i as i64)).collect::<Vec<_>>().iter()).unwrap()));
        table(columns)
    }

    /// The names and values of the output's features, by the oracle.
    fn expected(&self) -> Vec<(String, DataType, Vec<Value>)> {
        let mut expected = Vec::new();
        for used in uses() {
            let spec = &self.views[used.view];
            let places: Vec<_> = used.columns.iter().map(|name| SPINE_COLUMNS.iter().position(|(column, _)| column == name).unwrap()).collect();
            let matched: Vec<Vec<Value>> = self
                .spine
                .iter()
                .map(|(time, keys)| {
                    let key: Vec<_> = places.iter().map(|place| keys[*place].clone()).collect();
                    oracle::features(spec, &self.rows[used.view], &key, *time, self.options)
                })
                .collect();
            for (i, (feature, data_type)) in spec.features.iter().enumerate() {
                let twice = ["x", "wind", "raw", "score"].contains(feature);
                let name = if twice || self.options.full_names { format!("{}__{feature}", used.name(&self.views)) } else { (*feature).to_owned() };
                expected.push((name, *data_type, matched.iter().map(|features| features[i].clone()).collect()));
            }
        }
        expected
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_join_is_what_the_definition_says(world in world()) {
        let batch = world.spine_batch();
        let spine = match world.spine_bytes {
            None => world::spine(&batch, world.spine_batch).unwrap(),
            Some(bytes) => world::spooled_spine(&batch, world.spine_batch, bytes).unwrap(),
        };
        let definitions = definitions(&world.views, &uses());
        let plan = JoinPlan::new(spine, &Selection::Service("all".to_owned()), &definitions, world.options).unwrap();
        let schema = Arc::clone(plan.schema());
        let memory = Memory {
            file_rows: world.view_file,
            batch_rows: world.view_batch,
            lie: world.lie,
            prune: world.prune,
            ..Memory::new(&world.views, &world.rows)
        };
        let plan = Arc::new(plan);
        let whole = world::run(Arc::clone(&plan), memory.clone()).unwrap();
        let joined = world::run_within(plan, memory, usize::MAX, world.part_rows).unwrap();

        prop_assert_eq!(&joined.schema, &schema);
        let parts = if world.spine.is_empty() { 1 } else { world.spine.len().div_ceil(world.part_rows) };
        prop_assert_eq!((joined.report.parts, joined.rows.len()), (parts as u64, world.spine.len()));
        let output = concat_batches(&joined.schema, &joined.rows.collect().unwrap()).unwrap();
        let own = batch.num_columns();
        prop_assert_eq!(&output.columns()[..own], batch.columns());
        // The same as in memory at once, where the spine may come from disk.
        let digest = |rows: &JoinedRows| digest_of_rows(&joined.schema, rows).unwrap();
        prop_assert_eq!(digest(&joined.rows), digest(&whole.rows));
        let expected = world.expected();
        prop_assert_eq!(output.num_columns(), own + expected.len());
        for (place, (name, data_type, values)) in expected.iter().enumerate() {
            prop_assert_eq!(schema.field(own + place).name(), name);
            let column = output.column(own + place);
            let found: Vec<_> = (0..output.num_rows()).map(|row| value_at(column, *data_type, row).unwrap()).collect();
            prop_assert_eq!(&found, values, "{}", name);
            let alone = joined.rows.column(own + place, output.num_columns()).map(|column| column.unwrap().unwrap()).collect::<Vec<_>>();
            if !alone.is_empty() {
                let alone = concat(&alone.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap();
                prop_assert_eq!(&alone, column);
            }
        }
    }
}

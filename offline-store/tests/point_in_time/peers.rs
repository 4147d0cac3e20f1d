//! The join against DuckDB and Polars, on random data with many ties.
//!
//! The questions and the comparison are in `tests/peers_oracle.py`; here the worlds are made, joined, and written as Parquet.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anabranch_core::columns::column_of;
use anabranch_core::selection::Selection;
use anabranch_core::types::{DataType, Scalar};
use anabranch_core::{Timestamp, Value};
use anabranch_offline_store::join::{JoinPlan, Knowledge};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use parquet::arrow::ArrowWriter;
use serde_json::{Value as Json, json};

use crate::world::{self, Lie, Memory, Row, Use, ViewSpec, data_type, definitions};

const SPINE_ROWS: i64 = 1_500;
const VIEW_ROWS: usize = 4_000;
/// Instants and keys are few, so that nearly every row ties with others.
const INSTANTS: u64 = 150;
const KEYS: u64 = 12;

/// SplitMix64: the same data for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn instant(&mut self) -> i64 {
        // Microseconds apart, around the epoch, so that the edges are exact and some are negative.
        self.below(INSTANTS) as i64 - 20
    }

    fn key(&mut self, scalar: Scalar) -> Value {
        let key = self.below(KEYS);
        match scalar {
            Scalar::I32 => Value::I32(key as i32),
            Scalar::I64 => Value::I64(key as i64),
            _ => Value::String(format!("k{}", key % 4)),
        }
    }

    fn feature(&mut self, data_type: DataType) -> Value {
        if self.chance(10) {
            return Value::Null;
        }
        match data_type {
            DataType::Scalar(Scalar::I64) => Value::I64(self.below(1 << 40) as i64),
            DataType::Scalar(Scalar::F64) => Value::F64(self.below(1 << 20) as f64 / 8.0),
            _ => Value::String(format!("text {}", self.below(1_000))),
        }
    }

    fn row(&mut self, spec: &ViewSpec, position: usize) -> Row {
        let event = self.instant();
        Row {
            key: spec.keys.iter().map(|(_, scalar)| self.key(*scalar)).collect(),
            event,
            known: (spec.known && self.chance(90)).then(|| event + self.below(12) as i64 - 2),
            arrival: self.below(3) as i64,
            source: self.below(3) as i32,
            position: position as i64,
            tombstone: [None, Some(false), Some(true)][if self.chance(8) { 2 } else { self.below(2) as usize }],
            features: spec.features.iter().map(|(_, data_type)| self.feature(*data_type)).collect(),
        }
    }
}

fn views() -> Vec<ViewSpec> {
    let features = |names: [&'static str; 3]| vec![(names[0], data_type("i64")), (names[1], data_type("string")), (names[2], data_type("f64"))];
    let view = |name, keys, known, lookback, names| ViewSpec { name, keys, known, lookback, features: features(names) };
    vec![
        view("plain", vec![("user", Scalar::I64)], false, None, ["a", "b", "c"]),
        view("short", vec![("user", Scalar::I32)], false, Some(3), ["d", "e", "f"]),
        view("known", vec![("user", Scalar::I64)], true, None, ["g", "h", "i"]),
        view("pair", vec![("place", Scalar::String), ("user", Scalar::I64)], true, Some(25), ["j", "k", "l"]),
    ]
}

fn uses() -> Vec<Use> {
    let one = |view, columns| Use { view, alias: None, columns };
    vec![one(0, vec!["user"]), one(1, vec!["user"]), one(2, vec!["user"]), one(3, vec!["place", "user"])]
}

fn spine(random: &mut Random) -> RecordBatch {
    let mut columns =
        [("row", data_type("i64")), ("event_timestamp", data_type("timestamp")), ("user", data_type("i64")), ("place", data_type("string"))]
            .map(|(name, data_type)| (name, data_type, Vec::new()));
    for row in 0..SPINE_ROWS {
        columns[0].2.push(Value::I64(row));
        columns[1].2.push(Value::Timestamp(Timestamp(random.instant())));
        columns[2].2.push(if random.chance(5) { Value::Null } else { random.key(Scalar::I64) });
        columns[3].2.push(if random.chance(5) { Value::Null } else { random.key(Scalar::String) });
    }
    world::table(columns.iter().map(|(name, data_type, values)| (*name, column_of(*data_type, values).unwrap())))
}

fn write(path: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// Joins one world, writes it down and says what it is.
fn case(folder: &Path, seed: u64, knowledge: Knowledge, strict: bool) -> Json {
    let mut random = Random(seed);
    let (views, uses) = (views(), uses());
    let rows: Vec<Vec<Row>> = views.iter().map(|spec| (0..VIEW_ROWS).map(|position| random.row(spec, position)).collect()).collect();
    let spine = spine(&mut random);
    let selection = Selection::Service("all".to_owned());
    let options = world::options(knowledge, strict);
    let plan = JoinPlan::new(world::spine(&spine, 400).unwrap(), &selection, &definitions(&views, &uses), options).unwrap();
    let lie = [Lie::Anyhow, Lie::ByTime, Lie::Sorted][seed as usize % 3];
    let memory = Memory { file_rows: 1_500, batch_rows: 333, lie, ..Memory::new(&views, &rows) };
    let joined = world::run(plan, memory).unwrap();

    let name = format!("{seed}");
    let folder = folder.join(&name);
    std::fs::create_dir(&folder).unwrap();
    write(&folder.join("spine.parquet"), &spine);
    write(&folder.join("joined.parquet"), &concat_batches(&joined.schema, &joined.rows.collect().unwrap()).unwrap());
    let described = views.iter().zip(&uses).zip(&rows).map(|((spec, used), rows)| {
        write(&folder.join(format!("{}.parquet", spec.name)), &world::batch(spec, rows));
        let keys: Vec<_> = spec.keys.iter().zip(&used.columns).map(|((key, _), column)| json!([key, column])).collect();
        let features: Vec<_> = spec.features.iter().map(|(name, _)| *name).collect();
        json!({"name": spec.name, "keys": keys, "known": spec.known, "lookback": spec.lookback, "features": features, "output": features})
    });
    let described: Vec<_> = described.collect();
    json!({"folder": name, "views": described, "knowledge": serde_json::to_value(knowledge).unwrap(), "strict": strict})
}

fn python() -> PathBuf {
    let python = std::env::var_os("ANABRANCH_PYTHON").map_or_else(|| "../.cache/venv/bin/python".into(), PathBuf::from);
    assert!(python.exists(), "there is no {}: run `make setup`, or set ANABRANCH_PYTHON to a Python that has requirements-dev.txt", python.display());
    python
}

#[test]
fn duckdb_and_polars_join_the_same() {
    let python = python();
    let folder = tempfile::tempdir().unwrap();
    let variants = [
        (Knowledge::Spine, false),
        (Knowledge::Spine, true),
        (Knowledge::Any, false),
        (Knowledge::Any, true),
        (Knowledge::At(Timestamp(60)), false),
        (Knowledge::At(Timestamp(60)), true),
    ];
    let cases: Vec<_> = variants.iter().zip(1..).map(|((knowledge, strict), seed)| case(folder.path(), seed, *knowledge, *strict)).collect();
    std::fs::write(folder.path().join("cases.json"), serde_json::to_vec(&cases).unwrap()).unwrap();

    let output = Command::new(&python).arg("tests/peers_oracle.py").arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let compared: Json = serde_json::from_slice(&output.stdout).unwrap();
    // Four views under six options by window, and in Polars; by ASOF all but the two with known times under `knowledge = spine`.
    assert_eq!((&compared["window"], &compared["polars"], &compared["asof"]), (&json!(24), &json!(24), &json!(20)), "{compared}");
    let (rows, matched) = (compared["rows"].as_i64().unwrap(), compared["matched"].as_i64().unwrap());
    assert_eq!(rows, 68 * SPINE_ROWS);
    assert!(matched > rows / 3, "too little matched for the comparison to mean much: {compared}");
}

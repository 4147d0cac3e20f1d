//! Files that others wrote in every way in which numbers can be stored: the join takes the same values from all of them.

use std::sync::Arc;

use anabranch_core::definition::{Definition, Definitions, Entity, FeatureView, Role};
use anabranch_core::selection::Selection;
use anabranch_core::{DataType, Position, Scalar, SourceId, Timestamp};
use anabranch_offline_store::join::{JoinError, JoinOptions, JoinPlan, Spine, join};
use anabranch_offline_store::{FileRows, Fill, ViewFile, ViewFiles};
use arrow::array::{Array, ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Field, Schema};
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, path::Path};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};
use proptest::prelude::*;

const ROWS: i64 = 5_000;

/// The features, with their types.
const FEATURES: [(&str, Scalar); 5] = [("f", Scalar::F32), ("g", Scalar::F64), ("n", Scalar::I32), ("m", Scalar::I64), ("t", Scalar::Timestamp)];

fn definitions() -> Definitions {
    let entity = Entity::new("user", "user", Scalar::I64);
    let view = FeatureView::new("view", "at").entity("user");
    let view = FEATURES.iter().fold(view, |view, (name, scalar)| view.field(*name, DataType::Scalar(*scalar)));
    [Definition::Entity(entity), Definition::FeatureView(view)].into_iter().map(|definition| definition.normalized().unwrap()).collect()
}

/// Which rows are null.
#[derive(Debug, Clone, Copy)]
enum Nulls {
    /// None can be.
    Required,
    None,
    All,
    /// So many of 256, one here and one there.
    Some(u64),
    /// Runs of so many.
    Runs(i64),
}

impl Nulls {
    fn is(self, row: i64) -> bool {
        match self {
            Self::Required | Self::None => false,
            Self::All => true,
            Self::Some(of_256) => (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56 < of_256,
            Self::Runs(length) => row / length % 2 == 1,
        }
    }
}

/// Rows of which each is one user's; their values repeat after `distinct`.
fn rows(nulls: Nulls, distinct: i64) -> RecordBatch {
    let value = |row: i64| (!nulls.is(row)).then_some(row % distinct);
    let number = |row: i64| value(row).map(|value| value as f64 / 8.0 - 100.0);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..ROWS)),
        Arc::new(TimestampMicrosecondArray::from_value(5, ROWS as usize).with_timezone("UTC")),
        Arc::new((0..ROWS).map(|row| number(row).map(|value| value as f32)).collect::<Float32Array>()),
        Arc::new((0..ROWS).map(number).collect::<Float64Array>()),
        Arc::new((0..ROWS).map(|row| value(row).map(|value| value as i32 - 7)).collect::<Int32Array>()),
        Arc::new((0..ROWS).map(|row| value(row).map(|value| value * 1_000_003)).collect::<Int64Array>()),
        Arc::new((0..ROWS).map(value).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
    ];
    let names = ["user", "at"].into_iter().chain(FEATURES.iter().map(|(name, _)| *name));
    let is_required = |place: usize| place < 2 || matches!(nulls, Nulls::Required);
    let fields = names.zip(&columns).enumerate().map(|(place, (name, column))| Field::new(name, column.data_type().clone(), !is_required(place)));
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns).unwrap()
}

fn file(rows: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
    writer.write(rows).unwrap();
    writer.into_inner().unwrap()
}

/// Joins a spine of these users and gives the features.
async fn joined(bytes: Vec<u8>, users: &[i64]) -> Result<Vec<ArrayRef>, JoinError> {
    let objects = Arc::new(InMemory::new());
    objects.put(&Path::from("file.parquet"), bytes.into()).await.unwrap();
    let times = TimestampMicrosecondArray::from_value(9, users.len()).with_timezone("UTC");
    let spine = RecordBatch::try_from_iter([
        ("user", Arc::new(Int64Array::from(users.to_vec())) as ArrayRef),
        (Spine::DEFAULT_TIME_COLUMN, Arc::new(times) as ArrayRef),
    ]);
    let spine = Spine::of(spine.unwrap(), Spine::DEFAULT_TIME_COLUMN).unwrap();
    let plan = JoinPlan::new(spine, &Selection::Features(vec!["view".into()]), &definitions(), JoinOptions::default()).unwrap();
    let fill = Fill { arrival: Timestamp(1), source: SourceId::new(1).unwrap(), first_position: Position::new(0).unwrap() };
    let files = plan.scans().map(|scan| ViewFiles {
        name: scan.name.clone(),
        field_ids: scan.columns.iter().map(|column| (column.role != Role::Reserved).then_some(0)).collect(),
        sorted_by: Vec::new(),
        files: vec![ViewFile { path: "file.parquet".into(), fill: Some(fill) }],
        all_files: 1,
        all_rows: ROWS as u64,
    });
    let rows = FileRows::new(objects, files.collect());
    let joined = join(Arc::new(plan), rows).await?.rows.collect().unwrap().remove(0);
    Ok(joined.columns()[2..].to_vec())
}

async fn holds(rows: &RecordBatch, properties: &WriterPropertiesBuilder, users: &[i64]) {
    let found = joined(file(rows, properties.clone().build()), users).await.unwrap();
    let places = users.iter().map(|user| u32::try_from(*user).ok().filter(|_| *user < ROWS)).collect::<UInt32Array>();
    for ((found, column), (name, _)) in found.iter().zip(&rows.columns()[2..]).zip(FEATURES) {
        assert_eq!(found, &take(column, &places, None).unwrap(), "{name} {properties:?}");
    }
}

fn zstd() -> Compression {
    Compression::ZSTD(ZstdLevel::try_new(1).unwrap())
}

/// An encoding, and whether it is one for integers alone.
const ENCODINGS: [(Encoding, bool); 3] = [(Encoding::PLAIN, false), (Encoding::BYTE_STREAM_SPLIT, false), (Encoding::DELTA_BINARY_PACKED, true)];

fn encoded((encoding, of_integers): (Encoding, bool)) -> WriterPropertiesBuilder {
    FEATURES.iter().fold(WriterProperties::builder(), |builder, (name, scalar)| {
        let is_float = matches!(scalar, Scalar::F32 | Scalar::F64);
        builder.set_column_encoding((*name).into(), if is_float && of_integers { Encoding::PLAIN } else { encoding })
    })
}

fn settings() -> Vec<WriterPropertiesBuilder> {
    let mut all = Vec::new();
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for (encoding, dictionary) in [(ENCODINGS[0], false), (ENCODINGS[1], false), (ENCODINGS[2], false), (ENCODINGS[0], true)] {
            for compression in [Compression::UNCOMPRESSED, zstd()] {
                for statistics in [EnabledStatistics::None, EnabledStatistics::Chunk] {
                    let builder = encoded(encoding).set_writer_version(version).set_dictionary_enabled(dictionary);
                    let builder = builder.set_compression(compression).set_statistics_enabled(statistics);
                    all.push(builder.set_data_page_row_count_limit(700).set_write_batch_size(100).set_max_row_group_row_count(Some(2_000)));
                }
            }
        }
    }
    all
}

#[tokio::test]
async fn numbers_are_the_same_however_a_file_stores_them() {
    // All rows, most of them, and so few that only their pages are read.
    let spines: [Vec<i64>; 3] = [(0..ROWS).rev().collect(), (0..ROWS + 50).rev().step_by(3).collect(), vec![4_321, 17, 9_999]];
    for builder in settings() {
        for nulls in [Nulls::Required, Nulls::None, Nulls::Some(40)] {
            let rows = rows(nulls, ROWS);
            for users in &spines {
                holds(&rows, &builder, users).await;
            }
        }
    }
}

fn nulls() -> impl Strategy<Value = Nulls> {
    prop_oneof![Just(Nulls::None), Just(Nulls::All), (0_u64..=256).prop_map(Nulls::Some), (1_i64..2_000).prop_map(Nulls::Runs)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn numbers_are_the_same_for_any_nulls_and_pages(
        nulls in nulls(),
        distinct in prop_oneof![1_i64..4, 4_i64..300, 300..ROWS],
        encoding in prop::sample::select(ENCODINGS.to_vec()),
        (version_2, dictionary, compressed) in any::<(bool, bool, bool)>(),
        (page_rows, batch_rows, dictionary_bytes) in (1_usize..2_000, 1_usize..500, 1_usize..20_000),
        step in 1_usize..30,
    ) {
        let version = if version_2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
        // A dictionary that outgrows its page is given up on the way: then pages of both kinds follow it.
        let builder = encoded(encoding).set_writer_version(version).set_dictionary_enabled(dictionary).set_dictionary_page_size_limit(dictionary_bytes);
        let builder = builder.set_compression(if compressed { zstd() } else { Compression::UNCOMPRESSED });
        let builder = builder.set_data_page_row_count_limit(page_rows).set_write_batch_size(batch_rows).set_max_row_group_row_count(Some(2_300));
        let users: Vec<i64> = (-3..ROWS + 3).rev().step_by(step).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(holds(&rows(nulls, distinct), &builder, &users));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_damaged_column_is_an_error_or_other_values(
        nulls in nulls(),
        (version_2, dictionary, compressed) in any::<(bool, bool, bool)>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u8>()), 1..20),
    ) {
        let version = if version_2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
        let builder = encoded(ENCODINGS[0]).set_writer_version(version).set_dictionary_enabled(dictionary);
        let builder = builder.set_compression(if compressed { zstd() } else { Compression::UNCOMPRESSED }).set_data_page_row_count_limit(900);
        let mut bytes = file(&rows(nulls, 50), builder.build());
        let footer = ArrowReaderMetadata::load(&bytes::Bytes::from(bytes.clone()), ArrowReaderOptions::new()).unwrap();
        let (start, length) = footer.metadata().row_group(0).column(2).byte_range();
        for (at, is_head, value) in damage {
            // Where pages begin they say what follows.
            bytes[start as usize + at.index(if is_head { 64.min(length) } else { length } as usize)] = value;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        match runtime.block_on(joined(bytes, &(0..ROWS).collect::<Vec<_>>())) {
            Ok(found) => prop_assert!(found.iter().all(|column| column.len() == ROWS as usize)),
            // Work that panics gives no answer: [`JoinError::NoThread`].
            Err(error) => prop_assert!(matches!(error, JoinError::Scan { .. } | JoinError::Rows { .. }), "{error:?}"),
        }
    }
}

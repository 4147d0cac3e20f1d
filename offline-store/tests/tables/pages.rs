//! Files that others wrote in every way in which floats can be stored: the join takes the same values from all of them.

use std::sync::Arc;

use anabranch_core::definition::{Definition, Definitions, Entity, FeatureView, Role};
use anabranch_core::selection::Selection;
use anabranch_core::{DataType, Position, Scalar, SourceId, Timestamp};
use anabranch_offline_store::join::{JoinOptions, JoinPlan, Spine, join};
use anabranch_offline_store::{FileRows, Fill, ViewFile, ViewFiles};
use arrow::array::{ArrayRef, AsArray, Float32Array, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType as ArrowType, Field, Float32Type, Float64Type, Schema, TimeUnit};
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, path::Path};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};

const ROWS: i64 = 5_000;

fn definitions() -> Definitions {
    let entity = Entity::new("user", "user", Scalar::I64);
    let view = FeatureView::new("view", "at").entity("user").field("f", DataType::Scalar(Scalar::F32)).field("g", DataType::Scalar(Scalar::F64));
    [Definition::Entity(entity), Definition::FeatureView(view)].into_iter().map(|definition| definition.normalized().unwrap()).collect()
}

/// Whether row `n` is null where rows may be.
fn is_null(n: i64) -> bool {
    n % 7 == 3
}

fn file(required: bool, nulls: bool, properties: WriterProperties) -> Vec<u8> {
    let times = ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = vec![
        Field::new("user", ArrowType::Int64, false),
        Field::new("at", times, false),
        Field::new("f", ArrowType::Float32, !required),
        Field::new("g", ArrowType::Float64, !required),
    ];
    let value = |n: i64| (!(nulls && is_null(n))).then_some(n as f64 / 8.0 - 100.0);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..ROWS)),
        Arc::new(TimestampMicrosecondArray::from_value(5, ROWS as usize).with_timezone("UTC")),
        Arc::new((0..ROWS).map(|n| value(n).map(|value| value as f32)).collect::<Float32Array>()),
        Arc::new((0..ROWS).map(value).collect::<Float64Array>()),
    ];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// Joins a spine of these users, backwards, and gives both features.
async fn joined(bytes: Vec<u8>, users: &[i64]) -> (Float32Array, Float64Array) {
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
    let joined = join(Arc::new(plan), rows).await.unwrap().rows.collect().unwrap().remove(0);
    (joined.column(2).as_primitive::<Float32Type>().clone(), joined.column(3).as_primitive::<Float64Type>().clone())
}

fn settings() -> Vec<WriterPropertiesBuilder> {
    let mut all = Vec::new();
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for (encoding, dictionary) in [(Encoding::PLAIN, false), (Encoding::BYTE_STREAM_SPLIT, false), (Encoding::PLAIN, true)] {
            for compression in [Compression::UNCOMPRESSED, Compression::ZSTD(ZstdLevel::try_new(1).unwrap())] {
                for statistics in [EnabledStatistics::None, EnabledStatistics::Chunk] {
                    let builder = WriterProperties::builder().set_writer_version(version).set_dictionary_enabled(dictionary).set_encoding(encoding);
                    let builder = builder.set_compression(compression).set_statistics_enabled(statistics);
                    all.push(builder.set_data_page_row_count_limit(700).set_write_batch_size(100).set_max_row_group_row_count(Some(2_000)));
                }
            }
        }
    }
    all
}

#[tokio::test]
async fn floats_are_the_same_however_a_file_stores_them() {
    // All rows, most of them, and so few that only their pages are read.
    let spines: [Vec<i64>; 3] = [(0..ROWS).rev().collect(), (0..ROWS + 50).rev().step_by(3).collect(), vec![4_321, 17, 9_999]];
    for builder in settings() {
        for (required, nulls) in [(true, false), (false, false), (false, true)] {
            let bytes = file(required, nulls, builder.clone().build());
            for users in &spines {
                let (f, g) = joined(bytes.clone(), users).await;
                let expected = |user: &i64| (*user < ROWS && !(nulls && is_null(*user))).then_some(*user as f64 / 8.0 - 100.0);
                let expected: Vec<_> = users.iter().map(expected).collect();
                assert_eq!(g.iter().collect::<Vec<_>>(), expected, "{required} {nulls} {builder:?}");
                assert_eq!(f.iter().map(|value| value.map(f64::from)).collect::<Vec<_>>(), expected, "{required} {nulls} {builder:?}");
            }
        }
    }
}

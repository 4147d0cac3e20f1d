use std::sync::Arc;

use anabranch_core::{DataType, Scalar};
use arrow::array::{Array as _, ArrayRef, Float32Array, Float64Array, Int64Array, ListArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType as ArrowType, Field, Float32Type, Schema};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy};

use super::*;
use crate::schema::TableField;

/// A number from 0 to 1, by splitmix64.
fn random(row: u64, seed: u64) -> f64 {
    let mut z = (row + (seed << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Columns of every kind that floats come in, and one of integers.
fn rows(count: usize) -> (Vec<TableField>, RecordBatch) {
    let random = |seed| (0..count as u64).map(move |row| random(row, seed));
    let uniform: Vec<_> = random(1).collect();
    let walk = random(2).scan(0.0, |sum, step| {
        *sum += step - 0.5;
        Some(*sum)
    });
    let sparse: Vec<_> = random(3).zip(random(4)).map(|(whether, value)| if whether < 0.7 { 0.0 } else { value }).collect();
    let f32s = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<_>>();
    let vectors = |values: &[f64]| {
        let row = |(at, value): (usize, &f64)| (at % 9 != 0).then(|| vec![Some(*value as f32); at % 4]);
        let (_, offsets, values, nulls) = ListArray::from_iter_primitive::<Float32Type, _, _>(values.iter().enumerate().map(row)).into_parts();
        ListArray::new(Arc::new(Field::new("element", ArrowType::Float32, true)), offsets, values, nulls)
    };
    let columns: [(&str, DataType, ArrayRef); 6] = [
        ("number", DataType::Scalar(Scalar::I64), Arc::new(Int64Array::from_iter_values(0..count as i64))),
        ("uniform", DataType::Scalar(Scalar::F32), Arc::new(Float32Array::from(f32s(&uniform)))),
        ("walk", DataType::Scalar(Scalar::F64), Arc::new(Float64Array::from_iter_values(walk))),
        ("sparse", DataType::Scalar(Scalar::F32), Arc::new(Float32Array::from(f32s(&sparse)))),
        ("nulls", DataType::Scalar(Scalar::F64), Arc::new(random(5).map(|value| (value < 0.8).then_some(value)).collect::<Float64Array>())),
        ("lists", DataType::List(Scalar::F32), Arc::new(vectors(&uniform))),
    ];
    let field = |(id, (name, data_type, _)): (usize, &(&str, DataType, ArrayRef))| TableField {
        id: id as i32,
        name: (*name).to_owned(),
        data_type: *data_type,
        required: false,
        element_id: None,
    };
    let fields = columns.iter().enumerate().map(field).collect();
    let schema = columns.iter().map(|(name, _, column)| Field::new(*name, column.data_type().clone(), true)).collect::<Vec<_>>();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(schema)), columns.into_iter().map(|(_, _, column)| column).collect()).unwrap();
    (fields, batch)
}

/// The rows in row groups of so many.
fn written(fields: &[TableField], batch: &RecordBatch, group: usize) -> (Bytes, ParquetMetaData) {
    let properties = settings::properties(fields, batch.columns(), &[0], group);
    let groups = (0..batch.num_rows()).step_by(group).map(|start| start..batch.num_rows().min(start + group)).collect();
    let (bytes, metadata) = write(batch, groups, &properties).unwrap();
    (bytes.into(), metadata)
}

fn read(bytes: &Bytes, selection: Option<RowSelection>) -> RecordBatch {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let metadata = ArrowReaderMetadata::load(bytes, options).unwrap();
    let schema = Arc::clone(metadata.schema());
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata);
    if let Some(selection) = selection {
        builder = builder.with_row_selection(selection);
    }
    concat_batches(&schema, &builder.build().unwrap().collect::<std::result::Result<Vec<_>, _>>().unwrap()).unwrap()
}

#[test]
fn every_reader_finds_what_was_written_whole_and_by_pages() {
    for (count, group) in [(1, 10), (1_000, 400), (300_000, 200_000)] {
        let (fields, batch) = rows(count);
        let (bytes, _) = written(&fields, &batch, group);
        assert_eq!(read(&bytes, None).columns(), batch.columns());
        let (skip, take) = (count * 2 / 3, count - count * 2 / 3);
        let some = read(&bytes, Some(RowSelection::from(vec![RowSelector::skip(skip), RowSelector::select(take)])));
        assert_eq!(some.columns(), batch.slice(skip, take).columns());
    }
}

#[test]
fn the_metadata_says_what_is_there() {
    let (fields, batch) = rows(300_000);
    let (bytes, metadata) = written(&fields, &batch, 200_000);
    assert_eq!(metadata.num_row_groups(), 2);
    assert!(metadata.file_metadata().key_value_metadata().unwrap().iter().any(|pair| pair.key == "ARROW:schema"));
    let mut end = 4;
    for (group, row_group) in metadata.row_groups().iter().enumerate() {
        for (column, chunk) in row_group.columns().iter().enumerate() {
            assert!(matches!(chunk.compression(), Compression::ZSTD(_)), "{}", chunk.column_path());
            // Chunks lie side by side, and pages side by side in them.
            let (start, length) = chunk.byte_range();
            assert_eq!(start, end, "{}", chunk.column_path());
            end = start + length;
            let locations = metadata.offset_index().unwrap()[group][column].page_locations();
            let dictionary = locations[0].offset as u64 - start;
            assert_eq!(locations.iter().map(|page| page.compressed_page_size as u64).sum::<u64>() + dictionary, length);
        }
    }
    assert!((end as usize) < bytes.len());
}

#[test]
fn no_column_of_floats_is_larger_than_the_library_makes_it_and_random_ones_are_smaller() {
    let (fields, batch) = rows(300_000);
    let (_, packed) = written(&fields, &batch, 300_000);
    let properties = settings::properties(&fields, batch.columns(), &[0], 300_000);
    let of_library = fields.iter().fold(properties.into_builder(), |builder, field| {
        let path = match field.data_type {
            DataType::Scalar(_) => field.name.clone().into(),
            _ => vec![field.name.clone(), "list".to_owned(), "element".to_owned()].into(),
        };
        builder.set_column_compression(path, settings::compression())
    });
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(of_library.build())).unwrap();
    writer.write(&batch).unwrap();
    let plain = writer.close().unwrap();
    let sizes = |metadata: &ParquetMetaData| metadata.row_group(0).columns().iter().map(ColumnChunkMetaData::compressed_size).collect::<Vec<_>>();
    let (packed, plain) = (sizes(&packed), sizes(&plain));
    assert!(packed.iter().zip(&plain).all(|(packed, plain)| packed <= plain), "{packed:?} {plain:?}");
    for (column, less) in [(1, 0.99), (3, 0.95)] {
        assert!((packed[column] as f64) < plain[column] as f64 * less, "{packed:?} {plain:?}");
    }
}

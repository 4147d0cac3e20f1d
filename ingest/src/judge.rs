//! Judging rows: a pure function of their bytes, their arrival and the definitions that the offset names.
//!
//! Rows that pass get the reserved columns and go to their view's table; rows that fail go to quarantine with every failure. Tombstones are held to the
//! rules that every row keeps and to no check of the view. Beside the checks a row must fit the online store, served or not: `_size` refuses a key over
//! 32 KiB and a row with over 15 MiB of values.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::columns::KeyColumns;
use anabranch_core::definition::{DefinitionDigest, Definitions, Role, ViewLayout};
use anabranch_core::key::KeyWriter;
use anabranch_core::types::UTC;
use anabranch_core::{DataType, SourceId, Timestamp};
use anabranch_online_store::{MAX_KEY_BYTES, MAX_ROW_BYTES};
use anabranch_validation::{Failure, RowChecks, Verdicts};
use anabranch_versioning::{Digest, Repository};
use arrow::array::{Array, ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use bytes::Bytes;

use crate::decode::Decoded;
use crate::quarantine::{self, QuarantinedRow};
use crate::wal::RecordKind;
use crate::{Error, Result};

/// The rule that a row fits the stores.
pub const SIZE: &str = "_size";

/// What the values of a row may need; the rest of a packed row is left for its order, null bits and slots.
const MAX_VALUE_BYTES: usize = MAX_ROW_BYTES - (1 << 20);

/// The definitions that judge rows, compiled.
#[derive(Debug)]
pub(crate) struct Judges {
    pub(crate) digest: DefinitionDigest,
    pub(crate) definitions: Definitions,
    views: BTreeMap<String, Arc<ViewJudge>>,
}

/// The judge of one view's rows.
#[derive(Debug)]
pub(crate) struct ViewJudge {
    pub(crate) layout: Arc<ViewLayout>,
    checks: RowChecks,
    /// What every row keeps, and tombstones too.
    rules: RowChecks,
}

/// Rows on which there is a verdict.
#[derive(Debug)]
pub(crate) struct Judged {
    /// The rows that passed, in the columns of the view's table.
    pub(crate) rows: RecordBatch,
    /// Those that did not.
    pub(crate) refused: Vec<QuarantinedRow>,
}

impl Judges {
    /// Compiles definitions.
    ///
    /// # Errors
    /// Where a check does not compile or fit its view.
    pub(crate) fn compile(definitions: &Definitions) -> Result<Self> {
        let mut views = BTreeMap::new();
        for view in definitions.views() {
            let layout = definitions.layout(&view.name)?;
            let compile = |checks: Vec<_>| RowChecks::compile(&layout, checks).map_err(|error| Error::below("the checks", error));
            let (checks, rules) = (compile(definitions.checks_of(&view.name).collect())?, compile(Vec::new())?);
            views.insert(view.name.clone(), Arc::new(ViewJudge { layout, checks, rules }));
        }
        Ok(Self { digest: definitions.digest(), definitions: definitions.clone(), views })
    }

    /// Loads what a digest names.
    pub(crate) async fn load(repository: &Repository, digest: DefinitionDigest) -> Result<Self> {
        let blob = repository.blob(&Digest(digest.0)).await.map_err(|error| Error::below("loading the judging definitions", error))?;
        Self::compile(&Definitions::from_judging_bytes(&blob)?)
    }

    /// Stores what judges rows, so that its digest can be loaded.
    pub(crate) async fn store(repository: &Repository, definitions: &Definitions) -> Result<DefinitionDigest> {
        let stored = repository.put_blob(Bytes::from(definitions.judging_bytes())).await;
        let stored = stored.map_err(|error| Error::below("storing the judging definitions", error))?;
        Ok(DefinitionDigest(stored.0))
    }

    pub(crate) fn view(&self, name: &str) -> Option<&Arc<ViewJudge>> {
        self.views.get(name)
    }

    pub(crate) fn views(&self) -> impl Iterator<Item = &Arc<ViewJudge>> {
        self.views.values()
    }
}

impl ViewJudge {
    pub(crate) fn judge(&self, decoded: &Decoded, arrival: Timestamp, source: SourceId) -> Result<Judged> {
        let rows = decoded.batch.num_rows();
        let checks = if decoded.kind == RecordKind::Tombstones { &self.rules } else { &self.checks };
        let judged = checks.judge(&decoded.batch, &vec![arrival.micros(); rows]).map_err(|error| Error::below("judging rows", error))?;
        let mut verdicts = decoded.verdicts.clone();
        for (row, failures) in judged.failures() {
            for failure in failures {
                // A cell that could not be read is null, and has been told of.
                let told = decoded.verdicts.of_row(row).iter().any(|known| known.column == failure.column || known.column.is_empty());
                if !told {
                    verdicts.add(row, failure.clone());
                }
            }
        }
        self.judge_sizes(&decoded.batch, &mut verdicts)?;
        let refused = quarantine::refused_rows(&self.layout, decoded, &verdicts, arrival, source)?;
        Ok(Judged { rows: self.table_rows(decoded, &verdicts, arrival, source)?, refused })
    }

    fn judge_sizes(&self, batch: &RecordBatch, verdicts: &mut Verdicts) -> Result<()> {
        // A batch that is small as a whole has no large row.
        if batch.get_array_memory_size() < MAX_KEY_BYTES {
            return Ok(());
        }
        let keys = self.layout.keys().iter().zip(batch.columns()).map(|(key, column)| (key.scalar(), Arc::clone(column))).collect();
        let keys = KeyColumns::new(keys)?;
        let mut writer = KeyWriter::default();
        let features: Vec<_> = self.layout.columns().iter().zip(batch.columns()).filter(|(column, _)| column.role == Role::Feature).collect();
        for row in 0..batch.num_rows() {
            if keys.write(row, &mut writer) && writer.as_bytes().len() > MAX_KEY_BYTES {
                let reason = format!("the entity key has {} bytes, and at most {MAX_KEY_BYTES} are allowed", writer.as_bytes().len());
                verdicts.add(row, Failure { check: SIZE.to_owned(), column: self.layout.keys()[0].name.clone(), reason });
            }
            let bytes: usize = features.iter().map(|(column, cells)| cell_bytes(column.data_type, cells.as_ref(), row)).sum();
            if bytes > MAX_VALUE_BYTES {
                let reason = format!("the features have {bytes} bytes, and at most {MAX_VALUE_BYTES} are allowed");
                verdicts.add(row, Failure { check: SIZE.to_owned(), column: String::new(), reason });
            }
        }
        Ok(())
    }

    /// The rows that passed, with the reserved columns.
    fn table_rows(&self, decoded: &Decoded, verdicts: &Verdicts, arrival: Timestamp, source: SourceId) -> Result<RecordBatch> {
        let malformed = |error: arrow::error::ArrowError| Error::Malformed { what: "judged rows", reason: error.to_string() };
        let all = decoded.batch.num_rows();
        let positions = Int64Array::from_iter_values((0..all).map(|row| decoded.position(row).as_i64()));
        let mut columns: Vec<ArrayRef> = decoded.batch.columns().to_vec();
        columns.push(Arc::new(TimestampMicrosecondArray::from_value(arrival.micros(), all).with_timezone(UTC)));
        columns.push(Arc::new(Int32Array::from_value(source.as_i32(), all)));
        columns.push(Arc::new(positions));
        columns.push(Arc::new(BooleanArray::from(vec![decoded.kind == RecordKind::Tombstones; all])));
        let fields = decoded.batch.schema().fields().iter().cloned().chain(reserved_fields()).collect::<Vec<_>>();
        let judged = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).map_err(malformed)?;
        let passed = BooleanArray::new(verdicts.passed(all), None);
        let passed = if verdicts.is_clean() { judged } else { filter_record_batch(&judged, &passed).map_err(malformed)? };
        // Now that keys and times are known to be there, the columns are those of the table.
        RecordBatch::try_new(self.layout.table_arrow_schema(), passed.columns().to_vec()).map_err(malformed)
    }
}

fn reserved_fields() -> impl Iterator<Item = arrow::datatypes::FieldRef> {
    let field = |column: &anabranch_core::definition::Column| Arc::new(arrow::datatypes::Field::new(&column.name, column.data_type.to_arrow(), true));
    ViewLayout::reserved_columns().map(|column| field(&column)).into_iter()
}

/// The bytes that a cell's value needs, counted the same way whatever batch it stands in.
fn cell_bytes(data_type: DataType, cells: &dyn Array, row: usize) -> usize {
    use arrow::array::AsArray;
    use arrow::datatypes::DataType as Arrow;
    if cells.is_null(row) {
        return 0;
    }
    match cells.data_type() {
        Arrow::Utf8 => cells.as_string::<i32>().value_length(row) as usize,
        Arrow::Binary => cells.as_binary::<i32>().value_length(row) as usize,
        Arrow::List(_) => {
            let items = cells.as_list::<i32>().value(row);
            let DataType::List(scalar) = data_type else { return 0 };
            items.len() * 8 + (0..items.len()).map(|item| cell_bytes(DataType::Scalar(scalar), items.as_ref(), item)).sum::<usize>()
        }
        Arrow::FixedSizeList(_, n) => usize::try_from(*n).unwrap_or(0) * 4,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::definition::{Definition, Entity, FeatureView};
    use anabranch_core::{Generation, Position, Scalar};
    use anabranch_online_store::{Layout, rows_of};

    use super::*;
    use crate::decode;
    use crate::wal::{LogRecord, NewRecord, PayloadFormat};

    fn judges() -> Judges {
        let text = DataType::Scalar(Scalar::String);
        let view = FeatureView::new("v", "t").entity("e").field("s", text).field("l", DataType::List(Scalar::String));
        let definitions = [Definition::Entity(Entity::new("e", "k", Scalar::String)), Definition::FeatureView(view)];
        Judges::compile(&definitions.into_iter().collect()).unwrap()
    }

    fn judge(rows: &[serde_json::Value]) -> Judged {
        let judges = judges();
        let view = judges.view("v").unwrap();
        let payload = serde_json::to_vec(rows).unwrap().into();
        let push = NewRecord { view: "v".into(), kind: RecordKind::Rows, format: PayloadFormat::Json, rows: rows.len() as u32, key: None, payload };
        let record = LogRecord { first: Position::new(7).unwrap(), arrival: Timestamp(9), push };
        view.judge(&decode::decode_record(&view.layout, &record), record.arrival, SourceId::new(3).unwrap()).unwrap()
    }

    #[test]
    fn rows_that_no_online_store_takes_are_refused_and_all_others_pack() {
        let row =
            |key: usize, text: usize, items: usize| serde_json::json!({"k": "k".repeat(key), "t": 5, "s": "s".repeat(text), "l": vec![""; items]});
        // A string key needs a tag and an end beside its bytes.
        let rows =
            [row(1, 1, 1), row(MAX_KEY_BYTES - 3, 1, 1), row(MAX_KEY_BYTES - 2, 1, 1), row(1, MAX_VALUE_BYTES - 8, 1), row(1, MAX_VALUE_BYTES, 1)];
        let judged = judge(&rows);
        let refused: Vec<_> = judged.refused.iter().map(|row| (row.position.get(), row.failures[0].check.as_str())).collect();
        assert_eq!(refused, [(9, SIZE), (11, SIZE)]);
        let layout = Layout::new(vec![(1, DataType::Scalar(Scalar::String)), (2, DataType::List(Scalar::String))]).unwrap();
        assert_eq!(rows_of(&judged.rows, &judges().view("v").unwrap().layout, &layout, Generation(1)).unwrap().len(), 3);
        // A list of many empty texts needs room for each.
        let judged = judge(&[row(1, 0, MAX_VALUE_BYTES / 8), row(1, 0, MAX_VALUE_BYTES / 8 + 1)]);
        assert_eq!((judged.rows.num_rows(), judged.refused.len()), (1, 1));
        assert!(rows_of(&judged.rows, &judges().view("v").unwrap().layout, &layout, Generation(1)).is_ok());
    }

    #[test]
    fn a_verdict_does_not_depend_on_the_batch_that_a_row_came_in() {
        let rows: Vec<_> = (0..5).map(|i| serde_json::json!({"k": "k".repeat(MAX_KEY_BYTES - 5 + i), "t": 5})).collect();
        let together: Vec<_> = judge(&rows).refused.iter().map(|row| row.payload.clone()).collect();
        let apart: Vec<_> = rows.iter().flat_map(|row| judge(std::slice::from_ref(row)).refused).map(|row| row.payload).collect();
        assert_eq!(together, apart);
        assert_eq!(together.len(), 2);
    }
}

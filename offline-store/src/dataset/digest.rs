//! A dataset's digest: BLAKE3 over its values, not over any file's bytes.
//!
//! Equal tables have equal digests however they are cut into batches and however Arrow lays them out: dictionaries are unpacked, `LargeUtf8` and views
//! are text, smaller integers widen, times of any unit are UTC microseconds. All numbers are big-endian.
//!
//! ```text
//! digest = BLAKE3 of
//!   "anabranch dataset"   17 bytes
//!   01                    format version
//!   u32                   number of columns
//!   per column:           u32 length | name, UTF-8
//!                         u32 length | type, as we spell it ("i64", "list<string>", "vector<8>")
//!                         32 bytes   | BLAKE3 of the column's cells, one behind the other
//!   u64                   number of rows
//!
//! cell = 00               null
//!      | 01 value
//! value:  bool 00 or 01 | i32 4 bytes | i64, timestamp 8 bytes, two's complement
//!         f32 4 bytes | f64 8 bytes, IEEE 754
//!         string, bytes   u64 length | bytes
//!         list            u64 length | values
//!         vector<n>       n values
//! ```
//!
//! Floats are compared by their bits, so −0 is not 0, except that every NaN is the quiet one of zero payload (`7fc00000`, `7ff8000000000000`): tools on
//! the way do not keep a NaN's payload, but they do keep a zero's sign. Whether a column may be null, and metadata, are not part of the content.
//!
//! Refused, rather than digested as something that they are not: types that are none of ours, integers beyond `i64` and times finer than microseconds.

use std::fmt;
use std::str::FromStr;

use anabranch_core::types::DataType;
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType as ArrowType, FieldRef, Schema, SchemaRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::cells::{canonical, canonical_type, write_cell};
use super::{DatasetColumn, DatasetError};
use crate::join::JoinedRows;

const MAGIC: &[u8] = b"anabranch dataset";
const FORMAT: u8 = 1;
/// Cells are handed to the hasher in pieces of about this size.
const PIECE_BYTES: usize = 1 << 16;

/// Names the content of a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest(pub [u8; 32]);

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentDigest({self})")
    }
}

impl FromStr for ContentDigest {
    type Err = DatasetError;

    fn from_str(text: &str) -> Result<Self, DatasetError> {
        parse_hex(text).map(Self).ok_or_else(|| DatasetError::Digest { text: text.to_owned() })
    }
}

/// 32 bytes as 64 lower-case hex digits; there is one spelling of each.
pub(super) fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |c: u8| (c as char).to_digit(16).filter(|_| !c.is_ascii_uppercase());
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

impl Serialize for ContentDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The digest of a table in memory.
///
/// # Errors
/// As [`ContentHasher`]'s.
pub fn content_digest(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<ContentDigest, DatasetError> {
    let mut hasher = ContentHasher::new(schema)?;
    for batch in batches {
        hasher.update(batch)?;
    }
    Ok(hasher.finish())
}

/// The digest of an answer, wherever its rows are.
///
/// # Errors
/// As [`ContentHasher`]'s; where rows that were spilled cannot be read.
pub fn digest_of_rows(schema: &SchemaRef, rows: &JoinedRows) -> crate::Result<ContentDigest> {
    let mut hasher = ContentHasher::new(schema)?;
    for batch in rows.batches() {
        hasher.update(&batch?)?;
    }
    Ok(hasher.finish())
}

/// The columns of a table, with our types for them.
///
/// # Errors
/// [`DatasetError::ColumnType`] where a column's type is none of ours.
pub fn columns_of(schema: &Schema) -> Result<Vec<DatasetColumn>, DatasetError> {
    let column = |(name, data_type): (&str, DataType)| DatasetColumn { name: name.to_owned(), data_type };
    Ok(ContentHasher::new(schema)?.columns().map(column).collect())
}

/// Digests a table batch by batch.
#[derive(Debug)]
pub struct ContentHasher {
    columns: Vec<ColumnHasher>,
    rows: u64,
}

#[derive(Debug)]
struct ColumnHasher {
    name: String,
    arrow_type: ArrowType,
    data_type: DataType,
    hasher: blake3::Hasher,
}

impl ContentHasher {
    /// A hasher for tables of this schema.
    ///
    /// # Errors
    /// [`DatasetError::ColumnType`] where a column's type is none of ours.
    pub fn new(schema: &Schema) -> Result<Self, DatasetError> {
        Ok(Self { columns: schema.fields().iter().map(ColumnHasher::new).collect::<Result<_, _>>()?, rows: 0 })
    }

    /// The columns and our types for them.
    pub fn columns(&self) -> impl Iterator<Item = (&str, DataType)> {
        self.columns.iter().map(|column| (column.name.as_str(), column.data_type))
    }

    /// Takes the next rows.
    ///
    /// # Errors
    /// [`DatasetError::Schema`] where the batch has other columns, [`DatasetError::Misfit`] where a value has no exact form.
    pub fn update(&mut self, batch: &RecordBatch) -> Result<(), DatasetError> {
        let same = |column: &ColumnHasher, field: &FieldRef| column.name == *field.name() && column.arrow_type == *field.data_type();
        let schema = batch.schema_ref();
        if schema.fields().len() != self.columns.len() || !self.columns.iter().zip(schema.fields()).all(|(column, field)| same(column, field)) {
            return Err(DatasetError::Schema);
        }
        for (column, array) in self.columns.iter_mut().zip(batch.columns()) {
            column.update(array, self.rows)?;
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// How many rows were taken.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// The digest of all rows taken.
    pub fn finish(self) -> ContentDigest {
        let mut header = Vec::from(MAGIC);
        header.push(FORMAT);
        header.extend((self.columns.len() as u32).to_be_bytes());
        for column in self.columns {
            for text in [column.name, column.data_type.to_string()] {
                header.extend((text.len() as u32).to_be_bytes());
                header.extend(text.as_bytes());
            }
            header.extend(column.hasher.finalize().as_bytes());
        }
        header.extend(self.rows.to_be_bytes());
        ContentDigest(*blake3::hash(&header).as_bytes())
    }
}

impl ColumnHasher {
    fn new(field: &FieldRef) -> Result<Self, DatasetError> {
        let (name, arrow_type) = (field.name().clone(), field.data_type().clone());
        match canonical_type(&arrow_type) {
            Some(data_type) => Ok(Self { name, arrow_type, data_type, hasher: blake3::Hasher::new() }),
            None => Err(DatasetError::ColumnType { column: name, found: arrow_type.to_string() }),
        }
    }

    fn update(&mut self, array: &ArrayRef, first_row: u64) -> Result<(), DatasetError> {
        let column = canonical(&self.name, self.data_type, array, first_row)?;
        let mut bytes = Vec::with_capacity(PIECE_BYTES + 64);
        for row in 0..column.len() {
            write_cell(&column, self.data_type, row, &mut bytes);
            if bytes.len() >= PIECE_BYTES {
                self.hasher.update(&bytes);
                bytes.clear();
            }
        }
        self.hasher.update(&bytes);
        Ok(())
    }
}

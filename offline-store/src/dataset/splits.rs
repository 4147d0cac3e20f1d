//! Splits: which of several named parts each row of a dataset belongs to, as a pure function of the row.
//!
//! Two ways to say them:
//!
//! | text | a row is in |
//! | -- | -- |
//! | `train=0.8,test=0.2` | the split that a hash of some of its columns falls into; the shares add up to 1 |
//! | `train<2026-01-01,valid<2026-02-01,test` | the first split whose time its own time lies before; the last one has no time |
//!
//! The hash is BLAKE3 of `"anabranch split 1"`, the seed as 8 bytes big-endian, and the cells of the columns as they are drawn in [`super::digest`], integers
//! of every width as `i64`. Its first 64 bits, big-endian, are a share of 2⁶⁴; the splits take theirs in order, in millionths. So rows that agree in the
//! columns (by default the join keys: all rows of an entity) are in one split, in every dataset and for ever.
//!
//! Refused: one split, two of one name, shares that do not add up to 1 or have more than 6 decimals, times that do not ascend, a column that no spine has.

use std::fmt;

use anabranch_core::types::{DataType, Scalar};
use anabranch_core::{Timestamp, name};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType as ArrowType, TimestampMicrosecondType};
use serde::{Deserialize, Serialize};

use super::cells::{canonical_type, write_cell};
use super::groups::Groups;
use super::{DatasetColumn, DatasetError};
use crate::join::JoinedRows;

const MAGIC: &[u8] = b"anabranch split 1";
const MILLION: u32 = 1_000_000;

/// How rows are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SplitRule {
    /// By a hash of columns.
    Hash {
        /// The columns.
        columns: Vec<String>,
        /// Another seed gives other splits.
        seed: u64,
        /// The share of each split, in millionths.
        shares: Vec<u32>,
    },
    /// By a column of times.
    Time {
        /// The column.
        column: String,
        /// Where each split but the last ends, in microseconds, excluded.
        bounds: Vec<Timestamp>,
    },
}

/// One split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Its name.
    pub name: String,
    /// How many rows it has.
    pub rows: u64,
}

/// The splits of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// How rows are told apart.
    pub rule: SplitRule,
    /// The splits, in the order of the rule.
    pub parts: Vec<Split>,
}

/// Splits as a caller asks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitSpec {
    text: String,
    columns: Vec<String>,
    seed: u64,
    names: Vec<String>,
    by: By,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum By {
    Shares(Vec<u32>),
    Bounds(Vec<Timestamp>),
}

impl SplitSpec {
    /// Reads splits as the module draws them; no columns means the join keys.
    ///
    /// # Errors
    /// [`DatasetError::Splits`], [`DatasetError::Name`].
    pub fn parse(text: &str, columns: Vec<String>, seed: u64) -> Result<Self, DatasetError> {
        let refuse = |reason: String| DatasetError::Splits { text: text.to_owned(), reason };
        let pieces: Vec<&str> = text.split(',').map(str::trim).collect();
        let (names, by) = if text.contains('=') { shares(&pieces) } else { bounds(&pieces) }.map_err(refuse)?;
        for (place, split) in names.iter().enumerate() {
            name::check("split", split)?;
            if names[..place].contains(split) {
                return Err(refuse(format!("there are two of the name {split:?}")));
            }
        }
        if names.len() < 2 {
            return Err(refuse("there must be at least two".to_owned()));
        }
        if matches!(by, By::Bounds(_)) && (!columns.is_empty() || seed != 0) {
            return Err(refuse("splits by time take no columns and no seed".to_owned()));
        }
        Ok(Self { text: text.to_owned(), columns, seed, names, by })
    }

    /// The rule for a dataset with these columns, whose spine has such join keys and times.
    ///
    /// # Errors
    /// [`DatasetError::Splits`] where there is no such column.
    pub fn rule(&self, spine: &[String], join_keys: &[String], time_column: &str) -> Result<SplitRule, DatasetError> {
        let shares = match &self.by {
            By::Bounds(bounds) => return Ok(SplitRule::Time { column: time_column.to_owned(), bounds: bounds.clone() }),
            By::Shares(shares) => shares.clone(),
        };
        let columns = if self.columns.is_empty() { join_keys.to_vec() } else { self.columns.clone() };
        match columns.iter().find(|column| !spine.contains(column)) {
            Some(missing) => {
                let reason = format!("the spine has no column {missing:?}; it has {}", spine.join(", "));
                Err(DatasetError::Splits { text: self.text.clone(), reason })
            }
            None => Ok(SplitRule::Hash { columns, seed: self.seed, shares }),
        }
    }

    /// The names of the splits.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl From<&Splits> for SplitSpec {
    fn from(splits: &Splits) -> Self {
        let names = splits.parts.iter().map(|split| split.name.clone()).collect();
        let (by, columns, seed) = match &splits.rule {
            SplitRule::Hash { columns, seed, shares } => (By::Shares(shares.clone()), columns.clone(), *seed),
            SplitRule::Time { bounds, .. } => (By::Bounds(bounds.clone()), Vec::new(), 0),
        };
        Self { text: splits.to_string(), columns, seed, names, by }
    }
}

/// As they were asked for.
impl fmt::Display for Splits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, split) in self.parts.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{}", split.name)?;
            match &self.rule {
                SplitRule::Hash { shares, .. } => {
                    let share = shares.get(place).copied().unwrap_or_default();
                    let decimals = format!("{:06}", share % MILLION);
                    let decimals = decimals.trim_end_matches('0');
                    write!(f, "={}{}{decimals}", share / MILLION, if decimals.is_empty() { "" } else { "." })?;
                }
                SplitRule::Time { bounds, .. } => bounds.get(place).map_or(Ok(()), |bound| write!(f, "<{bound}"))?,
            }
        }
        Ok(())
    }
}

fn shares(pieces: &[&str]) -> Result<(Vec<String>, By), String> {
    let (mut names, mut shares) = (Vec::new(), Vec::new());
    for piece in pieces {
        let (name, share) = piece.split_once('=').ok_or_else(|| format!("{piece:?} has no share; write it as train=0.8"))?;
        names.push(name.trim().to_owned());
        shares.push(millionths(share.trim()).ok_or_else(|| format!("{share:?} is no share above 0 of at most 6 decimals, such as 0.8"))?);
    }
    let sum: u64 = shares.iter().map(|share| u64::from(*share)).sum();
    if sum != u64::from(MILLION) {
        return Err(format!("the shares add up to {}.{:06}, not to 1", sum / u64::from(MILLION), sum % u64::from(MILLION)));
    }
    Ok((names, By::Shares(shares)))
}

/// A decimal number in (0, 1] without rounding.
fn millionths(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 6 || whole.len() > 1 || text.len() == whole.len() && whole.is_empty() {
        return None;
    }
    let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let decimals: u32 = format!("{decimals:0<6}").parse().ok()?;
    let share = whole.checked_mul(MILLION)?.checked_add(decimals)?;
    (1..=MILLION).contains(&share).then_some(share)
}

fn bounds(pieces: &[&str]) -> Result<(Vec<String>, By), String> {
    let (last, bounded) = pieces.split_last().ok_or("there is none")?;
    let (mut names, mut bounds) = (Vec::new(), Vec::<Timestamp>::new());
    for piece in bounded {
        let (name, time) = piece.split_once('<').ok_or_else(|| format!("{piece:?} has no time; write it as train<2026-01-01, or give shares"))?;
        let time: Timestamp = time.trim().parse().map_err(|error: anabranch_core::Error| error.to_string())?;
        if bounds.last().is_some_and(|before| *before >= time) {
            return Err(format!("{time} does not come after the time of the split before"));
        }
        names.push(name.trim().to_owned());
        bounds.push(time);
    }
    if last.contains('<') {
        return Err(format!("the last split, {last:?}, takes the rest and has no time"));
    }
    names.push((*last).to_owned());
    Ok((names, By::Bounds(bounds)))
}

impl Splits {
    /// Counts the rows of each split.
    ///
    /// # Errors
    /// As the rows are refused, and where the rule names a column that they have not.
    pub fn count(spec: &SplitSpec, rule: SplitRule, columns: &[DatasetColumn], rows: &JoinedRows) -> crate::Result<Self> {
        let mut parts: Vec<_> = spec.names.iter().map(|name| Split { name: name.clone(), rows: 0 }).collect();
        for group in Groups::new(columns.to_vec(), rows) {
            for split in rule.assign(&group?)? {
                parts[split].rows += 1;
            }
        }
        Ok(Self { rule, parts })
    }

    /// The names, in the order of the rule.
    pub fn names(&self) -> Vec<&str> {
        self.parts.iter().map(|split| split.name.as_str()).collect()
    }

    /// The place of a split.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.parts.iter().position(|split| split.name == name)
    }
}

impl SplitRule {
    /// The columns that it looks at.
    pub fn columns(&self) -> &[String] {
        match self {
            Self::Hash { columns, .. } => columns,
            Self::Time { column, .. } => std::slice::from_ref(column),
        }
    }

    /// The place of the split of each row; the batch has the rule's columns, in canonical form.
    ///
    /// # Errors
    /// [`DatasetError::Schema`] where it has not.
    pub fn assign(&self, batch: &RecordBatch) -> Result<Vec<usize>, DatasetError> {
        match self {
            Self::Time { column, bounds } => {
                let times = batch.column_by_name(column).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
                let times = times.ok_or(DatasetError::Schema)?;
                let place = |row| if times.is_null(row) { bounds.len() } else { bounds.partition_point(|bound| bound.micros() <= times.value(row)) };
                Ok((0..times.len()).map(place).collect())
            }
            Self::Hash { columns, seed, shares } => {
                let columns = columns.iter().map(|name| hashed(batch, name)).collect::<Result<Vec<_>, _>>()?;
                let mut bytes = Vec::new();
                Ok((0..batch.num_rows())
                    .map(|row| {
                        bytes.clear();
                        bytes.extend_from_slice(MAGIC);
                        bytes.extend(seed.to_be_bytes());
                        columns.iter().for_each(|(column, data_type)| write_cell(column, *data_type, row, &mut bytes));
                        of_share(&bytes, shares)
                    })
                    .collect())
            }
        }
    }
}

/// A column as it is hashed.
fn hashed(batch: &RecordBatch, name: &str) -> Result<(ArrayRef, DataType), DatasetError> {
    let column = batch.column_by_name(name).ok_or(DatasetError::Schema)?;
    match canonical_type(column.data_type()).ok_or(DatasetError::Schema)? {
        DataType::Scalar(Scalar::I32) => {
            let wide = cast(column, &ArrowType::Int64).map_err(|error| DatasetError::Rows { reason: error.to_string() })?;
            Ok((wide, DataType::Scalar(Scalar::I64)))
        }
        data_type => Ok((column.clone(), data_type)),
    }
}

fn of_share(bytes: &[u8], shares: &[u32]) -> usize {
    let hash = u128::from_be_bytes(blake3::hash(bytes).as_bytes().first_chunk().copied().unwrap_or_default()) >> 64;
    let at = (hash * u128::from(MILLION)) >> 64;
    let mut end = 0;
    let below = |share: &u32| {
        end += u128::from(*share);
        at < end
    };
    shares.iter().position(below).unwrap_or(shares.len().saturating_sub(1))
}

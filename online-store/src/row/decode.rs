//! From packed rows straight into packed columns.

use anabranch_core::packed::{Packer, Variable};
use anabranch_core::{DataType, Scalar};

use super::PackedRow;
use crate::layout::width;
use crate::{Error, Layout, Result};

/// Reads some fields of rows of one layout; fields that it lacks are null, and `i32` and `f32` are widened where `i64` and `f64` are wanted.
#[derive(Debug, Clone)]
pub struct RowReader {
    fingerprint: u64,
    null_bytes: usize,
    slot_bytes: usize,
    steps: Vec<Option<Step>>,
}

/// Where a wanted field lies.
#[derive(Debug, Clone, Copy)]
struct Step {
    field: usize,
    at: usize,
    width: Option<usize>,
    begins: Option<usize>,
    /// The type in the rows.
    from: DataType,
    /// The type of the column.
    to: DataType,
}

impl RowReader {
    /// Prepares to read `wanted`, field ids with the types that their columns are to have, from rows of `layout`.
    ///
    /// # Errors
    /// [`Error::Layout`] where a field has a type there that does not widen to the one wanted.
    pub fn new(layout: &Layout, wanted: &[(i32, DataType)]) -> Result<Self> {
        let step = |(id, want): &(i32, DataType)| {
            let Some(field) = layout.position(*id) else {
                return Ok(None);
            };
            let (_, data_type) = layout.fields()[field];
            if data_type != *want && !data_type.widens_to(*want) {
                let reason = format!("field {id} is {data_type} in it, which does not widen to {want}");
                return Err(Error::Layout { fingerprint: layout.fingerprint(), reason });
            }
            let slot = layout.slots()[field];
            Ok(Some(Step { field, at: slot.at, width: slot.width, begins: slot.begins, from: data_type, to: *want }))
        };
        let steps = wanted.iter().map(step).collect::<Result<_>>()?;
        Ok(Self { fingerprint: layout.fingerprint(), null_bytes: layout.null_bytes(), slot_bytes: layout.slot_bytes(), steps })
    }

    /// The layout whose rows are read.
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Puts the wanted fields of a row into a row of columns, from `first` on in their order, and calls `null` for each that has no value. A tombstone
    /// has none. Rows come in order.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the row is not of the layout; what was put stays, and the columns are of no use any more.
    pub fn read(&self, row: PackedRow<'_>, into: &mut Packer, first: usize, at: usize, mut null: impl FnMut(usize)) -> Result<()> {
        if row.is_tombstone() {
            return (0..self.steps.len()).try_for_each(|place| {
                null(place);
                Ok(into.skip(first + place)?)
            });
        }
        if row.fingerprint() != self.fingerprint {
            return Err(Error::corrupt_row("it is read by another layout than its own"));
        }
        let (nulls, rest) = row.body().split_at_checked(self.null_bytes).ok_or_else(cut_short)?;
        let (slots, heap) = rest.split_at_checked(self.slot_bytes).ok_or_else(cut_short)?;
        for (place, step) in self.steps.iter().enumerate() {
            match step {
                Some(step) if nulls[step.field / 8] & (1 << (step.field % 8)) == 0 => {
                    let value = step.value(slots, heap)?;
                    match into.cell(first + place, at) {
                        Some(cell) => step.copy(value, cell)?,
                        None => step.append(value, into.variable(first + place).ok_or_else(no_column)?)?,
                    }
                }
                _ => {
                    null(place);
                    into.skip(first + place)?;
                }
            }
        }
        Ok(())
    }
}

impl Step {
    fn value<'a>(&self, slots: &'a [u8], heap: &'a [u8]) -> Result<&'a [u8]> {
        if let Some(width) = self.width {
            return slots.get(self.at..self.at + width).ok_or_else(cut_short);
        }
        let begin = self.begins.map_or(Ok(0), |at| word(slots, at))?;
        let end = word(slots, self.at)?;
        heap.get(begin..end).ok_or_else(|| Error::corrupt_row("a value lies outside of the heap"))
    }

    /// Puts a value of one width into its cell.
    fn copy(&self, value: &[u8], cell: &mut [u8]) -> Result<()> {
        match (self.from, self.to) {
            (DataType::Scalar(from), DataType::Scalar(to)) if from != to => widen(from, value, |bytes| copy(bytes, cell)),
            (DataType::Scalar(Scalar::Bool), _) => {
                check_bool(value)?;
                copy(value, cell)
            }
            _ => copy(value, cell),
        }
    }

    /// Appends a value of varying width and ends its row.
    fn append(&self, value: &[u8], into: &mut Variable) -> Result<()> {
        match (self.from, self.to) {
            (DataType::List(from), DataType::List(to)) => append_items(from, to, value, into)?,
            (DataType::Scalar(scalar), _) => append_text(scalar, value, into)?,
            _ => return Err(Error::corrupt_row("a field is not of the type wanted")),
        }
        Ok(into.end_row()?)
    }
}

fn append_text(scalar: Scalar, value: &[u8], into: &mut Variable) -> Result<()> {
    if scalar == Scalar::String && std::str::from_utf8(value).is_err() {
        return Err(Error::corrupt_row("a string is not UTF-8"));
    }
    into.extend(value);
    Ok(())
}

fn append_items(from: Scalar, to: Scalar, value: &[u8], into: &mut Variable) -> Result<()> {
    if let Some(width) = width(from) {
        let items = value.chunks_exact(width);
        if !items.remainder().is_empty() {
            return Err(Error::corrupt_row("a list ends within an item"));
        }
        if from == Scalar::Bool {
            items.clone().try_for_each(check_bool)?;
        }
        if from == to {
            into.extend(value);
            return Ok(());
        }
        return items.into_iter().try_for_each(|item| {
            widen(from, item, |bytes| {
                into.extend(bytes);
                Ok(())
            })
        });
    }
    let count = word(value, 0)?;
    let ends = count.checked_mul(4).and_then(|bytes| value.get(4..4 + bytes)).ok_or_else(cut_short)?;
    let texts = &value[4 + ends.len()..];
    let mut begin = 0;
    for end in ends.as_chunks::<4>().0 {
        let end = u32::from_le_bytes(*end) as usize;
        append_text(from, texts.get(begin..end).ok_or_else(|| Error::corrupt_row("an item lies outside of its list"))?, into)?;
        into.end_item()?;
        begin = end;
    }
    Ok(())
}

/// Gives the bytes of a number in the wider type.
fn widen(from: Scalar, value: &[u8], put: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
    match from {
        Scalar::I32 => put(&i64::from(i32::from_le_bytes(chunk(value)?)).to_le_bytes()),
        Scalar::F32 => put(&f64::from(f32::from_le_bytes(chunk(value)?)).to_le_bytes()),
        _ => Err(Error::corrupt_row("a field is not of the type wanted")),
    }
}

fn copy(value: &[u8], cell: &mut [u8]) -> Result<()> {
    if let (Ok(value), Ok(cell)) = (<&[u8; 8]>::try_from(value), <&mut [u8; 8]>::try_from(&mut *cell)) {
        *cell = *value;
        return Ok(());
    }
    if value.len() != cell.len() {
        return Err(Error::corrupt_row(format!("a value has {} bytes where {} are wanted", value.len(), cell.len())));
    }
    cell.copy_from_slice(value);
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>).ok_or_else(cut_short)?;
    Ok(u32::from_le_bytes(*word) as usize)
}

fn chunk<const N: usize>(value: &[u8]) -> Result<[u8; N]> {
    value.try_into().map_err(|_| cut_short())
}

fn check_bool(value: &[u8]) -> Result<()> {
    match value {
        [0 | 1] => Ok(()),
        _ => Err(Error::corrupt_row("a bool is neither 0 nor 1")),
    }
}

fn cut_short() -> Error {
    Error::corrupt_row("it is cut short")
}

fn no_column() -> Error {
    Error::corrupt_row("it has more fields than there are columns")
}

//! Making the buffer.

use super::{cell_bytes, scalar_bytes};
use crate::{DataType, Error};

/// Fills packed columns: cells of fixed width in any order, the others row after row.
#[derive(Debug)]
pub struct Packer {
    values: Vec<u8>,
    columns: Vec<Column>,
}

#[derive(Debug)]
enum Column {
    /// Where the column begins and how wide a cell is.
    Fixed {
        at: usize,
        width: usize,
    },
    Variable(Box<Variable>),
}

/// A column whose cells are not of one width. Each row is ended once, in order.
#[derive(Debug)]
pub struct Variable {
    offsets: Vec<u32>,
    /// Offsets of the items of a list whose items are not of one width.
    items: Option<Vec<u32>>,
    /// Bytes of an offset's unit.
    unit: usize,
    bytes: Vec<u8>,
}

impl Packer {
    /// Columns of these types with so many rows, all zero and, where their width varies, without any row yet.
    pub fn new(types: impl IntoIterator<Item = DataType>, rows: usize) -> Self {
        let mut at = 0;
        let column = |data_type| match cell_bytes(data_type) {
            Some(width) => {
                let begin = at;
                at = (begin + rows * width).next_multiple_of(8);
                Column::Fixed { at: begin, width }
            }
            None => Column::Variable(Box::new(Variable::new(data_type, rows))),
        };
        let columns = types.into_iter().map(column).collect();
        Self { values: vec![0; at], columns }
    }

    /// The cell of a column of fixed width; `None` for another column, and where there is no such row.
    pub fn cell(&mut self, column: usize, row: usize) -> Option<&mut [u8]> {
        match self.columns.get(column) {
            Some(Column::Fixed { at, width }) => self.values.get_mut(at + row * width..)?.get_mut(..*width),
            _ => None,
        }
    }

    /// A column whose width varies.
    pub fn variable(&mut self, column: usize) -> Option<&mut Variable> {
        match self.columns.get_mut(column) {
            Some(Column::Variable(variable)) => Some(variable),
            _ => None,
        }
    }

    /// Leaves the next row of a column without a value.
    ///
    /// # Errors
    /// As [`Variable::end_row`].
    pub fn skip(&mut self, column: usize) -> Result<(), Error> {
        self.variable(column).map_or(Ok(()), Variable::end_row)
    }

    /// The buffer.
    pub fn finish(self) -> Vec<u8> {
        let mut values = self.values;
        for column in self.columns {
            let Column::Variable(column) = column else { continue };
            for part in std::iter::once(&column.offsets).chain(&column.items) {
                values.extend(part.iter().flat_map(|offset| offset.to_le_bytes()));
                pad(&mut values);
            }
            values.extend_from_slice(&column.bytes);
            pad(&mut values);
        }
        values
    }
}

fn pad(values: &mut Vec<u8>) {
    values.resize(values.len().next_multiple_of(8), 0);
}

impl Variable {
    fn new(data_type: DataType, rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        let (items, unit) = match data_type {
            DataType::List(scalar) => match scalar_bytes(scalar) {
                Some(width) => (None, width),
                None => (Some(vec![0]), 1),
            },
            _ => (None, 1),
        };
        Self { offsets, items, unit, bytes: Vec::new() }
    }

    /// Appends bytes to the row: of its text, or of an item.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Ends an item of a list of texts.
    ///
    /// # Errors
    /// [`Error::Malformed`] where an offset would pass 31 bits.
    pub fn end_item(&mut self) -> Result<(), Error> {
        let end = offset(self.bytes.len())?;
        if let Some(items) = &mut self.items {
            items.push(end);
        }
        Ok(())
    }

    /// Ends the row.
    ///
    /// # Errors
    /// [`Error::Malformed`] where an offset would pass 31 bits.
    pub fn end_row(&mut self) -> Result<(), Error> {
        let end = match &self.items {
            Some(items) => items.len() - 1,
            None => self.bytes.len() / self.unit,
        };
        self.offsets.push(offset(end)?);
        Ok(())
    }
}

fn offset(bytes: usize) -> Result<u32, Error> {
    let malformed =
        || Error::Malformed { what: "packed column", reason: format!("{bytes} bytes or items are too many for one column: ask for fewer rows") };
    i32::try_from(bytes).map(i32::cast_unsigned).map_err(|_| malformed())
}

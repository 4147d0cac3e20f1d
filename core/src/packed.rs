//! Packed columns: what a lookup found, in one buffer. It is made once, from rows straight into place, and is the answer on the wire, in a client's
//! Arrow columns and in NumPy without another form between.
//!
//! The columns of fixed width come first, in their order, then the others, in theirs. Numbers are little-endian; every part begins at a multiple of 8
//! bytes, filled up with zeros. With `n` rows:
//!
//! | type | parts |
//! | -- | -- |
//! | `bool` | `n` bytes, 0 or 1 |
//! | `i32`, `f32` | `n` × 4 bytes |
//! | `i64`, `f64`, `timestamp` (UTC microseconds) | `n` × 8 bytes |
//! | `vector<k>` | `n` × `k` × 4 bytes |
//! | `string`, `bytes` | `n + 1` offsets of 4 bytes, the first 0; the bytes |
//! | `list` of a fixed width | `n + 1` offsets in items; the items |
//! | `list<string>`, `list<bytes>` | `n + 1` offsets in items; an offset before each item and one behind the last; the bytes |
//!
//! Which rows have a value is told beside the buffer, by a status for each. Where there is none, the cell is zero, or empty.
//!
//! [`Packer`] makes the buffer, [`Sections`] finds its parts again. Any bytes are sections or are refused; none can panic.

mod pack;
mod sections;
#[cfg(test)]
mod tests;

pub use pack::{Packer, Variable};
pub use sections::{Cells, Section, Sections};

use crate::{DataType, Scalar};

/// Bytes of a cell; `None` where they vary.
pub const fn cell_bytes(data_type: DataType) -> Option<usize> {
    match data_type {
        DataType::Scalar(scalar) => scalar_bytes(scalar),
        DataType::Vector(n) => Some(4 * n as usize),
        DataType::List(_) => None,
    }
}

/// Bytes of a scalar; `None` where they vary.
pub const fn scalar_bytes(scalar: Scalar) -> Option<usize> {
    match scalar {
        Scalar::Bool => Some(1),
        Scalar::I32 | Scalar::F32 => Some(4),
        Scalar::I64 | Scalar::F64 | Scalar::Timestamp => Some(8),
        Scalar::String | Scalar::Bytes => None,
    }
}

//! Data types and typed columns.
//!
//! | type | spelled | Arrow | Iceberg |
//! | -- | -- | -- | -- |
//! | boolean | `bool` | `Boolean` | `boolean` |
//! | integers | `i32`, `i64` | `Int32`, `Int64` | `int`, `long` |
//! | floats | `f32`, `f64` | `Float32`, `Float64` | `float`, `double` |
//! | text | `string` | `Utf8` | `string` |
//! | bytes | `bytes` | `Binary` | `binary` |
//! | instant | `timestamp` | `Timestamp(µs, UTC)` | `timestamptz` |
//! | list of a scalar | `list<i64>` | `List` | `list` |
//! | fixed-size f32 vector | `vector<128>` | `FixedSizeList` of `Float32` | `list<float>` |

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes as arrow_types;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// The type of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scalar {
    /// True or false.
    Bool,
    /// Signed, 32 bits.
    I32,
    /// Signed, 64 bits.
    I64,
    /// IEEE 754, 32 bits.
    F32,
    /// IEEE 754, 64 bits.
    F64,
    /// UTF-8 text.
    String,
    /// Any bytes.
    Bytes,
    /// UTC microseconds.
    Timestamp,
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataType {
    /// One scalar.
    Scalar(Scalar),
    /// Any number of scalars, none of them null.
    List(Scalar),
    /// Exactly so many f32, none of them null.
    Vector(u32),
}

const SCALARS: [(&str, Scalar); 8] = [
    ("bool", Scalar::Bool),
    ("i32", Scalar::I32),
    ("i64", Scalar::I64),
    ("f32", Scalar::F32),
    ("f64", Scalar::F64),
    ("string", Scalar::String),
    ("bytes", Scalar::Bytes),
    ("timestamp", Scalar::Timestamp),
];

/// The longest vector.
pub const MAX_VECTOR: u32 = 65_536;

/// The time zone that our Arrow timestamps carry.
pub const UTC: &str = "UTC";

impl Scalar {
    /// How the type is spelled.
    pub fn name(self) -> &'static str {
        SCALARS.iter().find(|(_, scalar)| *scalar == self).map_or("", |(name, _)| name)
    }

    /// The Arrow type.
    pub fn to_arrow(self) -> arrow_types::DataType {
        match self {
            Self::Bool => arrow_types::DataType::Boolean,
            Self::I32 => arrow_types::DataType::Int32,
            Self::I64 => arrow_types::DataType::Int64,
            Self::F32 => arrow_types::DataType::Float32,
            Self::F64 => arrow_types::DataType::Float64,
            Self::String => arrow_types::DataType::Utf8,
            Self::Bytes => arrow_types::DataType::Binary,
            Self::Timestamp => arrow_types::DataType::Timestamp(arrow_types::TimeUnit::Microsecond, Some(UTC.into())),
        }
    }

    /// Whether a join key may have this type.
    pub const fn is_key(self) -> bool {
        !matches!(self, Self::F32 | Self::F64)
    }

    /// Whether every value of this type has exactly one of type `to`, so that a column may be widened without loss.
    pub const fn widens_to(self, to: Self) -> bool {
        matches!((self, to), (Self::I32, Self::I64) | (Self::F32, Self::F64))
    }
}

impl DataType {
    /// The Arrow type; items of lists and vectors are named `element` and not nullable.
    pub fn to_arrow(self) -> arrow_types::DataType {
        let item = |scalar: Scalar| Arc::new(arrow_types::Field::new("element", scalar.to_arrow(), false));
        match self {
            Self::Scalar(scalar) => scalar.to_arrow(),
            Self::List(scalar) => arrow_types::DataType::List(item(scalar)),
            Self::Vector(n) => arrow_types::DataType::FixedSizeList(item(Scalar::F32), i32::try_from(n).unwrap_or(i32::MAX)),
        }
    }

    /// Whether a column of this type may become one of type `to` without loss (Iceberg's promotions).
    pub const fn widens_to(self, to: Self) -> bool {
        match (self, to) {
            (Self::Scalar(from), Self::Scalar(to)) | (Self::List(from), Self::List(to)) => from.widens_to(to),
            _ => false,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(scalar) => f.write_str(scalar.name()),
            Self::List(scalar) => write!(f, "list<{}>", scalar.name()),
            Self::Vector(n) => write!(f, "vector<{n}>"),
        }
    }
}

impl FromStr for DataType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let scalar = |name: &str| SCALARS.iter().find(|(known, _)| *known == name).map(|(_, scalar)| *scalar);
        let inner = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('>'));
        let parsed = if let Some(item) = inner("list<") {
            scalar(item.trim()).map(Self::List)
        } else if let Some(size) = inner("vector<") {
            size.trim().parse().ok().filter(|n| (1..=MAX_VECTOR).contains(n)).map(Self::Vector)
        } else {
            scalar(text).map(Self::Scalar)
        };
        parsed.ok_or_else(|| Error::Parse {
            what: "data type",
            text: text.to_owned(),
            hint: "it is one of bool, i32, i64, f32, f64, string, bytes, timestamp, list<…> of these, vector<1..65536>".to_owned(),
        })
    }
}

impl Serialize for DataType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DataType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_as_they_are_spelled() {
        for text in ["bool", "i32", "i64", "f32", "f64", "string", "bytes", "timestamp", "list<string>", "vector<128>"] {
            assert_eq!(text.parse::<DataType>().unwrap().to_string(), text);
        }
        for bad in ["", "int", "list<list<i64>>", "vector<0>", "vector<65537>", "list<i64", "f16"] {
            assert!(bad.parse::<DataType>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_lossless_changes_widen() {
        let widens = |a: &str, b: &str| a.parse::<DataType>().unwrap().widens_to(b.parse().unwrap());
        assert!(widens("i32", "i64") && widens("f32", "f64") && widens("list<i32>", "list<i64>"));
        assert!(!widens("i64", "i32") && !widens("i64", "f64") && !widens("vector<3>", "vector<4>") && !widens("i32", "list<i32>"));
    }
}

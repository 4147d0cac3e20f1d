//! One value, and its JSON form.
//!
//! In JSON, bytes are base64, timestamps RFC 3339 (or integer microseconds on the way in), and the floats that JSON cannot spell are the strings
//! `"NaN"`, `"Infinity"` and `"-Infinity"`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value as Json;

use crate::types::{DataType, Scalar};
use crate::{Error, Timestamp};

/// A value of some [`DataType`], or null.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// `bool`.
    Bool(bool),
    /// `i32`.
    I32(i32),
    /// `i64`.
    I64(i64),
    /// `f32`.
    F32(f32),
    /// `f64`.
    F64(f64),
    /// `string`.
    String(String),
    /// `bytes`.
    Bytes(Vec<u8>),
    /// `timestamp`.
    Timestamp(Timestamp),
    /// `list<…>`; no element is null or a list.
    List(Vec<Value>),
    /// `vector<n>`.
    Vector(Vec<f32>),
}

impl Value {
    /// Whether this is null.
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Reads a JSON value as one of type `data_type`; JSON's null is null.
    ///
    /// # Errors
    /// [`Error::Type`] where the JSON value is of another type or does not fit. Nothing is rounded or cut: `1.5` is no integer, `300` no `bool`.
    pub fn from_json(data_type: DataType, json: &Json) -> Result<Self, Error> {
        if json.is_null() {
            return Ok(Self::Null);
        }
        match (data_type, json) {
            (DataType::Scalar(scalar), _) => scalar_from_json(scalar, json),
            (DataType::List(scalar), Json::Array(items)) => {
                items.iter().map(|item| scalar_from_json(scalar, item)).collect::<Result<_, _>>().map(Self::List)
            }
            (DataType::Vector(n), Json::Array(items)) if items.len() == n as usize => {
                let float = |item: &Json| match scalar_from_json(Scalar::F32, item)? {
                    Self::F32(x) => Ok(x),
                    _ => Err(mismatch("f32", item)),
                };
                items.iter().map(float).collect::<Result<_, _>>().map(Self::Vector)
            }
            _ => Err(mismatch(&data_type.to_string(), json)),
        }
    }

    /// The JSON form.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::I32(i) => Json::from(*i),
            Self::I64(i) => Json::from(*i),
            Self::F32(x) => f32_to_json(*x),
            Self::F64(x) => float_to_json(*x),
            Self::String(s) => Json::String(s.clone()),
            Self::Bytes(b) => Json::String(BASE64_STANDARD.encode(b)),
            Self::Timestamp(t) => Json::String(t.to_string()),
            Self::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Self::Vector(items) => Json::Array(items.iter().map(|x| f32_to_json(*x)).collect()),
        }
    }
}

/// The JSON form of a float: a number, or the name of what JSON cannot spell.
pub fn float_to_json(x: f64) -> Json {
    serde_json::Number::from_f64(x).map_or_else(|| Json::String(unspellable(x).to_owned()), Json::Number)
}

fn f32_to_json(x: f32) -> Json {
    // The shortest text that reads back as this f32, rather than the long one of the f64 that equals it.
    x.to_string().parse::<f64>().map_or(Json::Null, float_to_json)
}

fn unspellable(x: f64) -> &'static str {
    if x.is_nan() {
        "NaN"
    } else if x > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

fn scalar_from_json(scalar: Scalar, json: &Json) -> Result<Value, Error> {
    let fail = || mismatch(scalar.name(), json);
    match (scalar, json) {
        (Scalar::Bool, Json::Bool(b)) => Ok(Value::Bool(*b)),
        (Scalar::I32, Json::Number(n)) => n.as_i64().and_then(|i| i32::try_from(i).ok()).map(Value::I32).ok_or_else(fail),
        (Scalar::I64, Json::Number(n)) => n.as_i64().map(Value::I64).ok_or_else(fail),
        (Scalar::F32, _) => {
            float_from_json(json).filter(|x| (*x as f32).is_finite() || !x.is_finite()).map(|x| Value::F32(x as f32)).ok_or_else(fail)
        }
        (Scalar::F64, _) => float_from_json(json).map(Value::F64).ok_or_else(fail),
        (Scalar::String, Json::String(s)) => Ok(Value::String(s.clone())),
        (Scalar::Bytes, Json::String(s)) => BASE64_STANDARD.decode(s).map(Value::Bytes).map_err(|_| fail()),
        (Scalar::Timestamp, Json::String(s)) => s.parse().map(Value::Timestamp).map_err(|_| fail()),
        (Scalar::Timestamp, Json::Number(n)) => n.as_i64().map(|us| Value::Timestamp(Timestamp(us))).ok_or_else(fail),
        _ => Err(fail()),
    }
}

fn float_from_json(json: &Json) -> Option<f64> {
    match json {
        Json::Number(n) => n.as_f64(),
        Json::String(s) => match s.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn mismatch(expected: &str, json: &Json) -> Error {
    let mut found = json.to_string();
    if found.chars().count() > 60 {
        found = found.chars().take(59).collect::<String>() + "…";
    }
    Error::Type { expected: expected.to_owned(), found }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(data_type: &str, json: Json) -> Result<Value, Error> {
        Value::from_json(data_type.parse().unwrap(), &json)
    }

    #[test]
    fn values_read_as_they_are_written() {
        for (data_type, json) in [
            ("bool", json!(true)),
            ("i32", json!(-7)),
            ("i64", json!(9_007_199_254_740_993_i64)),
            ("f32", json!(0.1)),
            ("f64", json!("NaN")),
            ("string", json!("hä")),
            ("bytes", json!("AAEC")),
            ("timestamp", json!("2013-01-01T05:00:00Z")),
            ("list<i64>", json!([1, 2])),
            ("vector<2>", json!([0.5, "Infinity"])),
            ("i64", Json::Null),
        ] {
            assert_eq!(read(data_type, json.clone()).unwrap().to_json(), json, "{data_type}");
        }
    }

    #[test]
    fn nothing_is_rounded_cut_or_guessed() {
        for (data_type, json) in [
            ("i32", json!(3_000_000_000_i64)),
            ("i64", json!(1.5)),
            ("i64", json!("1")),
            ("bool", json!(1)),
            ("string", json!(1)),
            ("f32", json!(1e300)),
            ("list<i64>", json!([1, null])),
            ("vector<3>", json!([1, 2])),
            ("bytes", json!("%")),
            ("timestamp", json!("noon")),
        ] {
            assert!(read(data_type, json).is_err(), "{data_type}");
        }
    }
}

//! Comma-separated values (RFC 4180) with a header line, parsed by the types of the view.
//!
//! An empty field is null; in a column of text `""` is the empty text. Numbers are decimal, a whole float is an integer; bools are `true` and `false`
//! in any case; times are RFC 3339 or without a zone, taken as UTC; bytes are base64; lists and vectors are JSON arrays. Records may span lines within
//! quotes. A byte order mark is skipped, and so are blank lines.

use std::io::BufRead;

use anabranch_core::definition::ViewLayout;
use anabranch_core::{DataType, Error as CoreError, Position, Scalar, Value};
use bytes::Bytes;
use serde_json::Value as Json;

use super::arrow_batch::role;
use super::rows::RowsBuilder;
use super::{Decoded, OriginalFormat, Originals, SCHEMA, failure};
use crate::wal::RecordKind;
use crate::{Error, Result};

/// A record longer than this is a file that is no CSV, or a quote that has no end.
const MAX_RECORD: usize = 16 << 20;

/// Reads the records of a file.
pub(super) struct CsvRows {
    file: String,
    reader: Box<dyn BufRead + Send>,
    header: Bytes,
    /// For each column of the file its place in the view; `None` for one that is ignored.
    columns: Vec<Option<usize>>,
    /// The lines read so far.
    line: u64,
}

/// A field, and whether it stood in quotes.
#[derive(Debug, PartialEq, Eq)]
struct Field {
    text: String,
    quoted: bool,
}

impl CsvRows {
    pub(super) fn open(layout: &ViewLayout, file: &str, reader: Box<dyn BufRead + Send>, ignore_unknown: bool) -> Result<Self> {
        let mut rows = Self { file: file.to_owned(), reader, header: Bytes::new(), columns: Vec::new(), line: 0 };
        let header = rows.record()?.ok_or_else(|| Error::file(file, "it is empty: a CSV file begins with a header line"))?;
        let fields = split(header.strip_prefix('\u{feff}').unwrap_or(&header)).map_err(|reason| Error::file(file, format!("line 1: {reason}")))?;
        rows.columns = columns(layout, &fields, ignore_unknown).map_err(|reason| Error::file(file, reason))?;
        rows.header = Bytes::from(header + "\n");
        Ok(rows)
    }

    /// At most `limit` rows; `None` at the end.
    pub(super) fn read(&mut self, layout: &ViewLayout, limit: usize, first: Position) -> Result<Option<Decoded>> {
        let mut builder = RowsBuilder::new(layout);
        let mut texts = Vec::new();
        while texts.len() < limit {
            let Some(record) = self.record()? else { break };
            self.row(layout, &record, &mut builder);
            builder.end_row();
            texts.push(Bytes::from(record));
        }
        if texts.is_empty() {
            return Ok(None);
        }
        let originals = Originals::Texts { format: OriginalFormat::Csv, header: self.header.clone(), rows: texts };
        builder.finish(RecordKind::Rows, first, originals).map(Some)
    }

    fn row(&self, layout: &ViewLayout, record: &str, builder: &mut RowsBuilder<'_>) {
        let row = builder.row();
        let fields = match split(record) {
            Ok(fields) => fields,
            Err(reason) => return builder.verdicts.add(row, failure(SCHEMA, "", reason)),
        };
        if fields.len() != self.columns.len() {
            let reason = format!("the record has {} fields, and the header {}", fields.len(), self.columns.len());
            return builder.verdicts.add(row, failure(SCHEMA, "", reason));
        }
        for (field, column) in fields.iter().zip(&self.columns) {
            if let Some(column) = column {
                builder.set(*column, parse(layout.columns()[*column].data_type, field));
            }
        }
    }

    /// The next record without its line end; blank lines are skipped.
    fn record(&mut self) -> Result<Option<String>> {
        let mut raw = Vec::new();
        let begins = self.line + 1;
        loop {
            let before = raw.len();
            let limit = (MAX_RECORD - before) as u64;
            let read = std::io::Read::take(&mut self.reader, limit).read_until(b'\n', &mut raw);
            let read = read.map_err(|error| Error::file(&self.file, format!("it cannot be read: {error}")))?;
            self.line += 1;
            let open = raw.iter().filter(|byte| **byte == b'"').count() % 2 == 1;
            if raw.len() >= MAX_RECORD || (read == 0 && open) {
                return Err(Error::file(
                    &self.file,
                    format!("the record that begins in line {begins} has a quote without an end, or is over 16 MiB"),
                ));
            }
            if read == 0 && raw.is_empty() {
                return Ok(None);
            }
            if open && read > 0 {
                continue;
            }
            let end = raw.strip_suffix(b"\n").map_or(raw.len(), |line| line.strip_suffix(b"\r").unwrap_or(line).len());
            raw.truncate(end);
            if raw.is_empty() && read > 0 {
                continue;
            }
            let text = String::from_utf8(raw).map_err(|_| {
                Error::file(&self.file, format!("the record that begins in line {begins} is not UTF-8: convert the file, with iconv for example"))
            })?;
            return Ok(Some(text));
        }
    }
}

/// The place in the view of each column of the header.
fn columns(layout: &ViewLayout, fields: &[Field], ignore_unknown: bool) -> Result<Vec<Option<usize>>, String> {
    let (view, known) = (layout.name(), layout.columns());
    let mut columns: Vec<Option<usize>> = Vec::with_capacity(fields.len());
    for field in fields {
        let place = known.iter().position(|column| column.name == field.text.trim());
        if place.is_none() && !ignore_unknown {
            return Err(format!("feature view {view:?} has no column {:?}: leave it out, add it to the view, or ignore unknown columns", field.text));
        }
        if place.is_some() && columns.contains(&place) {
            return Err(format!("column {:?} is there twice: rename one", field.text));
        }
        columns.push(place);
    }
    for (place, column) in known.iter().enumerate() {
        if !column.nullable() && !columns.contains(&Some(place)) {
            return Err(format!("{} column {:?} of feature view {view:?} is missing", role(column), column.name));
        }
    }
    Ok(columns)
}

/// The fields of a record.
fn split(record: &str) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    let mut rest = record;
    loop {
        let after = if let Some(quoted) = rest.strip_prefix('"') {
            let (text, after) = unquote(quoted).ok_or_else(|| format!("field {} has a quote without an end", fields.len() + 1))?;
            fields.push(Field { text, quoted: true });
            after
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            fields.push(Field { text: rest[..end].to_owned(), quoted: false });
            &rest[end..]
        };
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err(format!("field {} goes on behind its closing quote", fields.len())),
        }
    }
}

fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut rest = quoted;
    loop {
        let quote = rest.find('"')?;
        text.push_str(&rest[..quote]);
        match rest[quote + 1..].strip_prefix('"') {
            Some(after) => {
                text.push('"');
                rest = after;
            }
            None => return Some((text, &rest[quote + 1..])),
        }
    }
}

fn parse(data_type: DataType, field: &Field) -> Result<Value, CoreError> {
    if data_type == DataType::Scalar(Scalar::String) {
        return Ok(if field.text.is_empty() && !field.quoted { Value::Null } else { Value::String(field.text.clone()) });
    }
    let text = field.text.trim();
    if text.is_empty() {
        return Ok(Value::Null);
    }
    let unlike = || CoreError::Type { expected: data_type.to_string(), found: format!("{text:?}") };
    match data_type {
        DataType::Scalar(Scalar::Bool) if text.eq_ignore_ascii_case("true") => Ok(Value::Bool(true)),
        DataType::Scalar(Scalar::Bool) if text.eq_ignore_ascii_case("false") => Ok(Value::Bool(false)),
        DataType::Scalar(Scalar::I32) => integer(text).and_then(|i| i32::try_from(i).ok()).map(Value::I32).ok_or_else(unlike),
        DataType::Scalar(Scalar::I64) => integer(text).map(Value::I64).ok_or_else(unlike),
        DataType::Scalar(Scalar::F32) => {
            let parsed = text.parse::<f32>().ok().filter(|x| x.is_finite() || !text.parse::<f64>().is_ok_and(f64::is_finite));
            parsed.map(Value::F32).ok_or_else(unlike)
        }
        DataType::Scalar(Scalar::F64) => text.parse().map(Value::F64).map_err(|_| unlike()),
        DataType::Scalar(Scalar::Timestamp) => text.parse().map(Value::Timestamp),
        DataType::Scalar(Scalar::Bytes) => Value::from_json(data_type, &Json::String(text.to_owned())),
        DataType::List(_) | DataType::Vector(_) => {
            let json: Json = serde_json::from_str(text).map_err(|_| unlike())?;
            Value::from_json(data_type, &json)
        }
        DataType::Scalar(Scalar::Bool | Scalar::String) => Err(unlike()),
    }
}

/// An integer, also where it is written as a whole float: pandas writes integers so in a column that has nulls.
fn integer(text: &str) -> Option<i64> {
    let whole = text.split_once('.').filter(|(_, zeros)| zeros.bytes().all(|byte| byte == b'0')).map_or(text, |(whole, _)| whole);
    whole.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(record: &str) -> Vec<String> {
        split(record).unwrap().into_iter().map(|field| field.text).collect()
    }

    #[test]
    fn fields_are_split_at_commas_outside_quotes() {
        assert_eq!(texts(r#"a,"b,""c""",,d"#), ["a", r#"b,"c""#, "", "d"]);
        assert_eq!(texts(""), [""]);
        assert!(split(r#""a"b,c"#).is_err());
        assert!(split(r#""a"#).is_err());
    }

    #[test]
    fn cells_parse_by_the_type_of_their_column_or_not_at_all() {
        let cell = |data_type: &str, text: &str| parse(data_type.parse().unwrap(), &Field { text: text.to_owned(), quoted: false });
        assert_eq!(cell("i64", "7.0").unwrap(), Value::I64(7));
        assert_eq!(cell("i32", " -7 ").unwrap(), Value::I32(-7));
        assert_eq!(cell("bool", "True").unwrap(), Value::Bool(true));
        assert_eq!(cell("f64", "").unwrap(), Value::Null);
        assert_eq!(cell("vector<2>", "[1, 2]").unwrap(), Value::Vector(vec![1.0, 2.0]));
        assert_eq!(cell("timestamp", "2013-01-01 05:00:00").unwrap(), cell("timestamp", "2013-01-01T05:00:00Z").unwrap());
        for (data_type, text) in [("i64", "7.5"), ("i32", "3000000000"), ("bool", "1"), ("f64", "x"), ("timestamp", "20130101"), ("f32", "1e300")] {
            assert!(cell(data_type, text).is_err(), "{data_type} {text}");
        }
    }

    #[test]
    fn an_empty_text_in_quotes_is_a_text() {
        let text = "string".parse().unwrap();
        assert_eq!(parse(text, &Field { text: String::new(), quoted: true }).unwrap(), Value::String(String::new()));
        assert_eq!(parse(text, &Field { text: String::new(), quoted: false }).unwrap(), Value::Null);
    }
}

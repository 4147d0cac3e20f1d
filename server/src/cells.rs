//! Cells of a lookup's answer as JSON, written into one buffer without a value of its own for each.
//!
//! In our own style bytes are base64, times RFC 3339, and floats that JSON cannot spell are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, as
//! [`anabranch_core::Value::to_json`] writes them. In Feast's, times are whole seconds, and such floats are the bare words that Python reads.

use anabranch_core::Timestamp;
use anabranch_core::packed::{Cells, Section};
use anabranch_core::types::{DataType, Scalar};
use anabranch_online_store::Status;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

/// How values are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Ours.
    Anabranch,
    /// That of Feast's feature server.
    Feast,
}

/// Writes the values of a column as an array; null where the status of a row says that there is none.
pub(crate) fn write_values(out: &mut Vec<u8>, style: Style, section: &Section, values: &[u8], statuses: &[u8]) {
    write_array(out, statuses.iter().enumerate(), |out, (row, status)| match *status == Status::Present as u8 {
        true => write_cell(out, style, section, values, row),
        false => out.extend(b"null"),
    });
}

/// Writes a cell that has a value; null where the section has no such row.
fn write_cell(out: &mut Vec<u8>, style: Style, section: &Section, values: &[u8], row: usize) {
    match (section.data_type, section.cell(values, row)) {
        (DataType::Scalar(scalar), Some(Cells::Fixed(cell))) => write_scalar(out, style, scalar, cell),
        (DataType::List(scalar), Some(Cells::Fixed(cells))) => write_items(out, style, scalar, cells),
        (DataType::Vector(_), Some(Cells::Fixed(cells))) => write_items(out, style, Scalar::F32, cells),
        (DataType::List(scalar), Some(Cells::Texts(offsets, bytes))) => {
            let ends: Vec<_> = offsets.as_chunks::<4>().0.iter().map(|end| u32::from_le_bytes(*end) as usize).collect();
            let texts = ends.windows(2).map(|pair| bytes.get(pair[0]..pair[1]).unwrap_or_default());
            write_array(out, texts, |out, text| write_scalar(out, style, scalar, text));
        }
        _ => out.extend(b"null"),
    }
}

/// Writes arrays of statuses, which are nearly always those of the feature before: what was written for them is copied.
#[derive(Debug)]
pub(crate) struct Statuses<'a> {
    name: fn(Option<Status>) -> &'static [u8],
    before: &'a [u8],
    written: Vec<u8>,
}

impl<'a> Statuses<'a> {
    /// `name` gives a status as it is spelled, in quotes.
    pub(crate) const fn new(name: fn(Option<Status>) -> &'static [u8]) -> Self {
        Self { name, before: &[], written: Vec::new() }
    }

    pub(crate) fn write(&mut self, out: &mut Vec<u8>, statuses: &'a [u8]) {
        if self.written.is_empty() || self.before != statuses {
            self.written.clear();
            write_array(&mut self.written, statuses, |out, status| out.extend_from_slice((self.name)(Status::of_byte(*status))));
            self.before = statuses;
        }
        out.extend_from_slice(&self.written);
    }
}

/// Writes an array whose items `write` writes.
pub(crate) fn write_array<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// Writes what serde knows how to.
pub(crate) fn write_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let before = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        // Writing to memory does not fail; a half-written value would.
        out.truncate(before);
        out.extend(b"null");
    }
}

fn write_items(out: &mut Vec<u8>, style: Style, scalar: Scalar, cells: &[u8]) {
    let width = anabranch_core::packed::scalar_bytes(scalar).unwrap_or(1);
    write_array(out, cells.chunks_exact(width), |out, cell| write_scalar(out, style, scalar, cell));
}

fn write_scalar(out: &mut Vec<u8>, style: Style, scalar: Scalar, cell: &[u8]) {
    match scalar {
        Scalar::Bool => out.extend(if cell.first().is_some_and(|byte| *byte != 0) { &b"true"[..] } else { b"false" }),
        Scalar::I32 => write_json(out, &i32::from_le_bytes(word(cell))),
        Scalar::I64 => write_json(out, &i64::from_le_bytes(word(cell))),
        Scalar::F32 => match f32::from_le_bytes(word(cell)) {
            x if x.is_finite() => write_json(out, &x),
            x => write_unspellable(out, style, f64::from(x)),
        },
        Scalar::F64 => match f64::from_le_bytes(word(cell)) {
            x if x.is_finite() => write_json(out, &x),
            x => write_unspellable(out, style, x),
        },
        Scalar::Timestamp => match (style, i64::from_le_bytes(word(cell))) {
            (Style::Anabranch, us) => write_time(out, us),
            (Style::Feast, us) => write_json(out, &us.div_euclid(1_000_000)),
        },
        // Strings were UTF-8 when the row was read.
        Scalar::String => write_json(out, std::str::from_utf8(cell).unwrap_or_default()),
        Scalar::Bytes => write_json(out, &BASE64_STANDARD.encode(cell)),
    }
}

fn word<const N: usize>(cell: &[u8]) -> [u8; N] {
    cell.first_chunk().copied().unwrap_or([0; N])
}

fn write_unspellable(out: &mut Vec<u8>, style: Style, x: f64) {
    let name = if x.is_nan() {
        "NaN"
    } else if x > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    };
    match style {
        Style::Anabranch => write_json(out, name),
        Style::Feast => out.extend(name.as_bytes()),
    }
}

/// Writes a time in UTC microseconds as RFC 3339, in quotes, as [`Timestamp`] displays it.
pub(crate) fn write_time(out: &mut Vec<u8>, us: i64) {
    let (seconds, micros) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000) as u32);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
    let Some((year, month, day)) = civil(days) else {
        return write_json(out, &Timestamp(us).to_string());
    };
    out.push(b'"');
    digits::<4>(out, year);
    for (before, number) in [(b'-', month), (b'-', day), (b'T', second / 3_600), (b':', second / 60 % 60), (b':', second % 60)] {
        out.push(before);
        digits::<2>(out, number);
    }
    if micros > 0 {
        out.push(b'.');
        if micros.is_multiple_of(1_000) { digits::<3>(out, micros / 1_000) } else { digits::<6>(out, micros) }
    }
    out.extend(b"Z\"");
}

/// Year, month and day of a day counted from 1970, for the years that have four digits. (Hinnant, "chrono-compatible low-level date algorithms".)
fn civil(days: i64) -> Option<(u32, u32, u32)> {
    let day = u64::try_from(days.checked_add(719_468)?).ok()?;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (1..=9_999).contains(&year).then_some((year as u32, month as u32, (of_year - (153 * shifted + 2) / 5 + 1) as u32))
}

fn digits<const N: usize>(out: &mut Vec<u8>, mut number: u32) {
    let mut text = [b'0'; N];
    for place in text.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend(text);
}

#[cfg(test)]
mod tests {
    use anabranch_core::Value;
    use anabranch_core::packed::{Packer, Sections};
    use serde_json::Value as Json;

    use super::*;

    fn of(data_type: &str, style: Style, fill: impl FnOnce(&mut Packer)) -> String {
        let data_type: DataType = data_type.parse().unwrap();
        let mut packer = Packer::new([data_type], 1);
        fill(&mut packer);
        let values = packer.finish();
        let mut out = Vec::new();
        write_cell(&mut out, style, &Sections::new(&[data_type], 1, &values).unwrap().columns()[0], &values, 0);
        String::from_utf8(out).unwrap()
    }

    fn fixed(data_type: &str, style: Style, cell: &[u8]) -> String {
        of(data_type, style, |packer| packer.cell(0, 0).unwrap().copy_from_slice(cell))
    }

    #[test]
    fn values_are_spelled_as_they_are_everywhere() {
        let time = Timestamp(1_704_067_200_123_000);
        for (data_type, cell, value) in [
            ("bool", vec![1], Value::Bool(true)),
            ("i32", (-7_i32).to_le_bytes().to_vec(), Value::I32(-7)),
            ("i64", i64::MIN.to_le_bytes().to_vec(), Value::I64(i64::MIN)),
            ("f32", 0.1_f32.to_le_bytes().to_vec(), Value::F32(0.1)),
            ("f64", 1e-300_f64.to_le_bytes().to_vec(), Value::F64(1e-300)),
            ("f64", f64::NEG_INFINITY.to_le_bytes().to_vec(), Value::F64(f64::NEG_INFINITY)),
            ("f32", f32::NAN.to_le_bytes().to_vec(), Value::F32(f32::NAN)),
            ("timestamp", time.micros().to_le_bytes().to_vec(), Value::Timestamp(time)),
            ("vector<2>", [0.5_f32.to_le_bytes(), 2_f32.to_le_bytes()].concat(), Value::Vector(vec![0.5, 2.0])),
        ] {
            let json: Json = serde_json::from_str(&fixed(data_type, Style::Anabranch, &cell)).unwrap();
            assert_eq!(json, value.to_json(), "{data_type}");
        }
        assert_eq!(fixed("timestamp", Style::Feast, &time.micros().to_le_bytes()), "1704067200");
        assert_eq!(fixed("f64", Style::Feast, &f64::NAN.to_le_bytes()), "NaN");
    }

    #[test]
    fn texts_and_lists_are_spelled_item_by_item() {
        let text = |text: &'static [u8]| {
            move |packer: &mut Packer| {
                packer.variable(0).unwrap().extend(text);
                packer.skip(0).unwrap();
            }
        };
        assert_eq!(of("string", Style::Anabranch, text("h\"ä\n".as_bytes())), "\"h\\\"ä\\n\"");
        assert_eq!(of("bytes", Style::Anabranch, text(&[0, 1, 2])), "\"AAEC\"");
        assert_eq!(of("list<i32>", Style::Anabranch, text(&[1, 0, 0, 0, 255, 255, 255, 255])), "[1,-1]");
        let list = of("list<string>", Style::Anabranch, |packer| {
            let column = packer.variable(0).unwrap();
            for item in ["a", "", "bc"] {
                column.extend(item.as_bytes());
                column.end_item().unwrap();
            }
            column.end_row().unwrap();
        });
        assert_eq!(list, r#"["a","","bc"]"#);
    }

    #[test]
    fn statuses_are_those_of_their_feature_whatever_was_before() {
        let name = |status: Option<Status>| if status == Some(Status::Present) { &b"1"[..] } else { b"0" };
        let (mut statuses, mut out) = (Statuses::new(name), Vec::new());
        for row in [&[][..], &[], &[1, 1], &[1, 1], &[1, 3], &[1], &[0]] {
            statuses.write(&mut out, row);
        }
        assert_eq!(String::from_utf8(out).unwrap(), "[][][1,1][1,1][1,0][1][0]");
    }

    #[test]
    fn times_are_spelled_as_core_spells_them() {
        let day = 86_400_000_000_i64;
        let odd = [i64::MIN, i64::MAX, 0, -1, 1, 123_000, 951_782_400_000_000, 951_868_800_000_000, 253_402_300_799_999_999, 253_402_300_800_000_000];
        let days = (-800_000..3_000_000).step_by(997).map(|number| number * day + number);
        for us in odd.into_iter().chain(days) {
            let mut out = Vec::new();
            write_time(&mut out, us);
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{}\"", Timestamp(us)), "{us}");
        }
    }
}

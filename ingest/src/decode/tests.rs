use std::io::Write as _;
use std::sync::Arc;

use anabranch_core::columns::value_at;
use anabranch_core::definition::{Definition, Definitions, Entity, FeatureView};
use anabranch_core::{DataType, ErrorKind, Kinded, Scalar, Timestamp, Value};
use arrow::array::{Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;

use super::*;
use crate::wal::NewRecord;

fn layout(known: bool) -> Arc<ViewLayout> {
    let scalar = DataType::Scalar;
    let mut view = FeatureView::new("weather", "hour").entity("airport").field("temp", scalar(Scalar::F64)).field("n", scalar(Scalar::I32));
    if known {
        view = view.known_timestamp("known");
    }
    let definitions: Definitions =
        [Definition::Entity(Entity::new("airport", "origin", Scalar::String)), Definition::FeatureView(view)].into_iter().collect();
    definitions.layout("weather").unwrap()
}

fn record(format: PayloadFormat, kind: RecordKind, rows: u32, payload: impl Into<Bytes>) -> LogRecord {
    let push = NewRecord { view: "weather".into(), kind, format, rows, key: None, payload: payload.into() };
    LogRecord { first: Position::new(10).unwrap(), arrival: Timestamp(99), push }
}

fn cell(decoded: &Decoded, column: usize, row: usize) -> Value {
    value_at(decoded.batch.column(column), layout(false).columns()[column].data_type, row).unwrap()
}

fn failures(decoded: &Decoded) -> Vec<(usize, Vec<(&str, &str)>)> {
    decoded.verdicts.failures().map(|(row, failures)| (row, failures.iter().map(|f| (f.check.as_str(), f.column.as_str())).collect())).collect()
}

fn source_batch() -> RecordBatch {
    let hours = TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("UTC");
    RecordBatch::try_from_iter_with_nullable([
        ("hour", Arc::new(hours) as ArrayRef, false),
        ("origin", Arc::new(StringArray::from(vec![Some("JFK"), None])) as ArrayRef, true),
        ("temp", Arc::new(Float64Array::from(vec![1.5, 2.5])) as ArrayRef, false),
        ("n", Arc::new(Int64Array::from(vec![7, 1 << 40])) as ArrayRef, false),
    ])
    .unwrap()
}

#[test]
fn json_rows_are_taken_as_they_are_and_what_is_wrong_is_told_row_by_row() {
    let payload = r#" [ {"origin":"JFK","hour":"2013-01-01T05:00:00Z","temp":39.02} ,
        {"origin":"LGA","hour":"2013-01-01T05:00:00Z","temp":"warm","rain":1},
        {"hour":"2013-01-01T05:00:00Z"}, 7 ]"#;
    assert_eq!(count_rows(PayloadFormat::Json, &Bytes::from(payload)).unwrap(), 4);
    let decoded = decode_record(&layout(false), &record(PayloadFormat::Json, RecordKind::Rows, 4, payload));
    assert_eq!(
        failures(&decoded),
        [(1, vec![("_schema", "rain"), ("_type", "temp")]), (2, vec![("_schema", "origin")]), (3, vec![("_schema", "")]),]
    );
    assert_eq!((cell(&decoded, 0, 0), cell(&decoded, 2, 0), cell(&decoded, 3, 0)), (Value::String("JFK".into()), Value::F64(39.02), Value::Null));
    assert_eq!(cell(&decoded, 2, 1), Value::Null);
    assert_eq!(decoded.originals.row(3).unwrap(), (OriginalFormat::Json, Bytes::from_static(b"7")));
    assert_eq!(decoded.position(2).get(), 12);
}

#[test]
fn objects_one_or_many_are_rows_and_other_json_is_refused_before_it_is_logged() {
    assert_eq!(count_rows(PayloadFormat::Json, &Bytes::from_static(b"{\"a\":1}")).unwrap(), 1);
    assert_eq!(count_rows(PayloadFormat::Json, &Bytes::from_static(b"{\"a\":1}\n{}\n\n{}\n")).unwrap(), 3);
    for bad in ["", "[]", "7", "\"x\"", "[{}", "{}\n{", "[{},]"] {
        assert_eq!(count_rows(PayloadFormat::Json, &Bytes::from(bad)).unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad}");
    }
}

#[test]
fn arrow_rows_are_conformed_and_quarantine_gets_the_row_as_it_came() {
    let payload = arrow_batch::encode(&source_batch()).unwrap();
    assert_eq!(count_rows(PayloadFormat::Arrow, &payload).unwrap(), 2);
    let decoded = decode_record(&layout(false), &record(PayloadFormat::Arrow, RecordKind::Rows, 2, payload));
    assert_eq!(failures(&decoded), [(1, vec![("_type", "n")])]);
    assert_eq!((cell(&decoded, 3, 0), cell(&decoded, 3, 1), cell(&decoded, 0, 1)), (Value::I32(7), Value::Null, Value::Null));
    let (format, bytes) = decoded.originals.row(1).unwrap();
    assert_eq!(format, OriginalFormat::Arrow);
    assert_eq!(arrow_batch::read(&bytes).unwrap(), [source_batch().slice(1, 1)]);
    assert_eq!(decoded.batch.schema(), nullable_schema(&layout(false)));
}

#[test]
fn a_payload_that_does_not_decode_fails_every_row_and_is_kept_once() {
    let decoded = decode_record(&layout(false), &record(PayloadFormat::Arrow, RecordKind::Rows, 3, "nonsense"));
    assert_eq!(decoded.batch.num_rows(), 3);
    assert_eq!(decoded.verdicts.failed_rows(), 3);
    assert_eq!(decoded.verdicts.of_row(2)[0].check, PAYLOAD);
    assert_eq!(decoded.originals.row(0).unwrap().1, "nonsense");
    assert!(decoded.originals.row(1).unwrap().1.is_empty());
    let fewer = decode_record(&layout(false), &record(PayloadFormat::Json, RecordKind::Rows, 2, "[{}]"));
    assert_eq!((fewer.batch.num_rows(), fewer.verdicts.failed_rows()), (2, 2));
}

#[test]
fn rows_of_a_view_that_does_not_exist_keep_their_originals() {
    let (failures, originals) = of_unknown_view(&record(PayloadFormat::Json, RecordKind::Rows, 2, "[{},{\"a\":1}]"));
    assert_eq!((failures.len(), failures[1].check.as_str()), (2, VIEW));
    assert_eq!(originals.row(1).unwrap().1, "{\"a\":1}");
}

#[test]
fn a_tombstone_needs_key_and_event_time_and_is_known_when_it_arrived() {
    let payload = r#"[{"origin":"JFK","hour":5},{"origin":"LGA","hour":5,"known":6},{"origin":"EWR"}]"#;
    let layout = layout(true);
    let decoded = decode_record(&layout, &record(PayloadFormat::Json, RecordKind::Tombstones, 3, payload));
    assert_eq!(failures(&decoded), [(2, vec![("_schema", "hour")])]);
    let known = |row| value_at(decoded.batch.column(2), layout.columns()[2].data_type, row).unwrap();
    assert_eq!((known(0), known(1)), (Value::Timestamp(Timestamp(99)), Value::Timestamp(Timestamp(6))));
    let rows = decode_record(&layout, &record(PayloadFormat::Json, RecordKind::Rows, 1, r#"{"origin":"JFK","hour":5}"#));
    assert_eq!(self::failures(&rows), [(0, vec![("_schema", "known")])]);
}

fn read(name: &str, content: impl Into<Bytes>, options: &FileOptions) -> Result<Vec<Decoded>> {
    let input = FileInput::Bytes { name: name.to_owned(), bytes: content.into() };
    open_file(&layout(false), &input, options)?.collect()
}

fn parquet() -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), source_batch().schema(), None).unwrap();
    writer.write(&source_batch()).unwrap();
    writer.into_inner().unwrap()
}

const CSV: &str =
    "\u{feff}origin,hour,temp,n\r\nJFK,2013-01-01T05:00:00Z,39.02,1\r\n\r\n\"L\"\"GA\nx\",2013-01-01 06:00:00,,2.0\nEWR,yesterday,1,x\nEWR,1\n";

#[test]
fn csv_is_parsed_by_the_schema_of_the_view() {
    for batch_rows in [1, 2, 100] {
        let batches = read("w.csv", CSV, &FileOptions { batch_rows, ..FileOptions::default() }).unwrap();
        let rows: usize = batches.iter().map(|decoded| decoded.batch.num_rows()).sum();
        assert_eq!(rows, 4);
        let of_row = |wanted: usize| {
            let decoded = batches.iter().find(|d| (d.first.get() as usize..d.first.get() as usize + d.batch.num_rows()).contains(&wanted)).unwrap();
            (decoded, wanted - decoded.first.get() as usize)
        };
        let (decoded, row) = of_row(1);
        assert_eq!(cell(decoded, 0, row), Value::String("L\"GA\nx".into()));
        assert_eq!((cell(decoded, 2, row), cell(decoded, 3, row)), (Value::Null, Value::I32(2)));
        let (decoded, row) = of_row(2);
        assert_eq!(decoded.verdicts.of_row(row).iter().map(|f| f.column.as_str()).collect::<Vec<_>>(), ["hour", "n"]);
        assert_eq!(decoded.originals.row(row).unwrap(), (OriginalFormat::Csv, Bytes::from("\u{feff}origin,hour,temp,n\nEWR,yesterday,1,x")));
        let (decoded, row) = of_row(3);
        assert_eq!(decoded.verdicts.of_row(row)[0].check, SCHEMA);
    }
}

#[test]
fn parquet_and_json_lines_give_the_same_rows_as_csv() {
    let from_parquet = read("w.parquet", parquet(), &FileOptions::default()).unwrap();
    assert_eq!((from_parquet.len(), cell(&from_parquet[0], 3, 0)), (1, Value::I32(7)));
    assert_eq!(failures(&from_parquet[0]), [(1, vec![("_type", "n")])]);
    let lines = "{\"origin\":\"JFK\",\"hour\":1,\"temp\":1.5,\"n\":7}\n\n{\"origin\":null,\"hour\":2\nnot json";
    let decoded = &read("w.jsonl", lines, &FileOptions::default()).unwrap()[0];
    assert_eq!(decoded.batch.slice(0, 1), from_parquet[0].batch.slice(0, 1));
    assert_eq!(failures(decoded), [(1, vec![("_payload", "")]), (2, vec![("_payload", "")])]);
}

#[test]
fn a_file_on_disk_reads_and_hashes_as_its_bytes_do() {
    let mut file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
    file.write_all(CSV.as_bytes()).unwrap();
    let input = FileInput::Path(file.path().to_owned());
    assert_eq!(input.content_hash().unwrap(), *blake3::hash(CSV.as_bytes()).as_bytes());
    let rows = open_file(&layout(false), &input, &FileOptions::default()).unwrap().collect::<Result<Vec<_>>>().unwrap();
    assert_eq!(rows[0].batch, read("w.csv", CSV, &FileOptions::default()).unwrap()[0].batch);
    assert!(FileInput::Path("/no/such.csv".into()).content_hash().is_err());
}

#[test]
fn a_file_that_cannot_be_rows_is_refused_with_its_name_and_what_to_do() {
    let latin = b"origin,hour\nJ\xfcl,1\n".to_vec();
    let truncated = parquet()[..200].to_vec();
    let middle = {
        let mut bytes = parquet();
        bytes.truncate(bytes.len() - 9);
        bytes
    };
    let cases: [(&str, Vec<u8>, &str); 10] = [
        ("a.csv", latin, "line 2 is not UTF-8: convert the file"),
        ("b.parquet", truncated, "truncated"),
        ("c.parquet", middle, "truncated"),
        ("d.csv", b"hour,temp\n".to_vec(), "key column \"origin\""),
        ("e.csv", b"origin,temp\n".to_vec(), "event time column \"hour\""),
        ("f.csv", b"origin,hour,rain\n".to_vec(), "no column \"rain\": leave it out"),
        ("g.csv", b"origin,hour,hour\n".to_vec(), "twice"),
        ("h.csv", b"origin,hour\n\"a,1\n".to_vec(), "quote without an end"),
        ("i.csv", Vec::new(), "empty"),
        ("j.txt", b"x".to_vec(), "does not tell its format"),
    ];
    for (name, content, says) in cases {
        let error = read(name, content, &FileOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().starts_with(name) && error.to_string().contains(says), "{name}: {error}");
    }
    let ignoring = FileOptions { ignore_unknown: true, ..FileOptions::default() };
    assert_eq!(read("f.csv", "origin,hour,rain\nJFK,2013-01-01,wet\n", &ignoring).unwrap()[0].verdicts.failed_rows(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_damaged_arrow_payload_is_refused_or_read_but_never_a_panic(at in 0usize..2000, flip in 1u8..) {
        let mut payload = arrow_batch::encode(&source_batch()).unwrap().to_vec();
        let at = at % payload.len();
        payload[at] ^= flip;
        let payload = Bytes::from(payload);
        if let Ok(rows) = count_rows(PayloadFormat::Arrow, &payload) {
            let decoded = decode_record(&layout(false), &record(PayloadFormat::Arrow, RecordKind::Rows, rows, payload));
            prop_assert_eq!(decoded.batch.num_rows(), rows as usize);
        }
    }

    #[test]
    fn a_json_payload_is_split_where_serde_would(items in proptest::collection::vec("(\\{\"a\":\\[1,\"\\\\\\\\,\\]\"\\]\\}|7|null|\"x,\\]\"|\\[\\])", 1..6), space in "[ \n]{0,2}", cut in 0usize..40) {
        let text = format!("{space}[{}]{space}", items.join(&format!("{space},{space}")));
        let rows = json::split(&Bytes::from(text.clone())).unwrap();
        prop_assert_eq!(&rows, &items);
        // Whatever is missing or too much, serde and the splitter agree on whether it is JSON.
        let damaged: String = text.chars().enumerate().filter(|(i, _)| *i != cut).map(|(_, c)| c).collect();
        let whole = serde_json::from_str::<Vec<serde_json::Value>>(&damaged).is_ok_and(|rows| !rows.is_empty());
        if damaged.trim_start().starts_with('[') {
            prop_assert_eq!(count_rows(PayloadFormat::Json, &Bytes::from(damaged.clone())).is_ok(), whole, "{}", damaged);
        }
    }

    #[test]
    fn any_text_is_csv_or_refused(text in "[a\",\n\r0-9]{0,60}") {
        let content = format!("origin,hour\n{text}");
        let _ = read("x.csv", content, &FileOptions::default());
    }
}

//! Rows in files on this side: a spine that is read, a dataset that is written.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek};
use std::path::Path;
use std::sync::Arc;

use anabranch_client::{Reader, Table};
use anabranch_core::definition::FileFormat;
use arrow::csv;
use arrow::json;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::error::Error;

/// How many rows of a text file are looked at to find the types of its columns.
const ROWS_INFERRED: usize = 10_000;

/// The format that a name's ending tells.
pub(crate) fn format_of(path: &Path) -> Result<FileFormat, Error> {
    match path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("parquet" | "pq") => Ok(FileFormat::Parquet),
        Some("csv") => Ok(FileFormat::Csv),
        Some("jsonl" | "ndjson" | "json") => Ok(FileFormat::JsonLines),
        _ => Err(Error::file(path, "the ending tells no format; name it .parquet, .csv or .jsonl")),
    }
}

/// Opens a file of rows. Types of text files are inferred.
pub(crate) fn read(path: &Path) -> Result<Reader, Error> {
    let format = format_of(path)?;
    let file = File::open(path).map_err(|error| Error::file(path, error))?;
    let failed = |error: &dyn std::fmt::Display| Error::file(path, error);
    Ok(match format {
        FileFormat::Parquet => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(&error))?;
            Box::new(builder.build().map_err(|error| failed(&error))?)
        }
        FileFormat::Csv => {
            let mut file = BufReader::new(file);
            let inferred = csv::reader::Format::default().with_header(true).infer_schema(&mut file, Some(ROWS_INFERRED));
            let (schema, _) = inferred.map_err(|error| failed(&error))?;
            file.rewind().map_err(|error| failed(&error))?;
            Box::new(csv::ReaderBuilder::new(Arc::new(schema)).with_header(true).build(file).map_err(|error| failed(&error))?)
        }
        FileFormat::JsonLines => {
            let mut file = BufReader::new(file);
            let inferred = json::reader::infer_json_schema(&mut file, Some(ROWS_INFERRED));
            let (schema, _) = inferred.map_err(|error| failed(&error))?;
            file.rewind().map_err(|error| failed(&error))?;
            Box::new(json::ReaderBuilder::new(Arc::new(schema)).build(file).map_err(|error| failed(&error))?)
        }
    })
}

/// Writes a table to a file, under a name of its own until it is whole.
pub(crate) fn write(path: &Path, table: &Table) -> Result<(), Error> {
    let format = format_of(path)?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(".part");
    let draft = Path::new(&draft);
    let written = File::create(draft).map_err(|error| error.to_string()).and_then(|file| write_as(format, BufWriter::new(file), table));
    let whole = written.and_then(|()| std::fs::rename(draft, path).map_err(|error| error.to_string()));
    whole.map_err(|reason| {
        // The file is of no use to anyone; the failure that is told is why it is not whole.
        let _ = std::fs::remove_file(draft);
        Error::file(path, reason)
    })
}

fn write_as(format: FileFormat, file: BufWriter<File>, table: &Table) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut file = match format {
        FileFormat::Parquet => {
            let properties = WriterProperties::builder().set_compression(Compression::ZSTD(Default::default())).build();
            let mut writer = ArrowWriter::try_new(file, Arc::clone(&table.schema), Some(properties)).map_err(|error| text(&error))?;
            table.batches.iter().try_for_each(|batch| writer.write(batch)).map_err(|error| text(&error))?;
            writer.into_inner().map_err(|error| text(&error))?
        }
        FileFormat::Csv => {
            let mut writer = csv::Writer::new(file);
            table.batches.iter().try_for_each(|batch| writer.write(batch)).map_err(|error| text(&error))?;
            writer.into_inner()
        }
        FileFormat::JsonLines => {
            let mut writer = json::LineDelimitedWriter::new(file);
            table.batches.iter().try_for_each(|batch| writer.write(batch)).map_err(|error| text(&error))?;
            writer.finish().map_err(|error| text(&error))?;
            writer.into_inner()
        }
    };
    std::io::Write::flush(&mut file).map_err(|error| text(&error))
}

/// A table as JSON, one object a line.
pub(crate) fn json_lines(table: &Table) -> Result<Vec<u8>, Error> {
    let mut writer = json::LineDelimitedWriter::new(Vec::new());
    let written = table.batches.iter().try_for_each(|batch| writer.write(batch)).and_then(|()| writer.finish());
    written.map_err(|error| Error::Output(std::io::Error::other(error)))?;
    Ok(writer.into_inner())
}

/// A table's cells for people.
pub(crate) fn cells(table: &Table) -> Result<Vec<Vec<String>>, Error> {
    let options = FormatOptions::default().with_null("null");
    let failed = |error| Error::Output(std::io::Error::other(error));
    let mut rows = Vec::with_capacity(table.rows());
    for batch in &table.batches {
        let formatters = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let formatters = formatters.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        rows.extend((0..batch.num_rows()).map(|row| formatters.iter().map(|column| column.value(row).to_string()).collect()));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;

    #[test]
    fn a_spine_in_csv_has_numbers_and_times() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spine.csv");
        std::fs::write(&path, "origin,flight,event_timestamp\nJFK,1,2013-01-01T05:00:00Z\nLGA,2,2013-01-02 06:00:00Z\n").unwrap();
        let spine = read(&path).unwrap();
        let schema = spine.schema();
        assert_eq!(schema.field(1).data_type(), &DataType::Int64);
        assert!(matches!(schema.field(2).data_type(), DataType::Timestamp(..)), "{schema}");
        assert_eq!(spine.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);
    }

    #[test]
    fn what_is_written_in_any_format_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("a.csv");
        std::fs::write(&source, "k,x\na,1.5\nb,\n").unwrap();
        let reader = read(&source).unwrap();
        let table = Table { schema: reader.schema(), batches: reader.collect::<Result<_, _>>().unwrap() };
        for name in ["b.parquet", "b.csv", "b.jsonl"] {
            let path = folder.path().join(name);
            write(&path, &table).unwrap();
            let again = read(&path).unwrap();
            let again = Table { schema: again.schema(), batches: again.collect::<Result<_, _>>().unwrap() };
            assert_eq!(cells(&again).unwrap(), [["a", "1.5"], ["b", "null"]], "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_file_that_is_not_of_its_format_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spine.parquet");
        std::fs::write(&path, "PAR1").unwrap();
        assert!(read(&path).err().unwrap().to_string().contains("spine.parquet"));
        assert!(read(&folder.path().join("spine")).err().unwrap().to_string().contains("tells no format"));
    }
}

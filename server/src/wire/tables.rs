//! Tables as files.

use anabranch_offline_store::{Compaction, CompactionOutcome, TableFile};
use anabranch_proto::v1;
use serde_json::{Value as Json, json};

pub(crate) fn compacted(done: Compaction) -> v1::CompactedTable {
    v1::CompactedTable {
        namespace: done.table.namespace.name().to_owned(),
        outcome: done.outcome.name().to_owned(),
        reason: match done.outcome {
            CompactionOutcome::Superseded(reason) => reason,
            _ => String::new(),
        },
        name: done.table.name,
        commits: done.commits.iter().map(ToString::to_string).collect(),
        files_before: done.files_before,
        files_after: done.files_after,
        bytes_before: done.bytes_before,
        bytes_after: done.bytes_after,
        rows: done.rows,
    }
}

pub(crate) fn compacted_json(done: Compaction) -> Json {
    let v1::CompactedTable { namespace, name, outcome, reason, commits, files_before, files_after, bytes_before, bytes_after, rows } =
        compacted(done);
    json!({
        "namespace": namespace, "name": name, "outcome": outcome, "reason": reason, "commits": commits, "files_before": files_before,
        "files_after": files_after, "bytes_before": bytes_before, "bytes_after": bytes_after, "rows": rows,
    })
}

pub(crate) fn file(file: TableFile) -> v1::TableFile {
    let fill = file.fill.map(|fill| v1::TableFileFill {
        arrival_us: fill.arrival.micros(),
        source: fill.source.get(),
        first_position: fill.first_position.get(),
    });
    v1::TableFile { location: file.location, rows: file.rows, bytes: file.bytes, fill }
}

pub(crate) fn file_json(file: TableFile) -> Json {
    let fill =
        file.fill.map(|fill| json!({"arrival": fill.arrival.to_string(), "source": fill.source.get(), "first_position": fill.first_position.get()}));
    json!({"location": file.location, "rows": file.rows, "bytes": file.bytes, "fill": fill})
}

//! Saved datasets for people.

use anabranch_client::SavedDataset;
use anabranch_core::Timestamp;
use serde_json::Value as Json;

use crate::error::Error;
use crate::output::{Output, cell};

/// How many digits of a hash are shown where it is one of many things.
const SHORT: usize = 12;

fn spec(saved: &SavedDataset) -> &Json {
    &saved.manifest["spec"]
}

fn short(hash: &Json) -> String {
    hash.as_str().unwrap_or_default().chars().take(SHORT).collect()
}

fn time(micros: &Json) -> String {
    Timestamp(micros.as_i64().unwrap_or_default()).to_string()
}

/// A number, time or text, with no more digits than a person reads.
fn value(json: &Json) -> String {
    match json {
        Json::Null => "-".to_owned(),
        Json::Number(number) if number.is_f64() => number.as_f64().map_or_else(String::new, number_text),
        other => cell(other),
    }
}

fn number_text(x: f64) -> String {
    let digits = if x == 0.0 || (1e-3..1e6).contains(&x.abs()) { format!("{x:.4}") } else { return format!("{x:.4e}") };
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Each name with its splits and where it came from, a line each.
pub(super) fn list(saved: &[SavedDataset], output: &mut Output) -> Result<(), Error> {
    let row = |saved: &SavedDataset| {
        let spec = spec(saved);
        let splits = split_list(spec).iter().map(|(name, rows)| format!("{name} {rows}")).collect::<Vec<_>>().join(", ");
        vec![
            saved.name.clone(),
            spec["rows"].to_string(),
            spec["columns"].as_array().map_or(0, Vec::len).to_string(),
            short(&spec["content_digest"]),
            short(&spec["commit"]),
            time(&spec["created"]),
            if splits.is_empty() { "-".to_owned() } else { splits },
        ]
    };
    let rows: Vec<_> = saved.iter().map(row).collect();
    output.table(&["name", "rows", "columns", "content", "commit", "created", "splits"], &rows)
}

fn split_list(spec: &Json) -> Vec<(String, u64)> {
    let split = |split: &Json| (split["name"].as_str().unwrap_or_default().to_owned(), split["rows"].as_u64().unwrap_or_default());
    spec["splits"]["parts"].as_array().map(|parts| parts.iter().map(split).collect()).unwrap_or_default()
}

/// The names of a dataset's splits.
pub(super) fn splits(saved: &SavedDataset) -> Vec<String> {
    split_list(spec(saved)).into_iter().map(|(name, _)| name).collect()
}

/// One line about what was saved.
pub(super) fn saved(saved: &SavedDataset) -> String {
    let spec = spec(saved);
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    format!("{}: {} rows from commit {}, content digest {}", saved.name, spec["rows"], text("commit"), text("content_digest"))
}

/// The same with what was joined again.
pub(super) fn refreshed(saved: &SavedDataset) -> String {
    let (spec, line) = (spec(saved), self::saved(saved));
    match spec["base"]["reason"].as_str() {
        Some(reason) => format!("{line}; all rows joined again, because {reason}"),
        None => format!("{line}; {} of {} rows joined again", spec["base"]["recomputed"], spec["rows"]),
    }
}

fn origin(spine: &Json) -> String {
    match spine.as_object().and_then(|spine| spine.iter().next()) {
        Some((kind, of)) => match kind.as_str() {
            "events" => format!("every event of view {}", value(of)),
            "file" => format!("file {}", value(of)),
            _ => format!("{kind} {}", value(of)),
        },
        None => "a caller's table".to_owned(),
    }
}

/// What a dataset is, and what its columns are like.
pub(super) fn manifest(saved: &SavedDataset, output: &mut Output) -> Result<(), Error> {
    let spec = spec(saved);
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    let parts = spec["parts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bytes: u64 = parts.iter().filter_map(|part| part["bytes"].as_u64()).sum();
    let features = match spec["selection"]["service"].as_str() {
        Some(service) => format!("service {service}"),
        None => spec["selection"]["features"].as_array().map(|all| all.iter().map(value).collect::<Vec<_>>().join(", ")).unwrap_or_default(),
    };
    let knowledge = match &spec["options"]["knowledge"] {
        Json::Object(at) => time(&at["at"]),
        named => value(named),
    };
    let mut facts = vec![
        ("name", saved.name.clone()),
        ("rows", spec["rows"].to_string()),
        ("content digest", text("content_digest")),
        ("commit", text("commit")),
        ("definitions", text("definitions")),
        ("created", time(&spec["created"])),
        ("spine", format!("{}, digest {}", origin(&spec["spine"]), short(&spec["spine_digest"]))),
        ("time column", text("time_column")),
        ("features", features),
        ("knowledge", knowledge),
        ("strict", spec["options"]["strict"].to_string()),
        ("stored", if parts.is_empty() { "manifest only".to_owned() } else { format!("{} parts, {bytes} bytes", parts.len()) }),
    ];
    if let Some(base) = spec["base"].as_object() {
        let recomputed = format!("{} of {} rows joined again", base["recomputed"], spec["rows"]);
        let why = base.get("reason").and_then(Json::as_str).map(|reason| format!(", because {reason}")).unwrap_or_default();
        facts.push(("refresh of", format!("{}, {recomputed}{why}", value(&base["name"]))));
    }
    for (name, rows) in split_list(spec) {
        facts.push(("split", format!("{name}, {rows} rows")));
    }
    output.facts(&facts)?;
    output.line("")?;
    columns(spec, output)
}

fn columns(spec: &Json, output: &mut Output) -> Result<(), Error> {
    let columns = spec["columns"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |(place, column): (usize, &Json)| {
        let of = &spec["statistics"][place];
        let median = &of["quantiles"][2];
        let cells = [&column["name"], &column["type"], &of["nulls"], &of["distinct"], &of["min"], median, &of["max"], &of["mean"], &of["stddev"]];
        cells.iter().map(|cell| value(cell)).collect()
    };
    let rows: Vec<Vec<String>> = columns.iter().enumerate().map(row).collect();
    output.table(&["column", "type", "nulls", "distinct", "min", "median", "max", "mean", "stddev"], &rows)
}

/// What differs between two datasets.
pub(super) fn diff(diff: &Json, output: &mut Output) -> Result<(), Error> {
    let (left, right) = (&diff["left"], &diff["right"]);
    let sides = |field: &str| format!("{} -> {}", value(&left[field]), value(&right[field]));
    let content = if diff["same_content"] == true { "the same".to_owned() } else { sides("content_digest") };
    output.facts(&[("datasets", sides("name")), ("commits", sides("commit")), ("rows", sides("rows")), ("content", content)])?;
    let list = |field: &str| diff[field].as_array().map(Vec::as_slice).unwrap_or_default();
    for change in list("request") {
        output.line(&format!("request: {} {} -> {}", value(&change["path"]), value(&change["left"]), value(&change["right"])))?;
    }
    for definition in list("definitions") {
        let fields = definition["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
        let named: Vec<_> = fields.iter().map(|of| format!("{} {} -> {}", value(&of["path"]), value(&of["left"]), value(&of["right"]))).collect();
        let named = if named.is_empty() { String::new() } else { format!(": {}", named.join(", ")) };
        output.line(&format!("{} {} {}{named}", value(&definition["kind"]), value(&definition["name"]), value(&definition["change"])))?;
    }
    for view in list("data") {
        let taken = if view["rows_taken_away"] == true { ", and rows taken away" } else { "" };
        output.line(&format!("data: view {} has {} rows more{taken}", value(&view["view"]), view["rows_added"]))?;
    }
    output.line("")?;
    let row = |column: &Json| {
        let sides = |field: &str| format!("{} -> {}", value(&column["left"][field]), value(&column["right"][field]));
        let moved = |field: &str| if column["left"][field] == column["right"][field] { value(&column["left"][field]) } else { sides(field) };
        let mut row = vec![value(&column["name"]), value(&column["change"])];
        row.extend(["nulls", "distinct", "mean", "stddev"].map(moved));
        row.extend([value(&column["psi"]), value(&column["ks"])]);
        row
    };
    let rows: Vec<_> = list("columns").iter().map(row).collect();
    output.table(&["column", "change", "nulls", "distinct", "mean", "stddev", "psi", "ks"], &rows)
}

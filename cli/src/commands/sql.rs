//! `sql`: a query over the feature views at a ref.

use std::path::PathBuf;

use anabranch_client::Client;
use clap::Args;
use serde_json::json;

use crate::error::Error;
use crate::files;
use crate::output::Output;

/// Queries the feature views at a ref, which are the tables, by their names. Only a SELECT is allowed; nothing is changed.
#[derive(Debug, Args)]
pub(crate) struct Sql {
    /// The query, such as "SELECT user_id, max(total) FROM spend GROUP BY user_id"
    #[arg(value_name = "QUERY")]
    query: String,
    /// Where to write the rows: .parquet, .csv or .jsonl [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) async fn sql(client: &Client, sql: Sql, output: &mut Output) -> Result<(), Error> {
    // An ending that tells no format is better told before the work than after it.
    sql.output.as_deref().map(files::format_of).transpose()?;
    let table = client.query(&sql.query).await?;
    let Some(path) = sql.output else {
        if output.is_json() {
            return output.bytes(&files::json_lines(&table)?);
        }
        let headers: Vec<_> = table.schema.fields().iter().map(|field| field.name().as_str()).collect();
        return output.table(&headers, &files::cells(&table)?);
    };
    files::write(&path, &table)?;
    let reply = json!({"output": path.display().to_string(), "rows": table.rows()});
    output.value(&reply, |output| output.line(&format!("{}: {} rows", path.display(), table.rows())))
}

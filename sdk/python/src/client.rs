//! The calls of the client, each as a [`Call`] that has not been started.
//!
//! A client belongs to the process that made it: after a fork its connection would be shared with the parent, so it refuses to work in the child.

use std::path::PathBuf;
use std::time::Duration;

use anabranch_client::{
    BatchesQuery, BulkOptions, Changes, Client, ClientConfig, DatasetQuery, Definition, DiffQuery, Error, FileFormat, FileOptions, HistoricalQuery,
    Launcher, LogQuery, MergeOptions, OnlineFeatures, OnlineQuery, PushOptions, ReadQuery, Reader, ReplayOptions, ResetOptions, Rows, SavedDataset,
    SavedQuery, Selection, ServerSpine, ShowQuery, SplitQuery, Strategy, Timestamp,
};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use serde::Serialize;

use crate::batches::NativeBatches;
use crate::calls::{Call, Reply};
use crate::definitions::kind_of;
use crate::errors::{invalid, raised};
use crate::input::{batch, reader};
use crate::objects::NativeObjects;
use crate::output::{NativeTable, json_to_python};

/// A connection to a server, about one repository and ref.
#[pyclass(frozen, name = "Client", module = "anabranch._anabranch")]
pub(crate) struct NativeClient {
    client: Client,
    owner: u32,
}

/// How a Python interpreter starts a server.
pub(crate) fn launcher(program: PathBuf) -> Launcher {
    Launcher { args: vec!["-m".into(), "anabranch".into()], ..Launcher::new(program) }
}

/// Connects to a server.
#[pyfunction]
pub(crate) fn connect(address: String, timeout: Duration, author: String, page_size: u32) -> Call {
    let config = ClientConfig { timeout, author, page_size, ..ClientConfig::default() };
    Call::new(async move { Client::connect_with(&address, config).await.map(made) })
}

/// Joins the server of a folder, or starts a private one with a Python interpreter.
#[pyfunction]
pub(crate) fn open(folder: PathBuf, program: PathBuf, timeout: Duration, author: String, page_size: u32) -> Call {
    let config = ClientConfig { timeout, author, page_size, ..ClientConfig::default() };
    Call::new(async move { Client::open(&folder, &launcher(program), config).await.map(made) })
}

fn made(client: Client) -> Reply {
    Box::new(move |py| Ok(Py::new(py, NativeClient { client, owner: std::process::id() })?.into_any()))
}

pub(crate) fn json<T: Serialize + Send + 'static>(reply: T) -> Reply {
    Box::new(move |py| match serde_json::to_value(&reply) {
        Ok(json) => json_to_python(py, &json),
        Err(error) => Err(PyRuntimeError::new_err(error.to_string())),
    })
}

fn selection(features: Vec<String>, service: Option<String>) -> Selection {
    service.map_or(Selection::Features(features), Selection::Service)
}

impl NativeClient {
    fn client(&self) -> PyResult<Client> {
        if self.owner == std::process::id() {
            return Ok(self.client.clone());
        }
        Err(PyRuntimeError::new_err("this client was made before the process forked; connect again in the child"))
    }

    fn changes(py: Python<'_>, definitions: Vec<Vec<u8>>, files: Vec<(String, String)>, delete: Vec<(String, String)>) -> PyResult<Changes> {
        let mut changes = Changes::new();
        for bytes in definitions {
            changes = changes.define(Definition::from_bytes(&bytes).map_err(|error| raised(py, &Error::Core(error)))?);
        }
        for (name, text) in files {
            changes = changes.yaml(name, text);
        }
        for (kind, name) in delete {
            changes = changes.delete(kind_of(py, &kind)?, name);
        }
        Ok(changes)
    }
}

#[pymethods]
impl NativeClient {
    #[getter]
    fn address(&self) -> &str {
        self.client.address()
    }

    fn at(&self, reference: String) -> PyResult<Self> {
        Ok(Self { client: self.client()?.at(reference), owner: self.owner })
    }

    fn repository(&self, name: String) -> PyResult<Self> {
        Ok(Self { client: self.client()?.repository(name), owner: self.owner })
    }

    fn plan(&self, py: Python<'_>, definitions: Vec<Vec<u8>>, files: Vec<(String, String)>, delete: Vec<(String, String)>) -> PyResult<Call> {
        let (client, changes) = (self.client()?, Self::changes(py, definitions, files, delete)?);
        Ok(Call::new(async move { client.plan(&changes).await.map(json) }))
    }

    #[pyo3(signature = (definitions, files, delete, *, allow_breaking, message))]
    fn apply(
        &self,
        py: Python<'_>,
        definitions: Vec<Vec<u8>>,
        files: Vec<(String, String)>,
        delete: Vec<(String, String)>,
        allow_breaking: bool,
        message: String,
    ) -> PyResult<Call> {
        let (client, changes) = (self.client()?, Self::changes(py, definitions, files, delete)?);
        Ok(Call::new(async move { client.apply(&changes, allow_breaking, &message).await.map(json) }))
    }

    fn definitions(&self, py: Python<'_>, kind: Option<&str>, name: Option<String>) -> PyResult<Call> {
        let (client, kind) = (self.client()?, kind.map(|kind| kind_of(py, kind)).transpose()?);
        Ok(Call::new(async move { client.definitions(kind, name.as_deref()).await.map(json) }))
    }

    fn push_json(&self, view: String, rows: Vec<u8>, idempotency_key: String, batch_number: u64) -> PyResult<Call> {
        let (client, options) = (self.client()?, PushOptions { idempotency_key, batch_number });
        Ok(Call::new(async move { client.push_with(&view, Rows::json(rows), &options).await.map(json) }))
    }

    fn push_arrow(&self, view: String, rows: &Bound<'_, PyAny>, idempotency_key: String, batch_number: u64) -> PyResult<Call> {
        let (client, rows, options) = (self.client()?, reader(rows)?, PushOptions { idempotency_key, batch_number });
        Ok(Call::new(async move {
            let schema = rows.schema();
            let batches = rows.collect::<Result<Vec<_>, _>>()?;
            client.push_with(&view, Rows::arrow(&schema, &batches)?, &options).await.map(json)
        }))
    }

    fn delete(&self, view: String, rows: Vec<u8>, idempotency_key: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.delete(&view, rows, &idempotency_key).await.map(json) }))
    }

    fn flush(&self) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.flush().await.map(json) }))
    }

    fn status(&self) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.status().await.map(json) }))
    }

    fn quarantine(&self, view: String, limit: u32) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move {
            let found = client.quarantine(&view, limit).await?;
            // The payload as bytes: JSON would not keep them.
            Ok(Box::new(move |py: Python<'_>| {
                let payloads: Vec<_> = found.rows.iter().map(|row| PyBytes::new(py, &row.payload)).collect();
                (json(found)(py)?, PyList::new(py, payloads)?).into_py_any(py)
            }) as Reply)
        }))
    }

    fn ingest_file(
        &self,
        py: Python<'_>,
        view: String,
        path: PathBuf,
        format: Option<&str>,
        message: String,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Call> {
        let client = self.client()?;
        let format = match format {
            None => None,
            Some("parquet") => Some(FileFormat::Parquet),
            Some("csv") => Some(FileFormat::Csv),
            Some("json_lines") => Some(FileFormat::JsonLines),
            Some(other) => return Err(invalid(py, &format!("{other:?} is no file format; there are parquet, csv and json_lines"))),
        };
        let report = move |sent: u64| {
            // What goes wrong in showing progress is no reason to fail the ingest.
            if let Some(progress) = &progress {
                let _ = Python::try_attach(|py| progress.call1(py, (sent,)).map_err(|error| error.write_unraisable(py, None)));
            }
        };
        let options = FileOptions { format, message };
        Ok(Call::new(async move { client.ingest_path(&view, &path, &options, report).await.map(json) }))
    }

    fn ingest_arrow(&self, view: String, rows: &Bound<'_, PyAny>, stream_id: String, first_batch: u64, message: String) -> PyResult<Call> {
        let (client, rows) = (self.client()?, reader(rows)?);
        let options = BulkOptions { stream_id, first_batch, message };
        Ok(Call::new(async move { client.bulk(&view, rows, &options).await.map(json) }))
    }

    #[pyo3(signature = (features, service, keys, *, full_names, at_least, timeout_ms))]
    fn get_online_features(
        &self,
        features: Vec<String>,
        service: Option<String>,
        keys: &Bound<'_, PyAny>,
        full_names: bool,
        at_least: String,
        timeout_ms: u32,
    ) -> PyResult<Call> {
        let (client, keys) = (self.client()?, batch(keys)?);
        let query = OnlineQuery { features: selection(features, service), full_names, at_least, timeout_ms };
        Ok(Call::new(async move { client.get_online_features(&query, &keys).await.map(online) }))
    }

    fn get_historical_features(&self, spine: &Bound<'_, PyAny>, join: Join) -> PyResult<Call> {
        let (client, spine, query) = (self.client()?, spine_of(spine)?, join.query());
        Ok(Call::new(async move {
            let dataset = match spine {
                SpineInput::Rows(spine) => client.get_historical_features(&query, spine).await?,
                SpineInput::Server(spine) => client.get_historical_features_at(&query, &spine).await?,
            };
            Ok(Box::new(move |py: Python<'_>| {
                let table = NativeTable::new(dataset.table.schema, dataset.table.batches);
                (table, dataset.commit, dataset.content_digest, json_to_python(py, &dataset.manifest)?).into_py_any(py)
            }) as Reply)
        }))
    }

    fn create_dataset(&self, spine: &Bound<'_, PyAny>, join: Join) -> PyResult<Call> {
        let (client, spine) = (self.client()?, spine_of(spine)?);
        let query = HistoricalQuery { without_rows: true, ..join.query() };
        Ok(Call::new(async move {
            let saved = match spine {
                SpineInput::Rows(spine) => {
                    let dataset = client.get_historical_features(&query, spine).await?;
                    SavedDataset { name: query.save_as, manifest: dataset.manifest }
                }
                SpineInput::Server(spine) => client.create_dataset(&query, &spine).await?,
            };
            Ok(json(saved))
        }))
    }

    fn refresh_dataset(&self, name: String, save_as: String, from_ref: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.refresh_dataset(&name, &save_as, &from_ref).await.map(json) }))
    }

    fn diff_datasets(&self, left: String, right: String, left_ref: String, right_ref: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.diff_datasets(&left, &left_ref, &right, &right_ref).await.map(json) }))
    }

    fn read_dataset(&self, name: String, split: String, columns: Vec<String>) -> PyResult<Call> {
        let client = self.client()?;
        let query = DatasetQuery { name, split, columns };
        Ok(Call::new(async move {
            let table = client.read_dataset(&query).await?;
            Ok(Box::new(move |py: Python<'_>| NativeTable::new(table.schema, table.batches).into_py_any(py)) as Reply)
        }))
    }

    fn read(&self, view: String, columns: Vec<String>, quarantine: bool) -> PyResult<Call> {
        let client = self.client()?;
        let query = ReadQuery { view, columns, quarantine };
        Ok(Call::new(async move {
            let table = client.read_view(&query).await?;
            Ok(Box::new(move |py: Python<'_>| NativeTable::new(table.schema, table.batches).into_py_any(py)) as Reply)
        }))
    }

    fn sql(&self, query: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move {
            let table = client.query(&query).await?;
            Ok(Box::new(move |py: Python<'_>| NativeTable::new(table.schema, table.batches).into_py_any(py)) as Reply)
        }))
    }

    fn create_branch(&self, name: String, from: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.create_branch(&name, &from).await.map(json) }))
    }

    fn delete_branch(&self, name: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.delete_branch(&name).await.map(json) }))
    }

    fn rename_branch(&self, name: String, new_name: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.rename_branch(&name, &new_name).await.map(json) }))
    }

    fn protect_branch(&self, name: String, protected: bool) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.protect_branch(&name, protected).await.map(json) }))
    }

    fn branch(&self, name: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.branch(&name).await.map(json) }))
    }

    fn branches(&self, prefix: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.branches(&prefix).await.map(json) }))
    }

    fn reflog(&self, branch: String, limit: u32) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.reflog(&branch, limit).await.map(json) }))
    }

    fn create_tag(&self, name: String, reference: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.create_tag(&name, &reference).await.map(json) }))
    }

    fn delete_tag(&self, name: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.delete_tag(&name).await.map(json) }))
    }

    fn tags(&self, prefix: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.tags(&prefix).await.map(json) }))
    }

    fn commit(&self) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.commit().await.map(json) }))
    }

    fn show(&self, parent: u32, limit: u32, values: bool) -> PyResult<Call> {
        let (client, query) = (self.client()?, ShowQuery { parent, limit, values });
        Ok(Call::new(async move { client.show(&query).await.map(json) }))
    }

    #[expect(clippy::too_many_arguments, reason = "keywords in Python, where the public method documents them")]
    fn log(&self, py: Python<'_>, limit: u32, paths: Vec<String>, since: &str, until: &str, author: String, first_parent: bool) -> PyResult<Call> {
        let (client, since, until) = (self.client()?, time_of(py, since)?, time_of(py, until)?);
        let query = LogQuery { limit, paths, since, until, author, first_parent };
        Ok(Call::new(async move { client.log_with(&query).await.map(json) }))
    }

    #[pyo3(signature = (left, right, limit, *, three_dot, path, values, summary_only))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python, where the public method documents them")]
    fn diff(&self, left: String, right: String, limit: u32, three_dot: bool, path: String, values: bool, summary_only: bool) -> PyResult<Call> {
        let (client, query) = (self.client()?, DiffQuery { limit, three_dot, path, values, summary_only });
        Ok(Call::new(async move { client.diff_with(&left, &right, &query).await.map(json) }))
    }

    fn merge_base(&self, left: String, right: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.merge_base(&left, &right).await.map(json) }))
    }

    #[pyo3(signature = (source, into, message, *, strategy, squash, dry_run, limit, values))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python, where the public method documents them")]
    fn merge(
        &self,
        py: Python<'_>,
        source: String,
        into: String,
        message: String,
        strategy: &str,
        squash: bool,
        dry_run: bool,
        limit: u32,
        values: bool,
    ) -> PyResult<Call> {
        let (client, strategy) = (self.client()?, strategy_of(py, strategy)?);
        let options = MergeOptions { message, strategy, squash, dry_run, limit, values };
        Ok(Call::new(async move { client.merge_with(&source, &into, &options).await.map(json) }))
    }

    fn revert(&self, py: Python<'_>, commit: String, message: String, strategy: &str, parent: u32) -> PyResult<Call> {
        let (client, strategy) = (self.client()?, strategy_of(py, strategy)?);
        let options = ReplayOptions { parent, message, strategy };
        Ok(Call::new(async move { client.revert(&commit, "", &options).await.map(json) }))
    }

    fn cherry_pick(&self, py: Python<'_>, commit: String, message: String, strategy: &str, parent: u32) -> PyResult<Call> {
        let (client, strategy) = (self.client()?, strategy_of(py, strategy)?);
        let options = ReplayOptions { parent, message, strategy };
        Ok(Call::new(async move { client.cherry_pick(&commit, "", &options).await.map(json) }))
    }

    fn reset(&self, to: String, expected: String, rewind_offsets: bool) -> PyResult<Call> {
        let (client, options) = (self.client()?, ResetOptions { expected, rewind_offsets });
        Ok(Call::new(async move { client.reset(&to, "", &options).await.map(json) }))
    }

    fn objects(&self) -> PyResult<NativeObjects> {
        Ok(NativeObjects(self.client()?))
    }

    fn compact(&self, branch: String, views: Vec<String>, full: bool) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.compact(&branch, &views, full).await.map(json) }))
    }

    fn served_branches(&self) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.served_branches().await.map(json) }))
    }

    fn serve_branch(&self, branch: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.serve_branch(&branch).await.map(json) }))
    }

    fn unserve_branch(&self, branch: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.unserve_branch(&branch).await.map(json) }))
    }

    fn rebuild_online(&self, branch: String, views: Vec<String>, rows_per_second: Option<u64>) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.rebuild_online(&branch, &views, rows_per_second).await.map(json) }))
    }

    fn audit(&self, branch: String, views: Vec<String>, repair: bool) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.audit(&branch, &views, repair).await.map(json) }))
    }

    fn table_files(&self, view: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.table_files(&view).await.map(json) }))
    }

    fn table_metadata(&self, view: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move {
            let found = client.table_metadata(&view).await?;
            Ok(Box::new(move |py: Python<'_>| PyBytes::new(py, &found.metadata).into_py_any(py)) as Reply)
        }))
    }

    fn list_datasets(&self) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.list_datasets().await.map(json) }))
    }

    fn describe_dataset(&self, name: String) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.describe_dataset(&name).await.map(json) }))
    }

    fn fetch_dataset(&self, name: String, columns: Vec<String>, split: String, content_digest: String) -> PyResult<Call> {
        let (client, query) = (self.client()?, SavedQuery { name, columns, split, content_digest });
        Ok(Call::new(async move {
            let table = client.fetch_dataset(&query).await?;
            Ok(Box::new(move |py: Python<'_>| NativeTable::new(table.schema, table.batches).into_py_any(py)) as Reply)
        }))
    }

    #[pyo3(signature = (name, columns, split, content_digest, *, batch_size, seed, epoch, rank, world_size, cursor, drop_last, prefetch_bytes))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python, where the public method documents them")]
    fn dataset_batches(
        &self,
        name: String,
        columns: Vec<String>,
        split: String,
        content_digest: String,
        batch_size: u32,
        seed: Option<u64>,
        epoch: Option<u64>,
        rank: u32,
        world_size: u32,
        cursor: String,
        drop_last: bool,
        prefetch_bytes: u64,
    ) -> PyResult<Call> {
        let client = self.client()?;
        let dataset = SavedQuery { name, columns, split, content_digest };
        let query = BatchesQuery { dataset, batch_size, seed, epoch, rank, world_size, cursor, drop_last, prefetch_bytes };
        Ok(Call::new(async move {
            let batches = client.dataset_batches(&query).await?;
            Ok(Box::new(move |py: Python<'_>| NativeBatches::new(batches).into_py_any(py)) as Reply)
        }))
    }

    fn info(&self) -> PyResult<Call> {
        let client = self.client()?;
        Ok(Call::new(async move { client.info().await.map(json) }))
    }
}

/// How features are joined and what becomes of it: a dictionary in Python, whose public methods document it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Join {
    features: Vec<String>,
    service: Option<String>,
    full_names: bool,
    time_column: String,
    knowledge: String,
    strict: bool,
    at_least: String,
    timeout_ms: u32,
    save_as: String,
    engine: String,
    splits: String,
    split_by: Vec<String>,
    split_seed: u64,
}

impl Join {
    fn query(self) -> HistoricalQuery {
        HistoricalQuery {
            full_names: self.full_names,
            time_column: self.time_column,
            knowledge: self.knowledge,
            strict: self.strict,
            at_least: self.at_least,
            timeout_ms: self.timeout_ms,
            save_as: self.save_as,
            engine: self.engine,
            splits: SplitQuery { splits: self.splits, columns: self.split_by, seed: self.split_seed },
            ..HistoricalQuery::new(selection(self.features, self.service))
        }
    }
}

enum SpineInput {
    Rows(Reader),
    Server(ServerSpine),
}

/// Rows, or the kind and the text of a spine that the server makes.
fn spine_of(spine: &Bound<'_, PyAny>) -> PyResult<SpineInput> {
    match spine.extract::<(String, String)>() {
        Ok((kind, text)) if kind == "sql" => Ok(SpineInput::Server(ServerSpine::Sql(text))),
        Ok((_, view)) => Ok(SpineInput::Server(ServerSpine::Events(view))),
        Err(_) => reader(spine).map(SpineInput::Rows),
    }
}

fn strategy_of(py: Python<'_>, name: &str) -> PyResult<Strategy> {
    name.parse().map_err(|error: Error| raised(py, &error))
}

fn time_of(py: Python<'_>, text: &str) -> PyResult<Option<Timestamp>> {
    let time = (!text.is_empty()).then(|| text.parse::<Timestamp>());
    time.transpose().map_err(|error| raised(py, &Error::Core(error)))
}

/// The table; a byte for each status, feature after feature (1 PRESENT, 2 NULL_VALUE, 3 NOT_FOUND, 4 OUTSIDE_TTL); eight bytes for each event time in
/// UTC microseconds, view after view; for each feature the place of its view; and when all was judged.
fn online(features: OnlineFeatures) -> Reply {
    Box::new(move |py| {
        let statuses = PyBytes::new(py, features.status_bytes());
        let times: Vec<u8> = features.event_time_micros().iter().flat_map(|us| us.to_ne_bytes()).collect();
        let view_of: Vec<_> = (0..features.batch.num_columns()).map(|feature| features.view_of(feature)).collect();
        let as_of = features.as_of.micros();
        let table = NativeTable::new(features.batch.schema(), vec![features.batch]);
        (table, statuses, PyBytes::new(py, &times), view_of, as_of).into_py_any(py)
    })
}

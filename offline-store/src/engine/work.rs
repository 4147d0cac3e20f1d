//! What a join does with each part of a spine, as one value that can be sent: the selection and its definitions, the options, and where the views' rows
//! lie.
//!
//! A row of the answer depends on its own row of the spine and on the views at the commit, on nothing else. So a spine can be cut at will, and the parts
//! joined anywhere and again: the answer is the same. A part carries the number of each row in a column of its own, last among the spine's; the answer to a part
//! is these numbers and the features, by which the parts are put beside the spine's rows.

use std::path::Path;
use std::sync::Arc;

use anabranch_core::definition::{Definition, DefinitionKind, Definitions};
use anabranch_core::selection::Selection;
use anabranch_core::{ErrorKind, Kinded};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::memory::join_in;
use crate::dataset::DatasetSelection;
use crate::join::{JoinOptions, JoinPlan, Joined, Spine, Spooled, ViewRows};
use crate::{Error, FileRows, Result, ViewFiles};

/// The one scheme of locations that a process opens by itself.
const FILE_SCHEME: &str = "file://";

/// What a join does with each part of a spine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinWork {
    /// Those that the selection needs, as their canonical bytes have them.
    definitions: Vec<Json>,
    selection: DatasetSelection,
    options: JoinOptions,
    time_column: String,
    /// The root of the views' files.
    location: String,
    views: Vec<ViewFiles>,
}

impl JoinWork {
    pub(super) fn new(
        definitions: &Definitions,
        selection: &Selection,
        options: JoinOptions,
        time_column: &str,
        location: &str,
        views: Vec<ViewFiles>,
    ) -> Result<Self> {
        let selected = selection.resolve(definitions, &[], true)?;
        let needed = |definition: &&Definition| match definition.kind() {
            DefinitionKind::Entity => true,
            DefinitionKind::FeatureView => selected.iter().any(|view| view.layout.name() == definition.name()),
            DefinitionKind::FeatureService => matches!(selection, Selection::Service(name) if name == definition.name()),
            DefinitionKind::Source | DefinitionKind::Check => false,
        };
        let definitions = definitions.iter().filter(needed).map(|definition| serde_json::from_slice(&definition.to_bytes()).unwrap_or_default());
        let (time_column, location) = (time_column.to_owned(), location.to_owned());
        Ok(Self { definitions: definitions.collect(), selection: selection.clone().into(), options, time_column, location, views })
    }

    /// Opens the views' files.
    pub(super) fn rows(&self) -> Result<Arc<dyn ViewRows>> {
        Ok(FileRows::new(open(&self.location)?, self.views.clone()))
    }

    /// Plans the join of a part.
    pub(super) fn plan(&self, part: Spooled) -> Result<JoinPlan> {
        let read = |definition: &Json| Definition::from_bytes(definition.to_string().as_bytes());
        let definitions: Definitions = self.definitions.iter().map(read).collect::<Result<_, _>>()?;
        let spine = Spine::spooled(part, &self.time_column)?;
        Ok(JoinPlan::new(spine, &self.selection.clone().into(), &definitions, self.options)?)
    }

    /// The schema of a part's answer.
    pub(super) fn schema(&self, part: &SchemaRef) -> Result<SchemaRef> {
        let joined = Arc::clone(self.plan(Spooled::of(Arc::clone(part), Vec::new()))?.schema());
        Ok(Arc::new(joined.project(&answered(part, &joined))?))
    }

    /// Joins a part: its own columns and the features.
    pub(super) async fn join(self: Arc<Self>, runtime: &Arc<RuntimeEnv>, rows: Arc<dyn ViewRows>, part: Spooled) -> Result<Joined> {
        let plan = tokio::task::spawn_blocking(move || self.plan(part)).await.map_err(|_| Error::Closing)??;
        join_in(runtime, Arc::new(plan), rows).await
    }
}

/// The places of what a part's answer has of all columns: row numbers and features.
pub(super) fn answered(part: &Schema, joined: &Schema) -> Vec<usize> {
    (part.fields().len().saturating_sub(1)..joined.fields().len()).collect()
}

/// The objects at a location.
///
/// # Errors
/// [`Error::Unsupported`] where it is no local folder, [`Error::Unavailable`] where this machine does not have it.
pub(super) fn open(location: &str) -> Result<Arc<dyn ObjectStore>> {
    let Some(folder) = location.strip_prefix(FILE_SCHEME) else {
        return Err(Error::Unsupported(format!("the engine reads folders, and {location} is none")));
    };
    let opened = LocalFileSystem::new_with_prefix(Path::new(folder));
    opened.map(|objects| Arc::new(objects) as Arc<dyn ObjectStore>).map_err(|error| Error::Unavailable {
        what: format!("opening {folder}, which every executor must see under this name,"),
        source: Box::new(error),
    })
}

/// An error that crosses a process as text and keeps its kind: `join refused [not found]: no table x: …`.
pub(super) fn spelled(error: &Error) -> String {
    let mut text = format!("{MARK}{}]: {error}", error.kind());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// The kind and the message of a text that [`spelled`] wrote, wherever it lies in another.
pub(super) fn unspelled(text: &str) -> Option<(ErrorKind, String)> {
    let (kind, message) = text.split_once(MARK)?.1.split_once("]: ")?;
    Some((ErrorKind::from_name(kind)?, message.trim_end_matches(['"', ')', '}']).to_owned()))
}

const MARK: &str = "join refused [";

//! The operator's way into another process: as a table of a logical plan to the scheduler, as physical operators to the executors.
//!
//! ```text
//! "anbj" · format u8 (2) · node u8 (1 table, 2 join, 3 spine parts) · length u32 LE of the JSON · JSON · schema of the spine parts as an Arrow stream
//! ```
//!
//! The JSON holds the [`JoinWork`] and the files of the spine's parts: all that reading needs, and nothing of the metadata database. Whatever does not
//! begin so is Ballista's own. A process refuses what another version of this format sends it, by the number, as a failed precondition; what is cut
//! short or damaged is refused as corrupt.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;

use anabranch_core::ErrorKind;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use async_trait::async_trait;
use ballista_core::serde::{BallistaLogicalExtensionCodec, BallistaPhysicalExtensionCodec};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::datasource::file_format::FileFormatFactory;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::TableReference;
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::exec::{PointInTimeExec, SpineParts, failed};
use super::work::JoinWork;
use crate::Error;

const MAGIC: &[u8; 4] = b"anbj";
const FORMAT: u8 = 2;
const HEAD: usize = MAGIC.len() + 2 + 4;

/// What the bytes are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Table = 1,
    Join = 2,
    Parts = 3,
}

/// Where the parts of a spine lie.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartFiles {
    location: String,
    files: Vec<String>,
}

/// A join and its spine, as a table that a logical plan can name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Joining {
    work: JoinWork,
    parts: PartFiles,
}

/// A join over parts of a spine in files, as a table.
#[derive(Debug)]
pub(super) struct JoinTable {
    joining: Joining,
    spine: SchemaRef,
    schema: SchemaRef,
}

impl JoinTable {
    /// # Errors
    /// Where the parts are no spine of this work.
    pub(super) fn new(work: JoinWork, spine: SchemaRef, location: String, files: Vec<String>) -> crate::Result<Self> {
        let schema = work.schema(&spine)?;
        Ok(Self { joining: Joining { work, parts: PartFiles { location, files } }, spine, schema })
    }
}

#[async_trait]
impl TableProvider for JoinTable {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(&self, _: &dyn Session, projection: Option<&Vec<usize>>, _: &[Expr], _: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        if projection.is_some_and(|places| !places.iter().copied().eq(0..self.schema.fields().len())) {
            return internal_err!("a join gives all its columns");
        }
        let PartFiles { location, files } = self.joining.parts.clone();
        let parts = Arc::new(SpineParts::new(Arc::clone(&self.spine), location, files)?);
        let joined = PointInTimeExec::new(parts, Arc::new(self.joining.work.clone()), None);
        Ok(Arc::new(joined.map_err(failed)?))
    }
}

/// Both codecs: Ballista's own, and ours for what is ours.
#[derive(Debug, Default)]
pub(super) struct EngineCodec {
    logical: BallistaLogicalExtensionCodec,
    physical: BallistaPhysicalExtensionCodec,
}

impl LogicalExtensionCodec for EngineCodec {
    fn try_decode(&self, buf: &[u8], inputs: &[LogicalPlan], ctx: &TaskContext) -> Result<Extension> {
        self.logical.try_decode(buf, inputs, ctx)
    }

    fn try_encode(&self, node: &Extension, buf: &mut Vec<u8>) -> Result<()> {
        self.logical.try_encode(node, buf)
    }

    fn try_decode_table_provider(&self, buf: &[u8], name: &TableReference, schema: SchemaRef, ctx: &TaskContext) -> Result<Arc<dyn TableProvider>> {
        if !buf.starts_with(MAGIC) {
            return self.logical.try_decode_table_provider(buf, name, schema, ctx);
        }
        let (joining, spine) = decode::<Joining>(Node::Table, buf)?;
        let PartFiles { location, files } = joining.parts;
        let table = JoinTable::new(joining.work, spine, location, files);
        Ok(Arc::new(table.map_err(failed)?))
    }

    fn try_encode_table_provider(&self, name: &TableReference, node: Arc<dyn TableProvider>, buf: &mut Vec<u8>) -> Result<()> {
        match node.as_any().downcast_ref::<JoinTable>() {
            Some(table) => encode(Node::Table, &table.joining, &table.spine, buf),
            None => self.logical.try_encode_table_provider(name, node, buf),
        }
    }

    fn try_decode_file_format(&self, buf: &[u8], ctx: &TaskContext) -> Result<Arc<dyn FileFormatFactory>> {
        self.logical.try_decode_file_format(buf, ctx)
    }

    fn try_encode_file_format(&self, buf: &mut Vec<u8>, node: Arc<dyn FileFormatFactory>) -> Result<()> {
        self.logical.try_encode_file_format(buf, node)
    }
}

impl PhysicalExtensionCodec for EngineCodec {
    fn try_decode(&self, buf: &[u8], inputs: &[Arc<dyn ExecutionPlan>], ctx: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        if !buf.starts_with(MAGIC) {
            return self.physical.try_decode(buf, inputs, ctx);
        }
        if buf.get(MAGIC.len() + 1) == Some(&(Node::Join as u8)) {
            let (work, _) = decode::<JoinWork>(Node::Join, buf)?;
            let [input] = inputs else { return internal_err!("a join has one input, not {}", inputs.len()) };
            let joined = PointInTimeExec::new(Arc::clone(input), Arc::new(work), None);
            return Ok(Arc::new(joined.map_err(failed)?));
        }
        let (parts, spine) = decode::<PartFiles>(Node::Parts, buf)?;
        Ok(Arc::new(SpineParts::new(spine, parts.location, parts.files)?))
    }

    fn try_encode(&self, node: Arc<dyn ExecutionPlan>, buf: &mut Vec<u8>) -> Result<()> {
        if let Some(join) = node.as_any().downcast_ref::<PointInTimeExec>() {
            return encode(Node::Join, join.work().as_ref(), &join.children()[0].schema(), buf);
        }
        match node.as_any().downcast_ref::<SpineParts>() {
            Some(parts) => {
                let files = PartFiles { location: parts.location().to_owned(), files: parts.files().to_vec() };
                encode(Node::Parts, &files, &parts.schema(), buf)
            }
            None => self.physical.try_encode(node, buf),
        }
    }
}

fn encode(node: Node, value: &impl Serialize, spine: &SchemaRef, buf: &mut Vec<u8>) -> Result<()> {
    let json = serde_json::to_vec(value).map_err(|error| DataFusionError::External(Box::new(error)))?;
    let many = || failed(Error::Limit { reason: "a join of so many files does not fit a plan: compact the views first".to_owned() });
    let length = u32::try_from(json.len()).map_err(|_| many())?;
    buf.extend_from_slice(MAGIC);
    buf.extend_from_slice(&[FORMAT, node as u8]);
    buf.extend_from_slice(&length.to_le_bytes());
    buf.extend_from_slice(&json);
    StreamWriter::try_new(buf, spine)?.finish()?;
    Ok(())
}

fn decode<T: DeserializeOwned>(node: Node, buf: &[u8]) -> Result<(T, SchemaRef)> {
    let corrupt = |reason: &dyn ToString| failed(Error::corrupt("the plan of a join", reason.to_string()));
    match buf.get(..HEAD).unwrap_or_default() {
        [_, _, _, _, FORMAT, kind, length @ ..] if *kind == node as u8 => {
            let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
            let (json, schema) = buf[HEAD..].split_at_checked(length).ok_or_else(|| corrupt(&"it is cut short"))?;
            let value = serde_json::from_slice(json).map_err(|error| corrupt(&error))?;
            Ok((value, StreamReader::try_new(schema, None).map_err(|error| corrupt(&error))?.schema()))
        }
        [_, _, _, _, format, ..] if *format != FORMAT => {
            let reason = format!("the plan of a join has format {format}, and this process reads {FORMAT}: run the same version everywhere");
            Err(failed(Error::Remote { kind: ErrorKind::FailedPrecondition, reason }))
        }
        _ => Err(corrupt(&"it is something else, or cut short")),
    }
}

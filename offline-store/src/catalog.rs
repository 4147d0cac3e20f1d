//! Iceberg's `Catalog` over a ref: how outside engines see and extend tables.
//!
//! | asked for | answer |
//! | -- | -- |
//! | list, load | the tables at the ref's commit; a branch is looked up anew each time |
//! | append rows, evolve a schema, set properties | one commit on the branch; refused on tags and commits |
//! | overwrite or delete rows, expire snapshots, move a table | refused: merge and garbage collection would have to know |
//! | make, drop, rename or register a table, change namespaces | refused: a table is made and dropped with its feature view |
//! | purge | refused: branches share files |
//!
//! Rows that an outside engine appends carry no reserved columns. Its snapshot's entry then says what they read as: this commit's time as their arrival, a
//! source of their own, and positions counted through the files.

mod commit;

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_core::Kinded;
use anabranch_versioning::{CommitId, RefSpec};
use async_trait::async_trait;
use iceberg::spec::TableMetadata;
use iceberg::table::Table;
use iceberg::{
    Catalog, Error as IcebergError, ErrorKind as IcebergErrorKind, Namespace as IcebergNamespace, NamespaceIdent, Runtime, TableCommit,
    TableCreation, TableIdent,
};

pub use commit::SOURCE_MARK;

use crate::table::{Namespace, OfflineStore, TableName};
use crate::{Error, Result};

/// The tables at a ref, as Iceberg knows them.
#[derive(Debug, Clone)]
pub struct RefCatalog {
    store: Arc<OfflineStore>,
    at: RefSpec,
    author: String,
}

impl RefCatalog {
    /// The tables at a ref; commits through it are made in the name of `author`.
    pub fn new(store: Arc<OfflineStore>, at: RefSpec, author: impl Into<String>) -> Self {
        Self { store, at, author: author.into() }
    }

    async fn commit(&self) -> Result<CommitId> {
        Ok(self.store.repository.resolve(&self.at).await?.commit)
    }

    async fn branch(&self) -> Result<String> {
        let resolved = self.store.repository.resolve(&self.at).await?;
        resolved.branch.map(|branch| branch.name).ok_or_else(|| Error::ReadOnly(self.at.to_string()))
    }

    fn table(&self, ident: &TableIdent, metadata: TableMetadata) -> iceberg::Result<Table> {
        // There is no such file: metadata is made when asked for. Clients only want a name that tells versions apart.
        let version = metadata.last_sequence_number();
        let location = format!("{}/metadata/{version:05}-{}.metadata.json", metadata.location(), metadata.uuid());
        Table::builder()
            .identifier(ident.clone())
            .metadata(metadata)
            .metadata_location(location)
            .file_io(self.store.io.clone())
            .runtime(Runtime::try_current()?)
            .build()
    }
}

fn namespace(ident: &NamespaceIdent) -> iceberg::Result<Namespace> {
    let unknown = || IcebergError::new(IcebergErrorKind::NamespaceNotFound, format!("no namespace {ident}: there are features and quarantine"));
    match &ident[..] {
        [name] => Namespace::from_name(name).ok_or_else(unknown),
        _ => Err(unknown()),
    }
}

fn table_name(ident: &TableIdent) -> iceberg::Result<TableName> {
    Ok(TableName { namespace: namespace(ident.namespace())?, name: ident.name().to_owned() })
}

fn refuse<T>(reason: &str) -> iceberg::Result<T> {
    Err(IcebergError::new(IcebergErrorKind::FeatureUnsupported, reason))
}

/// Our error as iceberg's, with ours as its source.
impl From<Error> for IcebergError {
    fn from(error: Error) -> Self {
        use anabranch_core::ErrorKind as Kind;
        let kind = match (&error, error.kind()) {
            (Error::NoTable(_), _) => IcebergErrorKind::TableNotFound,
            (_, Kind::Conflict) => IcebergErrorKind::CatalogCommitConflicts,
            (_, Kind::FailedPrecondition) => IcebergErrorKind::PreconditionFailed,
            (Error::Unsupported(_), _) => IcebergErrorKind::FeatureUnsupported,
            (_, Kind::InvalidArgument | Kind::NotFound) => IcebergErrorKind::DataInvalid,
            _ => IcebergErrorKind::Unexpected,
        };
        let retryable = kind == IcebergErrorKind::CatalogCommitConflicts;
        IcebergError::new(kind, error.to_string()).with_retryable(retryable).with_source(error)
    }
}

const BY_VIEW: &str = "tables are made and dropped with their feature views: apply definitions instead";
const NAMESPACES: &str = "namespaces are fixed: features and quarantine";

#[async_trait]
impl Catalog for RefCatalog {
    async fn list_namespaces(&self, parent: Option<&NamespaceIdent>) -> iceberg::Result<Vec<NamespaceIdent>> {
        Ok(match parent {
            None => Namespace::ALL.into_iter().map(|namespace| NamespaceIdent::new(namespace.name().to_owned())).collect(),
            Some(_) => Vec::new(),
        })
    }

    async fn create_namespace(&self, _namespace: &NamespaceIdent, _properties: HashMap<String, String>) -> iceberg::Result<IcebergNamespace> {
        refuse(NAMESPACES)
    }

    async fn get_namespace(&self, ident: &NamespaceIdent) -> iceberg::Result<IcebergNamespace> {
        namespace(ident)?;
        Ok(IcebergNamespace::new(ident.clone()))
    }

    async fn namespace_exists(&self, ident: &NamespaceIdent) -> iceberg::Result<bool> {
        Ok(namespace(ident).is_ok())
    }

    async fn update_namespace(&self, _namespace: &NamespaceIdent, _properties: HashMap<String, String>) -> iceberg::Result<()> {
        refuse(NAMESPACES)
    }

    async fn drop_namespace(&self, _namespace: &NamespaceIdent) -> iceberg::Result<()> {
        refuse(NAMESPACES)
    }

    async fn list_tables(&self, ident: &NamespaceIdent) -> iceberg::Result<Vec<TableIdent>> {
        let tables = self.store.tables(&self.commit().await?, namespace(ident)?).await?;
        Ok(tables.into_iter().map(|table| TableIdent::new(ident.clone(), table.name)).collect())
    }

    async fn create_table(&self, _namespace: &NamespaceIdent, _creation: TableCreation) -> iceberg::Result<Table> {
        refuse(BY_VIEW)
    }

    async fn load_table(&self, ident: &TableIdent) -> iceberg::Result<Table> {
        let metadata = self.store.table_metadata(&self.commit().await?, &table_name(ident)?).await?;
        self.table(ident, metadata)
    }

    async fn drop_table(&self, _table: &TableIdent) -> iceberg::Result<()> {
        refuse(BY_VIEW)
    }

    async fn purge_table(&self, _table: &TableIdent) -> iceberg::Result<()> {
        refuse("a table is never purged: branches and older commits share its files")
    }

    async fn table_exists(&self, ident: &TableIdent) -> iceberg::Result<bool> {
        let Ok(name) = table_name(ident) else { return Ok(false) };
        Ok(self.store.find_table(&self.commit().await?, &name).await?.is_some())
    }

    async fn rename_table(&self, _from: &TableIdent, _to: &TableIdent) -> iceberg::Result<()> {
        refuse(BY_VIEW)
    }

    async fn register_table(&self, _table: &TableIdent, _metadata_location: String) -> iceberg::Result<Table> {
        refuse(BY_VIEW)
    }

    async fn update_table(&self, mut commit: TableCommit) -> iceberg::Result<Table> {
        let ident = commit.identifier().clone();
        let (requirements, updates) = (commit.take_requirements(), commit.take_updates());
        let branch = self.branch().await?;
        let metadata = self.store.update_table(&branch, &self.author, &table_name(&ident)?, &requirements, updates).await?;
        self.table(&ident, metadata)
    }
}

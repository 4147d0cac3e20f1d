//! Where table files lie, and iceberg's `Storage` over an object store: one storage configuration in the whole product.
//!
//! A file has a *path* in the object store and a *location*, the URL by which outside readers know it: the root's URL, a slash and the path. For a local
//! folder the root is `file:///abs/folder`, for a bucket `s3://bucket/prefix`; so DuckDB, Spark and PyIceberg read the files where they lie.
//!
//! ```text
//! data/<table uuid>/<file uuid>.parquet        rows
//! metadata/<table uuid>/<file uuid>.avro       manifests
//! metadata/<table uuid>/snap-<id>-<uuid>.avro  manifest lists
//! ```
//!
//! Files are never written twice and never deleted from here: branches share them, so only the repository's garbage collection knows what is unused. A
//! put is durable when it returns, because the object store handed in is (`anabranch_versioning::local_objects` syncs files and directories).
//!
//! Manifests hold whole locations, as Iceberg demands. Where a repository was moved, its own files are still found, by the last three parts of the path.

use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use iceberg::io::{FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig, StorageFactory};
use iceberg::{Error as IcebergError, ErrorKind as IcebergErrorKind};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::{Error, Result};

/// The root of a repository's files as a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locations {
    root: String,
}

impl Locations {
    /// Files under a URL such as `s3://bucket/prefix`.
    pub fn new(root: &str) -> Self {
        Self { root: root.trim_end_matches('/').to_owned() }
    }

    /// Files under a local folder.
    ///
    /// # Errors
    /// Refuses a folder that cannot be made absolute or whose name is not UTF-8.
    pub fn local(folder: &FilePath) -> Result<Self> {
        let invalid = |reason: String| Error::Invalid { what: "data folder", reason };
        let absolute = std::path::absolute(folder).map_err(|error| invalid(error.to_string()))?;
        let text = absolute.to_str().ok_or_else(|| invalid(format!("{} is not UTF-8", absolute.display())))?;
        Ok(Self::new(&format!("file://{text}")))
    }

    /// Files that live in memory.
    pub fn memory() -> Self {
        Self::new("memory://repository")
    }

    /// The location of a path.
    pub fn location(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }

    /// The path of a location; a text without a scheme is a path already.
    pub fn path<'a>(&self, location: &'a str) -> Option<&'a str> {
        if let Some(path) = location.strip_prefix(&self.root).and_then(|rest| rest.strip_prefix('/')) {
            return Some(path);
        }
        if !location.contains(":/") && !location.starts_with('/') {
            return Some(location);
        }
        moved(location)
    }
}

/// `…/data/<uuid>/<file>` and `…/metadata/<uuid>/<file>`, whatever comes before.
fn moved(location: &str) -> Option<&str> {
    let mut cuts = location.rmatch_indices('/').map(|(at, _)| at);
    let (file, uuid) = (cuts.next()?, cuts.next()?);
    let kind = cuts.next()?;
    let is_ours = matches!(&location[kind + 1..uuid], "data" | "metadata") && Uuid::parse_str(&location[uuid + 1..file]).is_ok();
    is_ours.then(|| &location[kind + 1..])
}

/// Iceberg's storage over an object store.
#[derive(Clone)]
pub(crate) struct ObjectStorage {
    objects: Arc<dyn ObjectStore>,
    locations: Locations,
}

impl ObjectStorage {
    pub(crate) fn file_io(objects: Arc<dyn ObjectStore>, locations: Locations) -> FileIO {
        FileIOBuilder::new(Arc::new(ObjectStorageFactory(Self { objects, locations }))).build()
    }

    fn path(&self, location: &str) -> iceberg::Result<Path> {
        let outside = || IcebergError::new(IcebergErrorKind::DataInvalid, format!("{location} lies outside of {}", self.locations.root));
        let path = self.locations.path(location).ok_or_else(outside)?;
        Path::parse(path).map_err(|error| outside().with_source(error))
    }
}

impl fmt::Debug for ObjectStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectStorage({} at {})", self.objects, self.locations.root)
    }
}

/// An open store cannot be written down; iceberg asks for this only to send plans to other processes, which Anabranch does not.
impl Serialize for ObjectStorage {
    fn serialize<S: serde::Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("an open object store cannot be serialized"))
    }
}

impl<'de> Deserialize<'de> for ObjectStorage {
    fn deserialize<D: Deserializer<'de>>(_deserializer: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("an open object store cannot be deserialized"))
    }
}

fn failed(location: &str, what: &str, error: object_store::Error) -> IcebergError {
    IcebergError::new(IcebergErrorKind::Unexpected, format!("cannot {what} {location}")).with_source(error)
}

fn kept(location: &str) -> IcebergError {
    let reason = format!("{location} is not deleted: branches share files, and only garbage collection knows which are unused");
    IcebergError::new(IcebergErrorKind::FeatureUnsupported, reason)
}

#[async_trait]
#[typetag::serde]
impl Storage for ObjectStorage {
    async fn exists(&self, location: &str) -> iceberg::Result<bool> {
        match self.objects.head(&self.path(location)?).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed(location, "look for", error)),
        }
    }

    async fn metadata(&self, location: &str) -> iceberg::Result<FileMetadata> {
        let meta = self.objects.head(&self.path(location)?).await.map_err(|error| failed(location, "look for", error))?;
        Ok(FileMetadata { size: meta.size })
    }

    async fn read(&self, location: &str) -> iceberg::Result<Bytes> {
        let result = self.objects.get(&self.path(location)?).await.map_err(|error| failed(location, "read", error))?;
        result.bytes().await.map_err(|error| failed(location, "read", error))
    }

    async fn reader(&self, location: &str) -> iceberg::Result<Box<dyn FileRead>> {
        Ok(Box::new(ObjectRead { objects: Arc::clone(&self.objects), path: self.path(location)?, location: location.to_owned() }))
    }

    async fn write(&self, location: &str, bytes: Bytes) -> iceberg::Result<()> {
        self.objects.put(&self.path(location)?, bytes.into()).await.map_err(|error| failed(location, "write", error))?;
        Ok(())
    }

    async fn writer(&self, location: &str) -> iceberg::Result<Box<dyn FileWrite>> {
        self.path(location)?;
        Ok(Box::new(ObjectWrite { storage: self.clone(), location: location.to_owned(), buffer: Some(BytesMut::new()) }))
    }

    async fn delete(&self, location: &str) -> iceberg::Result<()> {
        Err(kept(location))
    }

    async fn delete_prefix(&self, location: &str) -> iceberg::Result<()> {
        Err(kept(location))
    }

    async fn delete_stream(&self, _locations: BoxStream<'static, String>) -> iceberg::Result<()> {
        Err(kept("a list of files"))
    }

    fn new_input(&self, location: &str) -> iceberg::Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), location.to_owned()))
    }

    fn new_output(&self, location: &str) -> iceberg::Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), location.to_owned()))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ObjectStorageFactory(ObjectStorage);

#[typetag::serde]
impl StorageFactory for ObjectStorageFactory {
    fn build(&self, _config: &StorageConfig) -> iceberg::Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.0.clone()))
    }
}

struct ObjectRead {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    location: String,
}

#[async_trait]
impl FileRead for ObjectRead {
    async fn read(&self, range: Range<u64>) -> iceberg::Result<Bytes> {
        self.objects.get_range(&self.path, range).await.map_err(|error| failed(&self.location, "read", error))
    }
}

/// Gathers what is written and puts it in one go when closed: manifests are small, and a half-written object must not appear.
struct ObjectWrite {
    storage: ObjectStorage,
    location: String,
    buffer: Option<BytesMut>,
}

impl ObjectWrite {
    fn closed(&self) -> IcebergError {
        IcebergError::new(IcebergErrorKind::Unexpected, format!("{} is closed already", self.location))
    }
}

#[async_trait]
impl FileWrite for ObjectWrite {
    async fn write(&mut self, bytes: Bytes) -> iceberg::Result<()> {
        match &mut self.buffer {
            Some(buffer) => {
                buffer.extend_from_slice(&bytes);
                Ok(())
            }
            None => Err(self.closed()),
        }
    }

    async fn close(&mut self) -> iceberg::Result<()> {
        let buffer = self.buffer.take().ok_or_else(|| self.closed())?;
        self.storage.write(&self.location, buffer.freeze()).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn locations_lead_to_paths_also_after_a_move() {
        let locations = Locations::new("file:///srv/repo/");
        let uuid = Uuid::from_u128(7);
        let path = format!("data/{uuid}/a.parquet");
        assert_eq!(locations.location(&path), format!("file:///srv/repo/{path}"));
        assert_eq!(locations.path(&locations.location(&path)), Some(path.as_str()));
        assert_eq!(locations.path(&path), Some(path.as_str()));
        assert_eq!(locations.path(&format!("file:///old/place/{path}")), Some(path.as_str()));
        assert_eq!(locations.path("file:///etc/passwd"), None);
        assert_eq!(locations.path("/etc/passwd"), None);
    }

    #[tokio::test]
    async fn files_are_written_whole_read_in_part_and_never_deleted() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let io = ObjectStorage::file_io(Arc::clone(&objects), Locations::memory());
        let location = Locations::memory().location("metadata/x/y.avro");
        let mut writer = io.new_output(&location).unwrap().writer().await.unwrap();
        writer.write(Bytes::from_static(b"hello ")).await.unwrap();
        assert!(!io.exists(&location).await.unwrap());
        writer.write(Bytes::from_static(b"world")).await.unwrap();
        writer.close().await.unwrap();
        assert!(writer.close().await.is_err());
        assert_eq!(io.new_input(&location).unwrap().reader().await.unwrap().read(6..11).await.unwrap(), "world");
        assert_eq!(io.delete(&location).await.unwrap_err().kind(), IcebergErrorKind::FeatureUnsupported);
        assert!(io.delete_prefix("memory://repository/metadata").await.is_err());
        assert!(io.exists(&location).await.unwrap());
        assert!(io.new_output("file:///etc/passwd").unwrap().write(Bytes::new()).await.is_err());
    }
}

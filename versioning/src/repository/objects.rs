//! Files under version control: see [`crate::object`] for what they are and how they are kept.

use std::ops::Range;

use super::Repository;
use crate::object::{
    ObjectChange, ObjectChanges, ObjectCommit, ObjectEntry, ObjectImport, ObjectInfo, ObjectPage, ObjectQuery, ObjectReader, ObjectWriter,
    ObjectsCommitted, hash_original, list, object_key, originals,
};
use crate::{Change, CommitId, CommitRequest, Error, MapReader, Result};

impl Repository {
    /// Begins an object. The content type may be empty: then the path's ending says it.
    ///
    /// # Errors
    /// [`Error::ObjectPath`]; invalid for a content type that is none.
    pub fn object_writer(&self, path: &str, content_type: &str) -> Result<ObjectWriter> {
        ObjectWriter::new(self.store.clone(), self.ids.random(), path, content_type)
    }

    /// What stands at a path.
    ///
    /// # Errors
    /// [`Error::NoObject`], [`Error::ObjectPath`], [`Error::NoCommit`].
    pub async fn stat_object(&self, commit: &CommitId, path: &str) -> Result<ObjectInfo> {
        let value = self.get(commit, &object_key(path)?).await?.ok_or_else(|| Error::NoObject(path.to_owned()))?;
        Ok(ObjectInfo { path: path.to_owned(), entry: ObjectEntry::from_bytes(&value)? })
    }

    /// Opens an object, or those bytes of a range that it has.
    ///
    /// # Errors
    /// As [`Repository::stat_object`]; invalid for a range that begins behind the end; [`Error::Corrupt`] and [`Error::ImportChanged`] where the bytes
    /// are not those that were put or imported.
    pub async fn read_object(&self, commit: &CommitId, path: &str, range: Option<Range<u64>>) -> Result<ObjectReader> {
        self.open_object(self.stat_object(commit, path).await?, range).await
    }

    /// As [`Repository::read_object`], for what was looked up before.
    ///
    /// # Errors
    /// As [`Repository::read_object`].
    pub async fn open_object(&self, info: ObjectInfo, range: Option<Range<u64>>) -> Result<ObjectReader> {
        ObjectReader::open(self.store.clone(), info, range).await
    }

    /// A page of the objects at a commit, in the byte order of their paths.
    ///
    /// # Errors
    /// [`Error::NoCommit`]; invalid for a limit of 0.
    pub async fn list_objects(&self, commit: &CommitId, query: &ObjectQuery) -> Result<ObjectPage> {
        list(&self.at(commit).await?, query).await
    }

    /// As [`Repository::list_objects`], in any state of the map.
    ///
    /// # Errors
    /// As [`Repository::list_objects`].
    pub async fn list_objects_in(&self, map: &dyn MapReader, query: &ObjectQuery) -> Result<ObjectPage> {
        list(map, query).await
    }

    /// Makes changes of objects in one commit: all or none. What would change nothing makes no commit.
    ///
    /// # Errors
    /// [`Error::ObjectCondition`], [`Error::NoObject`] and [`Error::ObjectPath`] name the object at fault; otherwise as [`Repository::commit`].
    pub async fn commit_objects(&self, branch: &str, commit: ObjectCommit) -> Result<ObjectsCommitted> {
        let message = commit.said();
        let changes = vec![Change::Apply(Box::new(ObjectChanges::new(commit.changes)?))];
        let request = CommitRequest { metadata: commit.metadata, ..CommitRequest::new(commit.author, message, changes) };
        match self.commit(branch, request).await {
            Ok(made) => Ok(ObjectsCommitted { commit: made.commit, changed: true }),
            Err(Error::NothingChanged { .. }) => Ok(ObjectsCommitted { commit: self.branch(branch).await?.head, changed: false }),
            Err(error) => Err(error),
        }
    }

    /// Takes files of the object store under version control, in one commit. Each is read once for its checksums and stays where it is; `progress` is told
    /// of each when that is done.
    ///
    /// # Errors
    /// [`Error::NoOriginal`] where there is no such file; [`Error::ImportChanged`] where one changes meanwhile; otherwise as
    /// [`Repository::commit_objects`].
    pub async fn import_objects(
        &self,
        branch: &str,
        import: ObjectImport,
        mut progress: impl FnMut(&ObjectInfo) + Send,
    ) -> Result<(ObjectsCommitted, Vec<ObjectInfo>)> {
        self.branch(branch).await?;
        let (mut changes, mut imported) = (Vec::new(), Vec::new());
        for (path, original) in originals(&self.store, &import).await? {
            let entry = hash_original(&self.store, &path, &original).await?;
            changes.push(ObjectChange::Put { path: path.clone(), entry: entry.clone(), condition: import.condition });
            let info = ObjectInfo { path, entry };
            progress(&info);
            imported.push(info);
        }
        let message = if import.message.is_empty() { format!("import {}", import.source) } else { import.message };
        let committed = self.commit_objects(branch, ObjectCommit::new(import.author, message, changes)).await?;
        Ok((committed, imported))
    }
}

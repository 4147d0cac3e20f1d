//! Objects: files of any size under version control, streamed in and out.

use std::ops::Range;

use anabranch_versioning::{
    CommitId, MapReader, ObjectChange, ObjectCommit, ObjectCondition, ObjectEntry, ObjectImport, ObjectInfo, ObjectItem, ObjectPage, ObjectQuery,
    ObjectReader, ObjectWriter, ObjectsCommitted, object_key,
};
use bytes::Bytes;

use super::{Repo, Scope};
use crate::error::{Error, Result};

/// How many items a listing gives where the caller does not say.
const DEFAULT_LIMIT: usize = 1000;

/// The most changes of one call, so that what waits for its commit is bounded.
const MAX_CHANGES: usize = 100_000;

/// A change of one object with what all of them take.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) condition: ObjectCondition,
    pub(crate) author: String,
    pub(crate) message: String,
}

/// Objects on their way in, to be put in one commit. Dropped before that, it leaves garbage that nothing names.
pub(crate) struct PutObjects {
    scope: Scope,
    branch: String,
    author: String,
    message: String,
    writing: Option<(String, ObjectCondition, ObjectWriter)>,
    done: Vec<ObjectChange>,
    put: Vec<ObjectInfo>,
    written: u64,
}

impl PutObjects {
    /// Begins the next object, ending the one before.
    pub(crate) async fn begin(&mut self, path: String, content_type: &str, condition: ObjectCondition) -> Result<()> {
        self.end().await?;
        if self.done.len() == MAX_CHANGES {
            return Err(Error::argument("objects", format!("there are over {MAX_CHANGES}: put fewer in one commit")));
        }
        let writer = self.scope.repo.versions.object_writer(&path, content_type)?;
        self.writing = Some((path, condition, writer));
        Ok(())
    }

    /// Adds bytes to the object begun last.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some((path, _, writer)) = &mut self.writing else {
            return Err(Error::argument("stream", "bytes came before the header of their object"));
        };
        self.written += bytes.len() as u64;
        let limit = self.scope.app.config().limits.upload_bytes;
        if self.written > limit {
            let message = format!(
                "object {path:?}: the upload has more than the {limit} bytes that limits.upload_bytes allows: import the file, or raise the limit"
            );
            return Err(Error::Part { kind: anabranch_core::ErrorKind::Exhausted, message, details: serde_json::json!({"limit_bytes": limit}) });
        }
        Ok(writer.write(bytes).await?)
    }

    async fn end(&mut self) -> Result<()> {
        if let Some((path, condition, writer)) = self.writing.take() {
            let entry = writer.finish().await?;
            self.done.push(ObjectChange::Put { path: path.clone(), entry: entry.clone(), condition });
            self.put.push(ObjectInfo { path, entry });
        }
        Ok(())
    }

    /// Gives the upload up.
    pub(crate) async fn abort(self) {
        if let Some((_, _, writer)) = self.writing {
            writer.abort().await;
        }
    }

    /// Commits what was put.
    pub(crate) async fn commit(mut self) -> Result<(ObjectsCommitted, Vec<ObjectInfo>)> {
        self.end().await?;
        if self.done.is_empty() {
            return Err(Error::argument("stream", "there is no object in it"));
        }
        let commit = ObjectCommit::new(self.author, self.message, self.done);
        Ok((self.scope.repo.versions.commit_objects(&self.branch, commit).await?, self.put))
    }
}

impl Scope {
    /// Begins to put objects on the scope's branch.
    pub(crate) async fn put_objects(self, author: &str, message: String) -> Result<PutObjects> {
        let branch = self.branch().await?.name;
        let author = Self::author(author);
        Ok(PutObjects { scope: self, branch, author, message, writing: None, done: Vec::new(), put: Vec::new(), written: 0 })
    }

    /// What stands at a path, and the commit that the scope's ref names.
    pub(crate) async fn stat_object(&self, path: &str) -> Result<(CommitId, ObjectInfo)> {
        let commit = self.resolve().await?.commit;
        Ok((commit, self.repo.versions.stat_object(&commit, path).await?))
    }

    /// Opens an object that was looked up.
    pub(crate) async fn open_object(&self, info: ObjectInfo, range: Option<Range<u64>>) -> Result<ObjectReader> {
        Ok(self.repo.versions.open_object(info, range).await?)
    }

    /// A page of the objects at the scope's ref; a limit of 0 is the default.
    pub(crate) async fn list_objects(&self, query: ObjectQuery) -> Result<(CommitId, ObjectPage)> {
        let commit = self.resolve().await?.commit;
        let limit = if query.limit == 0 { DEFAULT_LIMIT } else { query.limit };
        Ok((commit, self.repo.versions.list_objects(&commit, &ObjectQuery { limit, ..query }).await?))
    }

    /// Deletes objects in one commit.
    pub(crate) async fn delete_objects(&self, paths: Vec<String>, wanted: Wanted) -> Result<ObjectsCommitted> {
        if paths.is_empty() || paths.len() > MAX_CHANGES {
            return Err(Error::argument("paths", format!("there are {}: name 1 to {MAX_CHANGES} objects", paths.len())));
        }
        let condition = wanted.condition;
        self.change_objects(paths.into_iter().map(|path| ObjectChange::Delete { path, condition }).collect(), wanted).await
    }

    /// Gives the content of an object, at the scope's ref or another, another path too.
    pub(crate) async fn copy_object(&self, from_ref: &str, from: &str, to: String, wanted: Wanted) -> Result<ObjectsCommitted> {
        let from_ref = if from_ref.is_empty() { &self.reference } else { from_ref };
        let source = self.resolve_ref(from_ref).await?.commit;
        let entry = self.repo.versions.stat_object(&source, from).await?.entry;
        let condition = wanted.condition;
        let message = if wanted.message.is_empty() { format!("copy {from} to {to}") } else { wanted.message };
        self.change_objects(vec![ObjectChange::Put { path: to, entry, condition }], Wanted { message, ..wanted }).await
    }

    /// Gives an object another path.
    pub(crate) async fn rename_object(&self, from: String, to: String, wanted: Wanted) -> Result<ObjectsCommitted> {
        let condition = wanted.condition;
        self.change_objects(vec![ObjectChange::Rename { from, to, condition }], wanted).await
    }

    async fn change_objects(&self, changes: Vec<ObjectChange>, wanted: Wanted) -> Result<ObjectsCommitted> {
        let branch = self.branch().await?;
        let commit = ObjectCommit::new(Self::author(&wanted.author), wanted.message, changes);
        Ok(self.repo.versions.commit_objects(&branch.name, commit).await?)
    }

    /// Takes files of the object store under version control where they are.
    pub(crate) async fn import_objects(&self, source: String, to: String, wanted: Wanted) -> Result<(ObjectsCommitted, Vec<ObjectInfo>)> {
        let branch = self.branch().await?;
        let Wanted { condition, author, message } = wanted;
        let import = ObjectImport { source, to, condition, author: Self::author(&author), message };
        Ok(self.repo.versions.import_objects(&branch.name, import, |_| ()).await?)
    }
}

impl Repo {
    /// The bytes of an object in one state of the map, if it is there; for what is known to be small.
    pub(crate) async fn object(&self, map: &dyn MapReader, path: &str) -> Result<Option<Bytes>> {
        let Some(value) = map.get(&object_key(path)?).await? else { return Ok(None) };
        let info = ObjectInfo { path: path.to_owned(), entry: ObjectEntry::from_bytes(&value)? };
        Ok(Some(self.versions.open_object(info, None).await?.bytes().await?))
    }

    /// The paths and bytes of all objects whose path begins with `prefix`, by path; for what is known to be small.
    pub(crate) async fn objects(&self, map: &dyn MapReader, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        let (mut query, mut found) = (ObjectQuery::prefix(prefix), Vec::new());
        loop {
            let page = self.versions.list_objects_in(map, &query).await?;
            for item in page.items {
                if let ObjectItem::Object(info) = item {
                    let path = info.path.clone();
                    found.push((path, self.versions.open_object(info, None).await?.bytes().await?));
                }
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(found),
            }
        }
    }
}

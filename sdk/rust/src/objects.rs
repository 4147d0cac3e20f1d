//! Objects: files of any size under version control, streamed in and out.
//!
//! What is put in one call is one commit, all or none; a call that breaks off leaves nothing. What is read was verified by the server piece by piece: an
//! error in midstream says that what follows cannot be had, and what came before it is sound.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_proto::v1;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use futures::{FutureExt, Stream};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tonic::Streaming;

use crate::client::{Retry, unary};
use crate::upload::upload;
use crate::{Client, Error};

const CHUNK_BYTES: usize = 256 << 10;

/// An object at a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Object {
    /// Its path.
    pub path: String,
    /// How many bytes it has.
    pub size: u64,
    /// `blake3:` and 64 hex digits.
    pub checksum: String,
    /// What its bytes are, as a media type.
    pub content_type: String,
    /// Where it lies: `blob:…`, `stored:…` or `import:…`.
    pub address: String,
    /// It lies in a file of the object store that is not the repository's own.
    pub imported: bool,
}

/// What must stand at a path for a change to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ObjectCondition {
    /// Anything or nothing.
    #[default]
    Any,
    /// Nothing.
    Absent,
    /// Something.
    Present,
    /// An object of this checksum.
    Checksum(String),
}

/// Where the bytes of a new object come from.
pub enum ObjectSource {
    /// From memory.
    Bytes(Bytes),
    /// From a file.
    File(PathBuf),
    /// From a reader; the name is for messages.
    Reader(String, Box<dyn AsyncRead + Send + Unpin>),
}

/// An object to be put.
pub struct NewObject {
    /// Where it goes.
    pub path: String,
    /// Its bytes.
    pub source: ObjectSource,
    /// What its bytes are; empty to go by the path's ending.
    pub content_type: String,
    /// What must be there.
    pub condition: ObjectCondition,
}

impl NewObject {
    /// An object that replaces whatever is there.
    pub fn new(path: impl Into<String>, source: ObjectSource) -> Self {
        Self { path: path.into(), source, content_type: String::new(), condition: ObjectCondition::Any }
    }
}

/// What a change of objects did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectsCommitted {
    /// The new commit, or the head where nothing changed.
    pub commit: String,
    /// Whether anything changed.
    pub changed: bool,
    /// What was put or imported.
    pub objects: Vec<Object>,
}

/// Which objects to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectQuery {
    /// Only paths that begin so.
    pub prefix: String,
    /// Where given, paths that hold it behind the prefix come as one, up to and with it.
    pub delimiter: String,
    /// `next` of the page before.
    pub after: String,
    /// The most items; 0 for 1,000.
    pub limit: u32,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectPage {
    /// The commit that was listed.
    pub commit: String,
    /// Objects, by path.
    pub objects: Vec<Object>,
    /// What several paths begin with, up to and with the delimiter.
    pub prefixes: Vec<String>,
    /// Where the next part begins; `None` at the end.
    pub next: Option<String>,
}

/// An object on its way out.
#[derive(Debug)]
pub struct ObjectDownload {
    /// The commit that it is read at.
    pub commit: String,
    /// What it is.
    pub object: Object,
    client: Client,
    chunks: Streaming<v1::GetObjectChunk>,
}

impl ObjectDownload {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// `internal` where the object is damaged from here on, `failed_precondition` where an imported original has changed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self.chunks.message().await.map_err(|status| self.client.error(&status))? {
            None => Ok(None),
            Some(v1::GetObjectChunk { part: Some(v1::get_object_chunk::Part::Data(data)) }) => Ok(Some(data)),
            Some(_) => Err(Error::Protocol("something else than bytes came in the midst of an object".to_owned())),
        }
    }

    /// All that is left.
    ///
    /// # Errors
    /// As [`ObjectDownload::next`].
    pub async fn bytes(mut self) -> Result<Bytes, Error> {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }
}

impl Client {
    /// Puts objects in one commit. `progress` is told how many bytes have been sent. The same content again changes nothing.
    ///
    /// # Errors
    /// [`Error::File`] where a source cannot be read, `failed_precondition` where a condition does not hold; then nothing is put.
    pub async fn put_objects(
        &self,
        objects: Vec<NewObject>,
        message: &str,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<ObjectsCommitted, Error> {
        use v1::put_object_chunk::Part;
        let header = v1::PutObjectsHeader { target: Some(self.target()), author: self.author(), message: message.to_owned() };
        let progress = Arc::new(Mutex::new((0_u64, progress)));
        let parts = stream::iter(objects).flat_map(move |object| parts(object, Arc::clone(&progress)));
        let source = stream::iter([Ok(Part::Header(header))]).chain(parts);
        let source = source.map(|part| part.map(|part| v1::PutObjectChunk { part: Some(part) }));
        let (messages, mut failure) = upload(source, v1::PutObjectChunk { part: None });
        let mut service = self.objects_service();
        let answer = async move { service.put(messages).await }.boxed();
        let reply = self.uploaded(answer, &mut failure).await?.into_inner();
        Ok(put(reply))
    }

    /// Puts one object.
    ///
    /// # Errors
    /// As [`Client::put_objects`].
    pub async fn put_object(&self, path: &str, bytes: impl Into<Bytes>, message: &str) -> Result<ObjectsCommitted, Error> {
        self.put_objects(vec![NewObject::new(path, ObjectSource::Bytes(bytes.into()))], message, |_| ()).await
    }

    /// Opens an object, or those bytes of a range that it has.
    ///
    /// # Errors
    /// `not_found` where there is none, `invalid_argument` for a range that begins behind its end.
    pub async fn get_object(&self, path: &str, range: Option<Range<u64>>) -> Result<ObjectDownload, Error> {
        let length = range.as_ref().filter(|range| range.end != u64::MAX).map(|range| range.end.saturating_sub(range.start));
        let offset = range.map_or(0, |range| range.start);
        let request = v1::GetObjectRequest { target: Some(self.target()), path: path.to_owned(), offset, length };
        let mut chunks = unary!(self, objects_service.get(request), Retry::Safe).await?;
        match chunks.message().await.map_err(|status| self.error(&status))?.and_then(|chunk| chunk.part) {
            Some(v1::get_object_chunk::Part::Object(v1::ObjectAt { commit, object: Some(found) })) => {
                Ok(ObjectDownload { commit, object: object(found), client: self.clone(), chunks })
            }
            _ => Err(Error::Protocol("an object did not begin with what it is".to_owned())),
        }
    }

    /// Writes an object to a file, which appears under its name when it is whole. `progress` is told the size and how many bytes have come.
    ///
    /// # Errors
    /// As [`Client::get_object`] and [`ObjectDownload::next`]; [`Error::File`] where the file cannot be written.
    pub async fn download_object(&self, path: &str, file: &Path, progress: impl FnMut(u64, u64) + Send) -> Result<Object, Error> {
        let mut download = self.get_object(path, None).await?;
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let staged = PathBuf::from(name);
        let written = write(&mut download, &staged, progress).await;
        let named = match written {
            Ok(()) => tokio::fs::rename(&staged, file).await.map_err(|source| Error::File { path: file.display().to_string(), source }),
            Err(error) => Err(error),
        };
        if named.is_err() {
            // Litter at most.
            let _ = tokio::fs::remove_file(&staged).await;
        }
        named.map(|()| download.object)
    }

    /// What stands at a path.
    ///
    /// # Errors
    /// `not_found` where there is nothing.
    pub async fn stat_object(&self, path: &str) -> Result<Object, Error> {
        let request = v1::StatObjectRequest { target: Some(self.target()), path: path.to_owned() };
        let reply = unary!(self, objects_service.stat(request), Retry::Safe).await?;
        reply.object.map(object).ok_or_else(|| Error::Protocol("no object came".to_owned()))
    }

    /// A page of the objects at the client's ref, in the byte order of paths.
    ///
    /// # Errors
    /// `not_found` for an unknown ref.
    pub async fn list_objects(&self, query: &ObjectQuery) -> Result<ObjectPage, Error> {
        let ObjectQuery { prefix, delimiter, after, limit } = query.clone();
        let request = v1::ListObjectsRequest { target: Some(self.target()), prefix, delimiter, after, limit };
        let reply = unary!(self, objects_service.list(request), Retry::Safe).await?;
        let mut page = ObjectPage { commit: reply.commit, objects: Vec::new(), prefixes: Vec::new(), next: None };
        for item in reply.items {
            match item.item {
                Some(v1::object_item::Item::Object(found)) => page.objects.push(object(found)),
                Some(v1::object_item::Item::Prefix(prefix)) => page.prefixes.push(prefix),
                None => return Err(Error::Protocol("an empty line of a listing came".to_owned())),
            }
        }
        page.next = Some(reply.next).filter(|next| !next.is_empty());
        Ok(page)
    }

    /// Deletes objects in one commit, all or none.
    ///
    /// # Errors
    /// `not_found` where one is not there.
    pub async fn delete_objects(&self, paths: Vec<String>, condition: &ObjectCondition, message: &str) -> Result<ObjectsCommitted, Error> {
        let (author, message) = (self.author(), message.to_owned());
        let request = v1::DeleteObjectsRequest { target: Some(self.target()), paths, condition: wire(condition), author, message };
        unary!(self, objects_service.delete(request), Retry::Never).await.map(committed)
    }

    /// Gives the content of an object another path, too; nothing is copied. `from_ref` is where it is read, empty for the client's ref.
    ///
    /// # Errors
    /// `not_found` where it is not there, `failed_precondition` where the condition does not hold.
    pub async fn copy_object(
        &self,
        from_ref: &str,
        from: &str,
        to: &str,
        condition: &ObjectCondition,
        message: &str,
    ) -> Result<ObjectsCommitted, Error> {
        let request = v1::CopyObjectRequest {
            target: Some(self.target()),
            from_ref: from_ref.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            condition: wire(condition),
            author: self.author(),
            message: message.to_owned(),
        };
        unary!(self, objects_service.copy(request), Retry::Never).await.map(committed)
    }

    /// Gives an object another path.
    ///
    /// # Errors
    /// As [`Client::copy_object`].
    pub async fn rename_object(&self, from: &str, to: &str, condition: &ObjectCondition, message: &str) -> Result<ObjectsCommitted, Error> {
        let request = v1::RenameObjectRequest {
            target: Some(self.target()),
            from: from.to_owned(),
            to: to.to_owned(),
            condition: wire(condition),
            author: self.author(),
            message: message.to_owned(),
        };
        unary!(self, objects_service.rename(request), Retry::Never).await.map(committed)
    }

    /// Takes a file of the object store, or all files of a folder of it, under version control; they are read once and stay where they are. There is no
    /// time limit.
    ///
    /// # Errors
    /// `not_found` where there is no such file, `failed_precondition` where one changes meanwhile.
    pub async fn import_objects(&self, source: &str, to: &str, condition: &ObjectCondition, message: &str) -> Result<ObjectsCommitted, Error> {
        let request = v1::ImportObjectsRequest {
            target: Some(self.target()),
            source: source.to_owned(),
            to: to.to_owned(),
            condition: wire(condition),
            author: self.author(),
            message: message.to_owned(),
        };
        let reply = self.objects_service().import(request).await.map_err(|status| self.error(&status))?;
        Ok(put(reply.into_inner()))
    }
}

type Parts = BoxStream<'static, Result<v1::put_object_chunk::Part, Error>>;

/// The header of an object, then its bytes.
fn parts<F: FnMut(u64) + Send + 'static>(object: NewObject, progress: Arc<Mutex<(u64, F)>>) -> Parts {
    use v1::put_object_chunk::Part;
    let NewObject { path, source, content_type, condition } = object;
    let header = v1::PutObjectHeader { path, content_type, condition: wire(&condition) };
    let told = move |chunk: Bytes| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        let (sent, tell) = &mut *progress;
        *sent += chunk.len() as u64;
        tell(*sent);
        Part::Data(chunk)
    };
    let bytes = opened(source).map(move |chunk| chunk.map(&told));
    stream::iter([Ok(Part::Object(header))]).chain(bytes).boxed()
}

fn opened(source: ObjectSource) -> BoxStream<'static, Result<Bytes, Error>> {
    match source {
        ObjectSource::Bytes(mut bytes) => {
            let next = move || (!bytes.is_empty()).then(|| Ok(bytes.split_to(bytes.len().min(CHUNK_BYTES))));
            stream::iter(std::iter::from_fn(next)).boxed()
        }
        ObjectSource::Reader(name, reader) => chunks(name, reader).boxed(),
        ObjectSource::File(path) => {
            let name = path.display().to_string();
            let open = async move {
                match tokio::fs::File::open(&path).await {
                    Ok(file) => chunks(name, file).boxed(),
                    Err(source) => stream::iter([Err(Error::File { path: name, source })]).boxed(),
                }
            };
            open.flatten_stream().boxed()
        }
    }
}

fn chunks(name: String, reader: impl AsyncRead + Unpin + Send + 'static) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    stream::unfold((reader, name), |(mut reader, name)| async move {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        while chunk.len() < CHUNK_BYTES {
            match reader.read_buf(&mut chunk).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(source) => return Some((Err(Error::File { path: name.clone(), source }), (reader, name))),
            }
        }
        (!chunk.is_empty()).then(|| (Ok(chunk.freeze()), (reader, name)))
    })
}

async fn write(download: &mut ObjectDownload, staged: &Path, mut progress: impl FnMut(u64, u64) + Send) -> Result<(), Error> {
    let failed = |source| Error::File { path: staged.display().to_string(), source };
    let mut file = tokio::fs::File::create(staged).await.map_err(failed)?;
    let mut come = 0;
    while let Some(bytes) = download.next().await? {
        file.write_all(&bytes).await.map_err(failed)?;
        come += bytes.len() as u64;
        progress(download.object.size, come);
    }
    file.flush().await.map_err(failed)
}

fn object(object: v1::Object) -> Object {
    let v1::Object { path, size, checksum, content_type, address, imported } = object;
    Object { path, size, checksum, content_type, address, imported }
}

fn put(reply: v1::PutObjectsReply) -> ObjectsCommitted {
    ObjectsCommitted { commit: reply.commit, changed: reply.changed, objects: reply.objects.into_iter().map(object).collect() }
}

fn committed(reply: v1::ObjectCommitReply) -> ObjectsCommitted {
    ObjectsCommitted { commit: reply.commit, changed: reply.changed, objects: Vec::new() }
}

fn wire(condition: &ObjectCondition) -> Option<v1::ObjectCondition> {
    use v1::object_condition::Condition;
    let condition = match condition {
        ObjectCondition::Any => return None,
        ObjectCondition::Absent => Condition::Absent(true),
        ObjectCondition::Present => Condition::Present(true),
        ObjectCondition::Checksum(checksum) => Condition::Checksum(checksum.clone()),
    };
    Some(v1::ObjectCondition { condition: Some(condition) })
}

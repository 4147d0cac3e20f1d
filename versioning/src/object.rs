//! Objects: files of any size under version control, each named by a path and described by an entry of the map.
//!
//! The key of an object has one part, its path: 1 to 1,024 bytes of UTF-8 without control characters, whose pieces between `/` are neither empty nor `.`
//! nor `..` ([`check_object_path`]). The value is canonical JSON, its fields in the order of their names:
//!
//! ```text
//! {"address":"blob:<64 hex digits>","checksum":"blake3:<64 hex digits>","content_type":"application/json","format":1,"size":123}
//! {"address":"stored:<32 hex digits>","checksum":"blake3:<…>","content_type":"…","format":2,"pieces":"blake3:<…>","size":3145729}
//! {"address":"import:<path in the object store>","checksum":"blake3:<…>","content_type":"…","format":2,"size":17}
//! ```
//!
//! | address | where the bytes lie | verified on read |
//! | -- | -- | -- |
//! | `blob` | `blobs/<checksum>`: at most [`PIECE_BYTES`] (written; up to 64 MiB is read) | as a whole |
//! | `stored` | `objects/<id>`, a fresh id for each upload | piece by piece |
//! | `import` | a file that was in the object store before, never copied, changed or deleted by us | piece by piece |
//!
//! `pieces` names the blob of the BLAKE3 hashes, 32 bytes each, of every [`PIECE_BYTES`] of the file in order, so that a range is verified without reading
//! the rest. A file of one piece has none: its checksum is the hash of its piece. Entries of format 1 are blobs, those of format 2 are not; a reader
//! refuses a format that it does not know.
//!
//! How a file comes in, and what is left if that ends early ([`ObjectWriter`], then [`Repository::commit_objects`](crate::Repository::commit_objects)):
//!
//! | after | left behind | visible | tested by |
//! | -- | -- | -- | -- |
//! | some bytes were written | a staged upload that no reader sees, removed when the writer is dropped | nothing | `an_upload_that_is_given_up_leaves_nothing` |
//! | the upload is complete | `objects/<id>` that nothing names: garbage | nothing | `power_lost_at_any_step_of_a_put_leaves_all_or_nothing` |
//! | the blob of piece hashes is written | that too | nothing | as above |
//! | the commit | nothing | the object, whole and durable | as above |
//!
//! Nothing unverified is ever given out: a piece that does not fit its hash ends the read with [`Error::Corrupt`], or with
//! [`Error::ImportChanged`] where the file is not ours.

mod change;
mod import;
mod list;
mod owner;
mod reader;
mod writer;

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

pub(crate) use change::ObjectChanges;
pub use change::{ObjectChange, ObjectCommit, ObjectCondition, ObjectsCommitted};
pub use import::ObjectImport;
pub(crate) use import::{hash_original, originals};
pub(crate) use list::list;
pub use list::{ObjectItem, ObjectPage, ObjectQuery};
pub use owner::ObjectOwner;
pub use reader::ObjectReader;
pub use writer::ObjectWriter;

use crate::{Digest, Error, Key, KeyKind, Result};

/// What is verified as one when a range is read.
pub const PIECE_BYTES: u64 = 1 << 20;

/// The longest path of an object.
pub const MAX_OBJECT_PATH_BYTES: usize = 1024;

/// The content type of an object whose maker gave none.
const UNKNOWN_CONTENT: &str = "application/octet-stream";

/// The longest content type.
const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// Where the bytes of an object lie.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectAddress {
    /// In a blob of this name.
    Blob(Digest),
    /// In a file of our own, `objects/<32 hex digits>`.
    Stored(u128),
    /// In a file of the object store that is not ours: its path there.
    Imported(String),
}

impl ObjectAddress {
    /// The path in the object store.
    pub fn location(&self) -> Path {
        match self {
            Self::Blob(digest) => Path::from(format!("blobs/{digest}")),
            Self::Stored(id) => Path::from(format!("objects/{id:032x}")),
            // Parsed when the entry was made or read, so that it parses now.
            Self::Imported(path) => Path::parse(path).unwrap_or_default(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("blob", digest) => digest.parse().ok().map(Self::Blob),
            ("stored", id) if id.len() == 32 && !id.starts_with('+') => u128::from_str_radix(id, 16).ok().map(Self::Stored),
            ("import", path) => Path::parse(path).ok().filter(|parsed| parsed.as_ref() == path).map(|_| Self::Imported(path.to_owned())),
            _ => None,
        }
    }
}

/// As the entry has it: `blob:…`, `stored:…` or `import:…`.
impl fmt::Display for ObjectAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "blob:{digest}"),
            Self::Stored(id) => write!(f, "stored:{id:032x}"),
            Self::Imported(path) => write!(f, "import:{path}"),
        }
    }
}

/// What the map holds of an object. Whatever it names is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEntry {
    address: ObjectAddress,
    checksum: Digest,
    content_type: String,
    size: u64,
    pieces: Option<Digest>,
}

/// An entry as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    address: String,
    checksum: String,
    content_type: String,
    format: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pieces: Option<String>,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Format {
    format: u64,
}

impl ObjectEntry {
    /// Where its bytes lie.
    pub fn address(&self) -> &ObjectAddress {
        &self.address
    }

    /// The BLAKE3 hash of its bytes.
    pub fn checksum(&self) -> Digest {
        self.checksum
    }

    /// What its bytes are, as a media type.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The blob that holds the hashes of its pieces; `None` for a blob and for a file of one piece.
    pub fn pieces(&self) -> Option<Digest> {
        self.pieces
    }

    /// Whether its bytes were in the object store before and are not ours.
    pub fn is_imported(&self) -> bool {
        matches!(self.address, ObjectAddress::Imported(_))
    }

    /// Whether two entries have the same content, wherever it lies.
    fn same_content(&self, other: &Self) -> bool {
        (self.checksum, self.size, &self.content_type) == (other.checksum, other.size, &other.content_type)
    }

    /// An object whose bytes are a blob.
    fn of_blob(digest: Digest, content_type: String, size: u64) -> Self {
        Self { address: ObjectAddress::Blob(digest), checksum: digest, content_type, size, pieces: None }
    }

    /// The value in the map.
    pub fn to_bytes(&self) -> Bytes {
        let written = Written {
            address: self.address.to_string(),
            checksum: format!("blake3:{}", self.checksum),
            content_type: self.content_type.clone(),
            format: if matches!(self.address, ObjectAddress::Blob(_)) { 1 } else { 2 },
            pieces: self.pieces.map(|pieces| format!("blake3:{pieces}")),
            size: self.size,
        };
        // Fields are declared in the order of their names, so the JSON is canonical; strings and numbers always serialise.
        serde_json::to_vec(&written).unwrap_or_default().into()
    }

    /// Reads a value of the map.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for bytes that are no entry, or one of a format that is not known.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let damaged = |reason: String| Error::corrupt("an object's entry", reason);
        let read = |error: serde_json::Error| damaged(error.to_string());
        let format = serde_json::from_slice::<Format>(bytes).map_err(read)?.format;
        if !(1..=2).contains(&format) {
            return Err(damaged(format!("format {format} is not known to this version, which reads 1 and 2")));
        }
        let written: Written = serde_json::from_slice(bytes).map_err(read)?;
        let digest = |text: &str| text.strip_prefix("blake3:").and_then(|hex| hex.parse::<Digest>().ok());
        let address = ObjectAddress::parse(&written.address).ok_or_else(|| damaged(format!("no address: {:?}", written.address)))?;
        let checksum = digest(&written.checksum).ok_or_else(|| damaged(format!("no checksum: {:?}", written.checksum)))?;
        let pieces = written.pieces.as_deref().map(|text| digest(text).ok_or_else(|| damaged(format!("no digest: {text:?}")))).transpose()?;
        let fits = match &address {
            ObjectAddress::Blob(digest) => format == 1 && *digest == checksum && pieces.is_none(),
            _ => format == 2 && pieces.is_some() == (written.size > PIECE_BYTES),
        };
        if !fits {
            return Err(damaged("its fields contradict each other".to_owned()));
        }
        Ok(Self { address, checksum, content_type: written.content_type, size: written.size, pieces })
    }

    /// What errors call it.
    fn named(&self, path: &str) -> String {
        format!("object {path:?} at {}", self.address.location())
    }

    /// What went wrong with the bytes: damage of ours, or a change of what was imported.
    fn wrong(&self, path: &str, reason: impl Into<String>) -> Error {
        let reason: String = reason.into();
        match &self.address {
            ObjectAddress::Imported(address) => Error::ImportChanged { path: path.into(), address: address.as_str().into(), reason: reason.into() },
            _ => Error::corrupt(self.named(path), reason),
        }
    }

    /// The part of a range that the object has.
    fn clip(&self, range: Option<Range<u64>>) -> Result<Range<u64>> {
        let Some(Range { start, end }) = range else { return Ok(0..self.size) };
        if start > end || start > self.size {
            return Err(Error::invalid("range", format!("{start}..{end} does not begin within the {} bytes of the object", self.size)));
        }
        Ok(start..end.min(self.size))
    }
}

/// An object at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its path.
    pub path: String,
    /// What it is.
    pub entry: ObjectEntry,
}

/// The key of an object.
///
/// # Errors
/// As [`check_object_path`].
pub fn object_key(path: &str) -> Result<Key> {
    check_object_path(path)?;
    Key::new(KeyKind::Object, &[path.as_bytes()])
}

/// Holds a path to the rules.
///
/// # Errors
/// [`Error::ObjectPath`] that says which rule it breaks.
pub fn check_object_path(path: &str) -> Result<()> {
    let refuse = |reason| Err(Error::ObjectPath { path: path.chars().take(100).collect(), reason });
    if path.is_empty() {
        return refuse("it is empty");
    }
    if path.len() > MAX_OBJECT_PATH_BYTES {
        return refuse("it is over 1,024 bytes");
    }
    if path.chars().any(char::is_control) {
        return refuse("it holds a control character");
    }
    if path.split('/').any(|piece| matches!(piece, "" | "." | "..")) {
        return refuse("between slashes stands nothing, \".\" or \"..\"");
    }
    Ok(())
}

/// The content type to keep: what was given, or what the path's ending says.
fn content_type(given: &str, path: &str) -> Result<String> {
    if given.len() > MAX_CONTENT_TYPE_BYTES || !given.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(Error::invalid("content type", format!("{given:?} is no media type of at most {MAX_CONTENT_TYPE_BYTES} printable characters")));
    }
    Ok(if given.is_empty() { guessed(path) } else { given }.to_owned())
}

fn guessed(path: &str) -> &'static str {
    let ending = path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map(|(_, ending)| ending.to_ascii_lowercase());
    match ending.as_deref() {
        Some("json") => "application/json",
        Some("jsonl" | "ndjson") => "application/x-ndjson",
        Some("yaml" | "yml") => "application/yaml",
        Some("toml") => "application/toml",
        Some("txt" | "log" | "md") => "text/plain; charset=utf-8",
        Some("csv") => "text/csv",
        Some("parquet") => "application/vnd.apache.parquet",
        Some("arrow") => "application/vnd.apache.arrow.file",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("zip") => "application/zip",
        Some("gz" | "tgz") => "application/gzip",
        Some("zst") => "application/zstd",
        Some("tar") => "application/x-tar",
        _ => UNKNOWN_CONTENT,
    }
}

/// How many pieces a file has.
fn piece_count(size: u64) -> u64 {
    size.div_ceil(PIECE_BYTES)
}

#[cfg(test)]
mod tests;

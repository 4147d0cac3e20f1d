//! Files that lie in the object store already: they are read once for their checksums, and stay where they are.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};

use super::writer::PieceHasher;
use super::{ObjectAddress, ObjectCondition, ObjectEntry, PIECE_BYTES, content_type};
use crate::store::Store;
use crate::{Error, MAX_PAGE, Result};

/// What belongs to a repository, or to its tables, and is deleted when nothing needs it any more.
const OURS: [&str; 5] = ["packs", "blobs", "objects", "data", "metadata"];

/// How much of an original is read at once.
const READ_BYTES: u64 = 4 * PIECE_BYTES;

/// Files of the object store to be taken under version control.
#[derive(Debug, Clone, Default)]
pub struct ObjectImport {
    /// A file of the object store, or a folder of it with all that lies beneath.
    pub source: String,
    /// The path of the object where the source is a file; where it is a folder, what stands for it in the paths of all. Empty for the source's own.
    pub to: String,
    /// What must be at each path.
    pub condition: ObjectCondition,
    /// Who does it.
    pub author: String,
    /// Why; where it is empty, what is done.
    pub message: String,
}

/// The files of a source, with the path that each gets, by address.
pub(crate) async fn originals(store: &Store, import: &ObjectImport) -> Result<Vec<(String, ObjectMeta)>> {
    let source = import.source.trim_matches('/');
    let refuse = |reason: String| Err(Error::invalid("import", reason));
    let Ok(location) = Path::parse(source) else {
        return refuse(format!("{:?} is no path in the object store", import.source));
    };
    let first = location.parts().next();
    let Some(first) = first else {
        return refuse("the source is empty: name a file or a folder in the object store".to_owned());
    };
    if OURS.contains(&first.as_ref()) {
        return refuse(format!(
            "{source:?} lies under {:?}, which is the repository's own: put the files elsewhere, such as under \"import\"",
            first.as_ref()
        ));
    }
    let to = if import.to.is_empty() { source } else { import.to.trim_end_matches('/') };
    let failed = |error| Error::backend(format!("reading {location}"), error);
    match store.objects.head(&location).await {
        Ok(found) => return Ok(vec![(to.to_owned(), found)]),
        Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(failed(error)),
    }
    let mut found = Vec::new();
    let mut files = store.objects.list(Some(&location));
    while let Some(file) = files.try_next().await.map_err(failed)? {
        if found.len() == MAX_PAGE {
            return refuse(format!("{source:?} holds more than {MAX_PAGE} files: import it folder by folder"));
        }
        let Some(rest) = file.location.as_ref().strip_prefix(location.as_ref()) else { continue };
        found.push((format!("{to}{rest}"), file));
    }
    if found.is_empty() {
        return Err(Error::NoOriginal(source.to_owned()));
    }
    found.sort_by(|left, right| left.0.cmp(&right.0));
    Ok(found)
}

/// The entry of an original, which is read for it. Fails if the original changes meanwhile.
pub(crate) async fn hash_original(store: &Store, path: &str, original: &ObjectMeta) -> Result<ObjectEntry> {
    let location = &original.location;
    super::check_object_path(path)?;
    let changed = |reason: &str| Error::ImportChanged { path: path.into(), address: location.as_ref().into(), reason: reason.into() };
    let failed = |error| match error {
        object_store::Error::NotFound { .. } => changed("it is missing"),
        error => Error::backend(format!("reading {location}"), error),
    };
    let mut hasher = PieceHasher::default();
    while hasher.size() < original.size {
        let end = original.size.min(hasher.size() + READ_BYTES);
        let bytes = store.objects.get_range(location, hasher.size()..end).await.map_err(failed)?;
        if bytes.is_empty() {
            return Err(changed("it became shorter while it was read"));
        }
        hasher.update(&bytes).await;
    }
    let now = store.objects.head(location).await.map_err(failed)?;
    if (now.size, now.last_modified, &now.e_tag) != (original.size, original.last_modified, &original.e_tag) {
        return Err(changed("it changed while it was read: import it when nobody writes it"));
    }
    hasher.finish(store, ObjectAddress::Imported(location.to_string()), content_type("", path)?).await
}

//! Changes of objects: judged against the head they are committed on, all or none.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;

use super::{ObjectEntry, object_key};
use crate::{Apply, ApplyError, Change, CommitId, Digest, Error, Expect, Key, MapReader, Result};

/// What must stand at a path for a change to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ObjectCondition {
    /// Anything or nothing.
    #[default]
    Any,
    /// Nothing.
    Absent,
    /// Something.
    Present,
    /// An object of this checksum.
    Checksum(Digest),
}

impl ObjectCondition {
    /// Why it does not hold.
    fn broken(self, found: Option<&ObjectEntry>) -> Option<String> {
        match (self, found) {
            (Self::Any, _) | (Self::Absent, None) | (Self::Present, Some(_)) => None,
            (Self::Absent, Some(found)) => Some(format!("there is one already, of checksum {}", found.checksum)),
            (Self::Present, None) => Some("there is none".to_owned()),
            (Self::Checksum(wanted), None) => Some(format!("there is none where one of checksum {wanted} was expected")),
            (Self::Checksum(wanted), Some(found)) => {
                (found.checksum != wanted).then(|| format!("it has checksum {} where {wanted} was expected", found.checksum))
            }
        }
    }
}

/// A change of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectChange {
    /// Puts what a writer, an import or another place gave at a path, and replaces what is there. The same content again changes nothing.
    Put {
        /// Where.
        path: String,
        /// What.
        entry: ObjectEntry,
        /// What must be there.
        condition: ObjectCondition,
    },
    /// Takes an object away.
    Delete {
        /// Where.
        path: String,
        /// What must be there; something in any case.
        condition: ObjectCondition,
    },
    /// Gives an object another path; nothing is copied.
    Rename {
        /// Where it is.
        from: String,
        /// Where it goes.
        to: String,
        /// What must be there before.
        condition: ObjectCondition,
    },
}

/// Changes of objects, to be made in one commit.
#[derive(Debug, Clone, Default)]
pub struct ObjectCommit {
    /// Who makes it.
    pub author: String,
    /// Why; where it is empty, what is done.
    pub message: String,
    /// Words for programs.
    pub metadata: BTreeMap<String, String>,
    /// Made in order; all or none.
    pub changes: Vec<ObjectChange>,
}

impl ObjectCommit {
    /// A commit of these changes.
    pub fn new(author: impl Into<String>, message: impl Into<String>, changes: Vec<ObjectChange>) -> Self {
        Self { author: author.into(), message: message.into(), metadata: BTreeMap::new(), changes }
    }

    /// The message, or one that says what is done.
    pub(crate) fn said(&self) -> String {
        if !self.message.is_empty() {
            return self.message.clone();
        }
        match self.changes.as_slice() {
            [ObjectChange::Put { path, .. }] => format!("put {path}"),
            [ObjectChange::Delete { path, .. }] => format!("delete {path}"),
            [ObjectChange::Rename { from, to, .. }] => format!("rename {from} to {to}"),
            changes => format!("change {} objects", changes.len()),
        }
    }
}

/// What a commit of objects did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectsCommitted {
    /// The commit, or the head where nothing changed.
    pub commit: CommitId,
    /// Whether anything changed.
    pub changed: bool,
}

/// The changes as the committer takes them: conditions are judged inside its queue, so that no other writer comes between.
#[derive(Debug)]
pub(crate) struct ObjectChanges(Vec<ObjectChange>);

impl ObjectChanges {
    /// Checks what can be said without the head.
    pub(crate) fn new(changes: Vec<ObjectChange>) -> Result<Self> {
        for change in &changes {
            match change {
                ObjectChange::Put { path, .. } | ObjectChange::Delete { path, .. } => object_key(path)?,
                ObjectChange::Rename { from, to, .. } => object_key(from).and(object_key(to))?,
            };
        }
        Ok(Self(changes))
    }
}

#[async_trait]
impl Apply for ObjectChanges {
    async fn apply(&mut self, head: &dyn MapReader) -> Result<Vec<Change>, ApplyError> {
        let mut state = State { head, edits: BTreeMap::new() };
        for change in &self.0 {
            state.make(change).await?;
        }
        let edit = |(key, value)| match value {
            Some(value) => Change::Put { key, value, expect: Expect::Any },
            None => Change::Delete { key, expect: Expect::Any },
        };
        Ok(state.edits.into_iter().map(edit).collect())
    }
}

/// The head, and what the changes so far make of it.
struct State<'a> {
    head: &'a dyn MapReader,
    edits: BTreeMap<Key, Option<Bytes>>,
}

impl State<'_> {
    async fn entry(&self, path: &str) -> Result<Option<ObjectEntry>> {
        let key = object_key(path)?;
        let value = match self.edits.get(&key) {
            Some(edited) => edited.clone(),
            None => self.head.get(&key).await?,
        };
        value.map(|value| ObjectEntry::from_bytes(&value)).transpose()
    }

    /// What stands at a path, if the condition holds.
    async fn check(&self, path: &str, condition: ObjectCondition) -> Result<Option<ObjectEntry>> {
        let found = self.entry(path).await?;
        match condition.broken(found.as_ref()) {
            Some(reason) => Err(Error::ObjectCondition { path: path.to_owned(), reason }),
            None => Ok(found),
        }
    }

    async fn make(&mut self, change: &ObjectChange) -> Result<()> {
        match change {
            ObjectChange::Put { path, entry, condition } => {
                let found = self.check(path, *condition).await?;
                // Also where it came by another upload, so that who puts the same twice makes one commit.
                if found.is_some_and(|found| found.same_content(entry) && found.is_imported() == entry.is_imported()) {
                    return Ok(());
                }
                self.edits.insert(object_key(path)?, Some(entry.to_bytes()));
            }
            ObjectChange::Delete { path, condition } => {
                self.check(path, *condition).await?.ok_or_else(|| Error::NoObject(path.clone()))?;
                self.edits.insert(object_key(path)?, None);
            }
            ObjectChange::Rename { from, to, condition } => {
                let entry = self.entry(from).await?.ok_or_else(|| Error::NoObject(from.clone()))?;
                self.check(to, *condition).await?;
                self.edits.insert(object_key(from)?, None);
                self.edits.insert(object_key(to)?, Some(entry.to_bytes()));
            }
        }
        Ok(())
    }
}

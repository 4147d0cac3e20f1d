//! Moving a repository, or some of its refs, as one file.
//!
//! [`export`] writes an *archive* ([`archive`] draws it): the refs, and every commit, node and file that they reach and the receiver lacks. What it reads it
//! verifies, so that damage is not carried on. [`import`] brings an archive in:
//!
//! ```text
//! read all of it, verify every byte ─▶ judge the refs ─▶ files ─▶ packs, indexed ─▶ walk from the new heads ─▶ move refs
//!                                  nothing is written before │                                                │ one transaction each
//! ```
//!
//! | cut short | then |
//! | -- | -- |
//! | before the refs are judged | nothing has happened |
//! | among files and packs | what is there already is passed over by the next import; until then it is garbage |
//! | between two refs | the refs that moved are whole; the next import moves the others |
//!
//! **Ids.** A commit's id, a table's uuid and a file's name are the same everywhere. Three sorts of numbers are a repository's own: source ids, branch ids,
//! and those of marks such as a table's columns.
//!
//! - Into an *empty* repository everything comes as it was, numbers included. Every mark is then raised by a random stride, so that what the two
//!   repositories give from then on does not meet.
//! - Into a repository that *shares history* (its commits include the archive's first ones; a clone made by import does), branches get ids of their own;
//!   offsets of the other's branches in their trees mean nothing here and are never consulted. Source ids that came since are taken over with their
//!   origin. Where both have given one id to two origins, rows could be taken for each other: refused, whatever is forced.
//! - Into a repository that shares no history: refused. Its ids are in data files, which are never rewritten by an import; import into an empty folder.
//!
//! A branch that has gone another way than the archive's is not moved unless forced, and no other ref then is either.

mod archive;
mod export;
mod import;
#[cfg(test)]
mod tests;

pub use archive::ArchiveInfo;
pub use export::{ExportRequest, Exported, export};
pub use import::{ImportRequest, Imported, RefOutcome, import, read_archive_info};

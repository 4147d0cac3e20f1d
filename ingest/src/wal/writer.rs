//! The writer: gathers what waits, writes it with one write and one sync, then answers.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_core::{Clock, Position, Timestamp};
use anabranch_versioning::files::FileHandle;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::format::{self, Header};
use super::keys::{KeyWindow, content_of};
use super::open::begin_segment;
use super::{Appended, LogEnd, NewRecord, QUEUE, Request, Shared, WalOptions};
use crate::{Error, Result};

/// A group is written when it has reached this size, even if more waits.
const GROUP_BYTES: usize = 16 << 20;

pub(super) struct Writer {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    options: WalOptions,
    /// The last segment.
    handle: Box<dyn FileHandle>,
    /// Bytes of a failed group may lie behind the durable length of the last segment.
    dirty: bool,
    keys: KeyWindow,
}

/// Appends that are written together.
#[derive(Default)]
struct Group {
    waiting: Vec<Waiting>,
    bytes: usize,
    rows: u64,
    arrival: Option<Timestamp>,
    /// Where in `waiting` the first push with a key stands.
    keys: HashMap<Bytes, usize>,
}

struct Waiting {
    done: oneshot::Sender<Result<Appended>>,
    appended: Appended,
    /// What is to be written; nothing for a push that repeats another of the group.
    record: Option<NewRecord>,
    /// The digest of what came with the key.
    content: Option<[u8; 16]>,
    /// Released when the push is answered.
    _room: OwnedSemaphorePermit,
}

/// A push whose key has come again.
struct Known {
    appended: Appended,
    content: [u8; 16],
    in_group: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, clock: Arc<dyn Clock>, options: WalOptions, handle: Box<dyn FileHandle>, keys: KeyWindow) -> Self {
        Self { shared, clock, options, handle, dirty: false, keys }
    }

    /// Serves requests until every sender is gone.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut taken = Vec::new();
        while requests.blocking_recv_many(&mut taken, QUEUE) > 0 {
            let mut group = Group::default();
            for request in taken.drain(..) {
                match request {
                    Request::Append { record, done, room } => {
                        self.gather(&mut group, record, done, room);
                        if group.bytes >= GROUP_BYTES {
                            self.commit(std::mem::take(&mut group));
                        }
                    }
                    Request::Truncate { below, done } => {
                        self.commit(std::mem::take(&mut group));
                        let _ = done.send(self.truncate(below));
                    }
                }
            }
            self.commit(group);
        }
    }

    fn gather(&self, group: &mut Group, record: NewRecord, done: oneshot::Sender<Result<Appended>>, room: OwnedSemaphorePermit) {
        let content = record.key.as_ref().map(|_| content_of(&record));
        if let (Some(key), Some(content)) = (&record.key, content)
            && let Some(known) = self.known(group, key)
        {
            let appended = Appended { duplicate: true, ..known.appended };
            if known.content != content {
                let _ = done.send(Err(Error::KeyReused { key: String::from_utf8_lossy(key).into_owned() }));
            } else if known.in_group {
                // It shares the fate of the push that it repeats.
                group.waiting.push(Waiting { done, appended, record: None, content: None, _room: room });
            } else {
                let _ = done.send(Ok(appended));
            }
            return;
        }
        let end = *self.shared.end.borrow();
        let arrival = *group.arrival.get_or_insert_with(|| self.clock.now().max(end.arrival));
        let rows = record.rows;
        let Some(first) = Position::new(end.next + group.rows).ok().filter(|first| first.get() + u64::from(rows) <= Position::MAX) else {
            let _ = done.send(Err(Error::invalid("push", "the log has used up its 2^63 positions")));
            return;
        };
        group.rows += u64::from(rows);
        group.bytes += record.payload.len();
        if let Some(key) = &record.key {
            group.keys.insert(key.clone(), group.waiting.len());
        }
        let appended = Appended { first, rows, arrival, duplicate: false };
        group.waiting.push(Waiting { done, appended, record: Some(record), content, _room: room });
    }

    fn known(&self, group: &Group, key: &Bytes) -> Option<Known> {
        let within = group.keys.get(key).and_then(|at| group.waiting.get(*at));
        let within = within.and_then(|first| Some(Known { appended: first.appended, content: first.content?, in_group: true }));
        within.or_else(|| self.keys.find(key).map(|known| Known { appended: known.appended, content: known.content, in_group: false }))
    }

    fn commit(&mut self, group: Group) {
        if group.waiting.is_empty() {
            return;
        }
        let written = self.write(&group);
        for waiting in group.waiting {
            let answer = match &written {
                Ok(()) => {
                    if let Some((key, content)) = waiting.record.as_ref().and_then(|record| record.key.as_ref()).zip(waiting.content) {
                        self.keys.remember(key, waiting.appended, content);
                    }
                    Ok(waiting.appended)
                }
                Err(error) => Err(error.clone()),
            };
            // Whoever gave up waiting does not need the answer.
            let _ = waiting.done.send(answer);
        }
    }

    /// Makes a group durable and shows it to readers.
    fn write(&mut self, group: &Group) -> Result<()> {
        self.repair()?;
        if self.shared.segments().last().is_none_or(|segment| segment.len >= self.options.segment_bytes) {
            self.roll()?;
        }
        let synced = self.shared.segments().last().map_or(0, |segment| segment.len);
        let mut buffer = Vec::with_capacity(group.bytes + 128 * group.waiting.len());
        for waiting in &group.waiting {
            if let Some(record) = &waiting.record {
                format::encode(&mut buffer, record, waiting.appended.first.get(), waiting.appended.arrival, synced);
            }
        }
        if let Err(error) = self.handle.write_all(&buffer).and_then(|()| self.handle.sync()) {
            self.dirty = true;
            let path = self.last_path();
            if let Err(repair) = self.repair() {
                tracing::warn!(error = %repair, "the log cannot be cut back after a failed write; appends are refused until it can");
            }
            return Err(Error::io("writing", &path, error));
        }
        self.publish(group, buffer.len() as u64);
        Ok(())
    }

    fn publish(&self, group: &Group, bytes: u64) {
        let arrival = group.arrival.unwrap_or(Timestamp::MIN);
        if let Some(last) = self.shared.segments().last_mut() {
            last.len += bytes;
            if group.waiting.iter().any(|waiting| waiting.content.is_some()) {
                last.youngest_key = Some(arrival);
            }
        }
        self.shared.end.send_modify(|end| *end = LogEnd { next: end.next + group.rows, arrival: end.arrival.max(arrival) });
    }

    /// Cuts off what a failed group left behind.
    fn repair(&mut self) -> Result<()> {
        if !self.dirty {
            return Ok(());
        }
        let (path, len) = self.shared.segments().last().map(|segment| (segment.path.clone(), segment.len)).ok_or(Error::Closing)?;
        self.shared.files.truncate(&path, len).map_err(|error| Error::io("cutting", &path, error))?;
        self.handle = self.shared.files.append(&path).map_err(|error| Error::io("opening", &path, error))?;
        self.dirty = false;
        Ok(())
    }

    fn roll(&mut self) -> Result<()> {
        let end = *self.shared.end.borrow();
        let header = Header { source: self.shared.source, first: end.next, arrival_floor: end.arrival };
        let (segment, handle) = begin_segment(self.shared.files.as_ref(), &self.shared.folder, header)?;
        self.handle = handle;
        self.shared.segments().push(segment);
        Ok(())
    }

    fn truncate(&self, below: u64) -> Result<()> {
        let young = self.clock.now().minus(self.options.key_window);
        loop {
            let oldest = match &self.shared.segments()[..] {
                [oldest, next, ..] if next.first <= below && oldest.youngest_key.is_none_or(|arrival| arrival < young) => oldest.clone(),
                _ => return Ok(()),
            };
            // Oldest first and each durably, so that what is left is always a suffix. The readers' list goes first: nobody reads what is being removed.
            self.shared.segments().remove(0);
            self.shared.files.remove(&oldest.path).map_err(|error| Error::io("removing", &oldest.path, error))?;
            self.shared.files.sync_dir(&self.shared.folder).map_err(|error| Error::io("syncing", &self.shared.folder, error))?;
        }
    }

    fn last_path(&self) -> std::path::PathBuf {
        self.shared.segments().last().map_or_else(|| self.shared.folder.clone(), |segment| segment.path.clone())
    }
}

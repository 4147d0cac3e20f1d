//! Idempotency keys that are remembered, oldest first.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::{Appended, LogRecord, NewRecord};

/// What is remembered of a push with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) appended: Appended,
    pub(super) content: [u8; 16],
}

/// The last so many keys.
#[derive(Debug)]
pub(super) struct KeyWindow {
    limit: usize,
    known: HashMap<Bytes, Remembered>,
    order: VecDeque<Bytes>,
}

impl KeyWindow {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, known: HashMap::new(), order: VecDeque::new() }
    }

    pub(super) fn find(&self, key: &Bytes) -> Option<&Remembered> {
        self.known.get(key)
    }

    pub(super) fn remember(&mut self, key: &Bytes, appended: Appended, content: [u8; 16]) {
        // A copy: the key is a slice of a whole segment or request otherwise, and would keep it in memory.
        let key = Bytes::copy_from_slice(key);
        if self.known.insert(key.clone(), Remembered { appended, content }).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.limit {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    pub(super) fn remember_record(&mut self, record: &LogRecord) {
        if let Some(key) = &record.push.key {
            let appended = Appended { first: record.first, rows: record.push.rows, arrival: record.arrival, duplicate: false };
            self.remember(key, appended, content_of(&record.push));
        }
    }
}

/// Tells pushes of unlike content apart.
pub(super) fn content_of(push: &NewRecord) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[push.kind as u8, push.format as u8, push.view.len() as u8]);
    hasher.update(push.view.as_bytes());
    hasher.update(&push.payload);
    let mut content = [0; 16];
    content.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    content
}

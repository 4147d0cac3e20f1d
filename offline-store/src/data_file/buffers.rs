//! Memory for pages, used again and again.
//!
//! What is read and decompressed is some hundred kilobytes a piece, held for a moment and freed on another thread. The allocator gives such memory back to
//! the system, which clears it before it is handed out again: a third of a join's time. So a few buffers of the process are kept.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Bytes that are kept, all buffers together.
const KEPT_BYTES: usize = 32 << 20;

/// Larger buffers go back to the system, and smaller ones to the allocator.
const LARGEST: usize = 8 << 20;
const SMALLEST: usize = 64 << 10;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// An empty buffer that can take so many bytes without growing.
pub(super) fn buffer(bytes: usize) -> Vec<u8> {
    let kept = || {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        // What came last is likeliest in a cache. A much larger one is left to who needs it.
        let place = kept.iter().rposition(|buffer| buffer.capacity() >= bytes && buffer.capacity() / 4 <= bytes)?;
        Some(kept.remove(place))
    };
    if !(SMALLEST..=LARGEST).contains(&bytes) {
        return Vec::with_capacity(bytes);
    }
    // Rounded up, so that one does for another.
    kept().unwrap_or_else(|| Vec::with_capacity(bytes.next_multiple_of(SMALLEST)))
}

/// The bytes of a buffer, which is kept when they are no longer needed.
pub(super) fn shared(buffer: Vec<u8>) -> Bytes {
    Bytes::from_owner(Lent(buffer))
}

struct Lent(Vec<u8>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        if !(SMALLEST..=LARGEST).contains(&buffer.capacity()) {
            return;
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.iter().map(Vec::capacity).sum::<usize>() + buffer.capacity() <= KEPT_BYTES {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_empty_large_enough_and_kept_within_bounds() {
        for round in 0..3 {
            let lent: Vec<Bytes> = (1..40_usize)
                .map(|number| {
                    let bytes = number * 250_000;
                    let mut buffer = buffer(bytes);
                    assert!(buffer.is_empty() && buffer.capacity() >= bytes, "{round} {number}");
                    buffer.resize(bytes, 7);
                    shared(buffer)
                })
                .collect();
            assert!(lent.iter().zip(1..).all(|(bytes, number)| bytes.len() == number * 250_000));
        }
        let kept = KEPT.lock().unwrap();
        assert!(kept.iter().map(Vec::capacity).sum::<usize>() <= KEPT_BYTES);
        assert!(!kept.is_empty() && kept.iter().all(|buffer| buffer.capacity() <= LARGEST));
    }
}

//! Pages out of zstd.
//!
//! The Parquet library decompresses into new memory and copies that once more, and it makes a decompressor for each column of a row group. Here a thread
//! keeps one, and [`super::buffers`] the memory.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use zstd::bulk::Decompressor;
use zstd::zstd_safe::get_frame_content_size;

use super::buffers;

thread_local! {
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decompresses a page of at most `limit` bytes; nothing is nothing.
pub(super) fn decompress(compressed: &[u8], limit: usize) -> io::Result<Bytes> {
    if compressed.is_empty() {
        return Ok(Bytes::new());
    }
    // Of several frames the first one tells, and of itself alone.
    let told = get_frame_content_size(compressed).ok().flatten().and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes < limit);
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let decompressor = match decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new()?),
        };
        let mut into = |capacity: usize| {
            let mut buffer = buffers::buffer(capacity);
            decompressor.decompress_to_buffer(compressed, &mut buffer)?;
            if buffer.len() > limit { Err(io::ErrorKind::InvalidData.into()) } else { Ok(buffers::shared(buffer)) }
        };
        told.and_then(|told| into(told).ok()).map_or_else(|| into(limit), Ok)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_out_as_they_went_in_whatever_was_there_before() {
        for length in [100_000_usize, 0, 7, 3_000_000, 70_000] {
            let page: Vec<u8> = (0..length).map(|at| (at * at / 1_000) as u8).collect();
            let compressed = zstd::bulk::compress(&page, 1).unwrap();
            assert_eq!(decompress(&compressed, length).unwrap(), page);
            // Several frames, of which the first tells its own length alone.
            let two = [compressed.as_slice(), compressed.as_slice()].concat();
            assert_eq!(decompress(&two, 2 * length).unwrap(), [page.as_slice(), page.as_slice()].concat());
        }
        assert!(decompress(&[], 10).unwrap().is_empty());
    }

    #[test]
    fn pages_that_are_damaged_or_longer_than_they_may_be_are_errors() {
        let compressed = zstd::bulk::compress(&[7; 20_000], 1).unwrap();
        assert!(decompress(&compressed, 19_999).is_err());
        assert!(decompress(&compressed[..compressed.len() - 1], 20_000).is_err());
        assert!(decompress(b"no frame", 20_000).is_err());
    }
}

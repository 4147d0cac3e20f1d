//! Reading bytes that may be wrong: every step is checked, nothing panics, lengths never reach past the end.

use crate::{Error, Result};

/// A position in bytes of a named thing.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes, len: bytes.len() }
    }

    /// The first byte names the thing and the second its format version.
    pub(crate) fn tag(&mut self, tag: u8, version: u8) -> Result<()> {
        if self.u8()? != tag {
            return Err(self.malformed("it does not begin like one"));
        }
        match self.u8()? {
            found if found == version => Ok(()),
            found => Err(self.malformed(&format!("format version {found}, this program knows {version}"))),
        }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.malformed("cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(self.take(2)?.iter().fold(0, |n, byte| n << 8 | u16::from(*byte)))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(self.take(4)?.iter().fold(0, |n, byte| n << 8 | u32::from(*byte)))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(self.take(8)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.len - self.rest.len()
    }

    pub(crate) fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("bytes are left over")) }
    }

    pub(crate) fn malformed(&self, reason: &str) -> Error {
        Error::invalid(self.what, format!("{reason}, at byte {} of {}", self.position(), self.len))
    }
}

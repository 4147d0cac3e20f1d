//! The bytes of an archive.
//!
//! ```text
//! 0                   8
//! +-------------------+--------+--------+--------+----+-----------------------------------+
//! | "ANBARCH" version | header | record | record | …  | 'E' | 32 (u64) | BLAKE3 of all    |
//! |   = 1             |        |        |        |    |     |          | bytes before 'E' |
//! +-------------------+--------+--------+--------+----+-----------------------------------+
//!
//! header:  'H' | length (u64) | flags (u8: 1 all refs) | n (u32) | n commits that the receiver must have, 32 B each | a backup of the refs and values
//! record:  'P' | length (u64) | a pack: commits and nodes
//!          'F' | length (u64) | path length (u16) | path | content | BLAKE3 of the content (32 B)
//! ```
//!
//! Numbers are big-endian. The backup and the packs are in their own formats, each with a hash. Files follow one another in the order in which they are
//! named, a file after the one that names it. Refused: other versions, records of another kind, lengths beyond the end, anything behind the end.

use std::io::{Read, Write};

use anabranch_core::Timestamp;

use crate::{CommitId, Error, MetadataDump, Result, decode_backup, encode_backup};

const MAGIC: &[u8; 8] = b"ANBARCH\x01";
const CHUNK: usize = 1 << 20;
/// Packs of an archive are built up to about this size; a longer one is not ours.
const MAX_PACK_BYTES: u64 = 256 << 20;
const MAX_HEADER_BYTES: u64 = 1 << 30;

/// What an archive says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveInfo {
    /// When it was made.
    pub taken: Timestamp,
    /// Whether it holds all refs of its repository.
    pub all: bool,
    /// Commits that the receiver must have already.
    pub have: Vec<CommitId>,
    /// The refs with their reflogs, values and marks.
    pub dump: MetadataDump,
}

/// A part of an archive.
#[derive(Debug)]
pub(super) enum Record {
    Pack(Vec<u8>),
    /// A file whose content comes next.
    File {
        path: String,
        size: u64,
    },
}

fn malformed(reason: impl Into<String>) -> Error {
    Error::invalid("archive", reason)
}

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> Error {
    let what = format!("{what} the archive");
    move |error| Error::backend(what, error)
}

/// Writes an archive.
pub(super) struct Writer<'a> {
    out: &'a mut (dyn Write + Send),
    hasher: blake3::Hasher,
    pub(super) bytes: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut (dyn Write + Send), info: &ArchiveInfo) -> Result<Self> {
        let mut writer = Self { out, hasher: blake3::Hasher::new(), bytes: 0 };
        writer.write(MAGIC)?;
        let mut header = vec![u8::from(info.all)];
        header.extend_from_slice(&(info.have.len() as u32).to_be_bytes());
        info.have.iter().for_each(|commit| header.extend_from_slice(commit.as_bytes()));
        header.extend_from_slice(&encode_backup(info.taken, &info.dump));
        writer.begin(b'H', header.len() as u64)?;
        writer.write(&header)?;
        Ok(writer)
    }

    fn begin(&mut self, kind: u8, len: u64) -> Result<()> {
        self.write(&[kind])?;
        self.write(&len.to_be_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(failed("writing"))
    }

    pub(super) fn pack(&mut self, bytes: &[u8]) -> Result<()> {
        self.begin(b'P', bytes.len() as u64)?;
        self.write(bytes)
    }

    /// Begins a file; its content comes by [`Writer::content`], and [`Writer::end_file`] ends it.
    pub(super) fn begin_file(&mut self, path: &str, size: u64) -> Result<()> {
        let len = u16::try_from(path.len()).map_err(|_| malformed(format!("the path {path} is too long")))?;
        self.begin(b'F', 2 + u64::from(len) + size + 32)?;
        self.write(&len.to_be_bytes())?;
        self.write(path.as_bytes())
    }

    pub(super) fn content(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)
    }

    pub(super) fn end_file(&mut self, hash: &blake3::Hash) -> Result<()> {
        self.write(hash.as_bytes())
    }

    pub(super) fn end(self) -> Result<u64> {
        let hash = self.hasher.finalize();
        let mut end = vec![b'E'];
        end.extend_from_slice(&32u64.to_be_bytes());
        end.extend_from_slice(hash.as_bytes());
        self.out.write_all(&end).and_then(|()| self.out.flush()).map_err(failed("writing"))?;
        Ok(self.bytes + end.len() as u64)
    }
}

/// Reads an archive from its beginning.
pub(super) struct Reader<'a> {
    input: &'a mut (dyn Read + Send),
    hasher: blake3::Hasher,
}

impl<'a> Reader<'a> {
    /// Reads the header.
    pub(super) fn new(input: &'a mut (dyn Read + Send)) -> Result<(Self, ArchiveInfo)> {
        let mut reader = Self { input, hasher: blake3::Hasher::new() };
        let magic = reader.array::<8>()?;
        if magic[..7] != MAGIC[..7] {
            return Err(malformed("it does not begin like one"));
        }
        if magic[7] != MAGIC[7] {
            return Err(malformed(format!("format {} is not known to this version, which reads 1: use a newer one", magic[7])));
        }
        if reader.array::<1>()? != [b'H'] {
            return Err(malformed("it has no header"));
        }
        let len = u64::from_be_bytes(reader.array()?);
        let header = reader.bytes(len, MAX_HEADER_BYTES)?;
        let (all, count) = match header.get(..5) {
            Some([flags @ (0 | 1), a, b, c, d]) => (*flags == 1, u32::from_be_bytes([*a, *b, *c, *d]) as usize),
            _ => return Err(malformed("its header is malformed")),
        };
        let rest = &header[5..];
        let (have, backup) = count.checked_mul(32).and_then(|len| rest.split_at_checked(len)).ok_or_else(|| malformed("its header is cut short"))?;
        let have = have.chunks_exact(32).map(CommitId::from_slice).collect::<Result<_>>()?;
        let (taken, dump) = decode_backup(backup)?;
        Ok((reader, ArchiveInfo { taken, all, have, dump }))
    }

    /// The next record; `None` at the end, which is verified.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        let before = self.hasher.finalize();
        let [kind] = self.array::<1>()?;
        let len = u64::from_be_bytes(self.array()?);
        match kind {
            b'P' => Ok(Some(Record::Pack(self.bytes(len, MAX_PACK_BYTES)?))),
            b'F' => {
                let name = u16::from_be_bytes(self.array()?);
                let size = len.checked_sub(34 + u64::from(name)).ok_or_else(|| malformed("a file's record is too short"))?;
                let path = String::from_utf8(self.bytes(u64::from(name), u64::from(u16::MAX))?).map_err(|_| malformed("a path is not UTF-8"))?;
                Ok(Some(Record::File { path, size }))
            }
            b'E' if len == 32 => {
                if self.array::<32>()? != *before.as_bytes() {
                    return Err(malformed("its bytes are not what its hash says: it is damaged"));
                }
                match self.input.read(&mut [0]).map_err(failed("reading"))? {
                    0 => Ok(None),
                    _ => Err(malformed("something follows its end")),
                }
            }
            _ => Err(malformed("it holds a record that this version does not know")),
        }
    }

    /// The content of the file just begun, in parts, verified at its end.
    pub(super) fn content(&mut self, size: u64, mut part: impl FnMut(&[u8]) -> Result<()>) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let (mut buffer, mut rest) = (vec![0; CHUNK], size);
        while rest > 0 {
            let len = usize::try_from(rest).unwrap_or(CHUNK).min(CHUNK);
            self.fill(&mut buffer[..len])?;
            hasher.update(&buffer[..len]);
            part(&buffer[..len])?;
            rest -= len as u64;
        }
        let hash = hasher.finalize();
        if self.array::<32>()? != *hash.as_bytes() {
            return Err(malformed("a file in it is not what its hash says: it is damaged"));
        }
        Ok(hash)
    }

    fn bytes(&mut self, len: u64, limit: u64) -> Result<Vec<u8>> {
        if len > limit {
            return Err(malformed(format!("a part of {len} bytes is over {limit}")));
        }
        // Read in parts, so that a wrong length takes no memory.
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let (from, part) = (bytes.len(), usize::try_from(len - bytes.len() as u64).unwrap_or(CHUNK).min(CHUNK));
            bytes.resize(from + part, 0);
            self.fill(&mut bytes[from..])?;
        }
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        self.fill(&mut array)?;
        Ok(array)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => malformed("cut short"),
            _ => failed("reading")(error),
        })?;
        self.hasher.update(buffer);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let info = ArchiveInfo { taken: Timestamp(9), all: true, have: vec![CommitId::of(b"have")], dump: MetadataDump::default() };
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, &info).unwrap();
        writer.pack(b"no pack, only bytes").unwrap();
        writer.begin_file("data/x/y", 5).unwrap();
        writer.content(b"hello").unwrap();
        writer.end_file(&blake3::hash(b"hello")).unwrap();
        writer.end().unwrap();
        bytes
    }

    fn read(mut bytes: &[u8]) -> Result<(ArchiveInfo, Vec<u8>)> {
        let (mut reader, info) = Reader::new(&mut bytes)?;
        let mut content = Vec::new();
        while let Some(record) = reader.next()? {
            match record {
                Record::Pack(pack) => content.extend(pack),
                Record::File { size, .. } => drop(reader.content(size, |part| {
                    content.extend(part);
                    Ok(())
                })?),
            }
        }
        Ok((info, content))
    }

    #[test]
    fn archive_bytes_are_the_golden_ones() {
        let golden = include_bytes!("../../tests/golden/archive.v1");
        assert_eq!(archive(), golden);
        let (info, content) = read(golden).unwrap();
        assert_eq!((info.have, info.all, content), (vec![CommitId::of(b"have")], true, b"no pack, only byteshello".to_vec()));
    }

    #[test]
    fn damage_anywhere_is_found() {
        let bytes = archive();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(read(&damaged).is_err(), "byte {at}");
            assert!(read(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(read(&[&bytes[..], b"x"].concat()).is_err());
    }
}

//! Which generations a view has on a branch: one record of the metadata database for the branch and the table's uuid, changed by compare-and-swap.
//!
//! ```text
//! (none) ──▶ current ──▶ current, next ──▶ current (was next), retired ──▶ current
//!                            └──▶ current, next (another), retired ──▶ …
//! ```
//!
//! *current* answers lookups; *next* is being filled, and writers write to both; *retired* ones are dropped, and then leave the record. A generation is
//! never given twice. A record of which nothing is left is removed.
//!
//! A next generation is *settled* once it is known that the head has lost no row since it was recorded that it may hold, and that whoever moves the head in
//! such a way brings it to its end first. Such a one is filled on after a crash.

use std::sync::Arc;

use anabranch_core::{BranchId, Generation};
use anabranch_versioning::MetadataStore;
use bytes::Bytes;

use super::versioning;
use crate::{Error, Result};

const SPACE: &str = "ingest.generation";
const MARK: &str = "generation";
const VERSION: u8 = 2;
/// The version of a record with a next generation that is settled.
const SETTLED: u8 = 3;
const HAS_CURRENT: u8 = 1;
const HAS_NEXT: u8 = 2;
const PAGE: usize = 1_000;

/// The generations of a view on a branch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The one that lookups are answered from.
    pub(crate) current: Option<Generation>,
    /// The one that is to take its place.
    pub(crate) next: Option<Generation>,
    /// Whether the next one is settled.
    pub(crate) settled: bool,
    /// Those to be dropped.
    pub(crate) retired: Vec<Generation>,
}

/// Names a record: the branch's id and the table's uuid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RecordKey(Bytes);

/// The records.
#[derive(Debug)]
pub(crate) struct Generations {
    metadata: Arc<dyn MetadataStore>,
}

impl RecordKey {
    pub(crate) fn new(branch: BranchId, table: &[u8; 16]) -> Self {
        Self([&branch.0.to_be_bytes()[..], table].concat().into())
    }

    pub(crate) fn branch(&self) -> Option<BranchId> {
        self.0.first_chunk::<8>().map(|bytes| BranchId(u64::from_be_bytes(*bytes)))
    }
}

impl Record {
    /// 8 bytes, the generation, where there is a current one alone; otherwise a version (3 where the next one is settled, else 2), flags, and 8 bytes for each
    /// that is there; all big-endian.
    fn to_bytes(&self) -> Vec<u8> {
        if let (Some(current), None, true) = (self.current, self.next, self.retired.is_empty()) {
            return current.0.to_be_bytes().to_vec();
        }
        let flag = |there: bool, flag: u8| if there { flag } else { 0 };
        let version = if self.is_settled() { SETTLED } else { VERSION };
        let mut bytes = vec![version, flag(self.current.is_some(), HAS_CURRENT) | flag(self.next.is_some(), HAS_NEXT)];
        for generation in self.current.iter().chain(&self.next).chain(&self.retired) {
            bytes.extend_from_slice(&generation.0.to_be_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let malformed = |reason: String| Error::Malformed { what: "generation", reason };
        if let Ok(number) = bytes.try_into() {
            return Ok(Self { current: Some(Generation(u64::from_be_bytes(number))), ..Self::default() });
        }
        let (settled, flags, numbers) = match bytes {
            [VERSION, flags, numbers @ ..] if *flags <= (HAS_CURRENT | HAS_NEXT) => (false, *flags, numbers),
            [SETTLED, flags, numbers @ ..] if *flags <= (HAS_CURRENT | HAS_NEXT) && flags & HAS_NEXT != 0 => (true, *flags, numbers),
            [version, ..] if *version > SETTLED => return Err(malformed(format!("its version {version} is newer than {SETTLED}"))),
            _ => return Err(malformed(format!("{} bytes that are no record", bytes.len()))),
        };
        let (words, rest) = numbers.as_chunks::<8>();
        let mut generations = words.iter().map(|word| Generation(u64::from_be_bytes(*word)));
        let mut take = |flag: u8| match flags & flag {
            0 => Ok(None),
            _ => generations.next().map(Some).ok_or_else(|| malformed("it ends before its generations".to_owned())),
        };
        let (current, next) = (take(HAS_CURRENT)?, take(HAS_NEXT)?);
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes are left over", rest.len())));
        }
        Ok(Self { current, next, settled, retired: generations.collect() })
    }

    /// Retires whatever is there.
    pub(crate) fn retire_all(&mut self) {
        let there = self.current.take().into_iter().chain(self.next.take());
        self.retired.extend(there);
        self.settled = false;
    }

    /// Whether there is a next one that is settled.
    pub(crate) const fn is_settled(&self) -> bool {
        self.settled && self.next.is_some()
    }

    fn is_empty(&self) -> bool {
        self.current.is_none() && self.next.is_none() && self.retired.is_empty()
    }
}

impl Generations {
    pub(crate) fn new(metadata: Arc<dyn MetadataStore>) -> Self {
        Self { metadata }
    }

    /// A number that no generation has had.
    pub(crate) async fn allocate(&self) -> Result<Generation> {
        Ok(Generation(self.metadata.allocate(MARK, 1).await.map_err(versioning)?))
    }

    /// The record; one without a generation where there is none.
    pub(crate) async fn get(&self, key: &RecordKey) -> Result<Record> {
        let bytes = self.metadata.value(SPACE, &key.0).await.map_err(versioning)?;
        bytes.map_or_else(|| Ok(Record::default()), |bytes| Record::from_bytes(&bytes))
    }

    /// The record with a current generation, given now where there is none.
    pub(crate) async fn with_current(&self, key: &RecordKey) -> Result<Record> {
        let record = self.get(key).await?;
        if record.current.is_some() {
            return Ok(record);
        }
        let new = self.allocate().await?;
        self.change(key, |record| record.current = record.current.or(Some(new))).await
    }

    /// Changes a record; `change` may be called again where another changed it meanwhile. Answers what the record is now.
    pub(crate) async fn change(&self, key: &RecordKey, change: impl Fn(&mut Record)) -> Result<Record> {
        loop {
            let bytes = self.metadata.value(SPACE, &key.0).await.map_err(versioning)?;
            let mut record = bytes.as_ref().map_or_else(|| Ok(Record::default()), |bytes| Record::from_bytes(bytes))?;
            change(&mut record);
            let new = (!record.is_empty()).then(|| record.to_bytes());
            if bytes.as_deref() == new.as_deref()
                || self.metadata.swap_value(SPACE, &key.0, bytes.as_deref(), new.as_deref()).await.map_err(versioning)?
            {
                return Ok(record);
            }
        }
    }

    /// Every record, or those of a branch.
    pub(crate) async fn all(&self, branch: Option<BranchId>) -> Result<Vec<(RecordKey, Record)>> {
        let prefix = branch.map(|branch| branch.0.to_be_bytes());
        let prefix = prefix.as_ref().map_or(&[][..], |prefix| &prefix[..]);
        let (mut records, mut after) = (Vec::new(), None::<Bytes>);
        loop {
            let page = self.metadata.values(SPACE, prefix, after.as_deref(), PAGE).await.map_err(versioning)?;
            let Some((last, _)) = page.last() else { return Ok(records) };
            after = Some(last.clone());
            for (key, bytes) in page {
                records.push((RecordKey(key), Record::from_bytes(&bytes)?));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let generation = || any::<u64>().prop_map(Generation);
        let (one, two) = (proptest::option::of(generation()), proptest::option::of(generation()));
        (one, two, any::<bool>(), proptest::collection::vec(generation(), 0..4)).prop_map(|(current, next, settled, retired)| Record {
            current,
            next,
            settled: settled && next.is_some(),
            retired,
        })
    }

    proptest! {
        #[test]
        fn a_record_is_its_bytes_and_no_other_bytes_are_taken_for_one(record in record(), junk in proptest::collection::vec(any::<u8>(), 0..40)) {
            let bytes = record.to_bytes();
            prop_assert_eq!(Record::from_bytes(&bytes).unwrap(), record);
            if let Ok(read) = Record::from_bytes(&junk) {
                // The short form of a record may also be written long; nothing that is read is another record.
                prop_assert_eq!(Record::from_bytes(&read.to_bytes()).unwrap(), read);
            }
        }
    }

    #[test]
    fn the_bytes_of_a_record_stay() {
        let record = Record { current: Some(Generation(7)), ..Record::default() };
        assert_eq!(record.to_bytes(), [0, 0, 0, 0, 0, 0, 0, 7]);
        let record = Record { next: Some(Generation(8)), retired: vec![Generation(3)], ..record };
        let words = [[0, 0, 0, 0, 0, 0, 0, 7], [0, 0, 0, 0, 0, 0, 0, 8], [0, 0, 0, 0, 0, 0, 0, 3]];
        assert_eq!(record.to_bytes(), [&[2, 3][..], &words.concat()].concat());
        assert_eq!(Record { settled: true, ..record }.to_bytes(), [&[3, 3][..], &words.concat()].concat());
        for wrong in [&[][..], &[4, 0], &[3, 1, 0, 0, 0, 0, 0, 0, 0, 7], &[2, 4], &[2, 1], &[2, 0, 1], &[1; 10]] {
            assert!(Record::from_bytes(wrong).is_err(), "{wrong:?}");
        }
    }
}

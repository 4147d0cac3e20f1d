//! Ids that more than one crate speaks of, and where fresh ones come from.

use std::fmt;
use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::Error;

/// One log on one branch, one file, one bulk stream: 31 bits, given once by the metadata database and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceId(u32);

impl SourceId {
    /// The largest source id.
    pub const MAX: u32 = (1 << 31) - 1;

    /// A source id of 31 bits.
    pub fn new(id: u32) -> Result<Self, Error> {
        if id > Self::MAX {
            return Err(Error::Malformed { what: "source id", reason: format!("{id} needs more than 31 bits") });
        }
        Ok(Self(id))
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as Iceberg's `int` holds it.
    pub const fn as_i32(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of one row in its source: 63 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(u64);

impl Position {
    /// The largest position.
    pub const MAX: u64 = (1 << 63) - 1;

    /// A position of 63 bits.
    pub fn new(position: u64) -> Result<Self, Error> {
        if position > Self::MAX {
            return Err(Error::Malformed { what: "position", reason: format!("{position} needs more than 63 bits") });
        }
        Ok(Self(position))
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as Iceberg's `long` holds it.
    pub const fn as_i64(self) -> i64 {
        self.0 as i64
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A branch for as long as it lives: renaming keeps it, deleting and creating again gives another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BranchId(pub u64);

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an online store holds of one view on one branch, under a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Gives random ids. Injected, so that simulations repeat.
pub trait Ids: Send + Sync + fmt::Debug + 'static {
    /// 128 random bits.
    fn random(&self) -> u128;
}

/// Ids from a generator that the operating system seeds, or a given seed.
#[derive(Debug)]
pub struct RandomIds(Mutex<StdRng>);

impl RandomIds {
    /// Seeded by the operating system.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system for randomness")]
    pub fn from_os() -> Self {
        Self(Mutex::new(StdRng::from_os_rng()))
    }

    /// The same ids in the same order for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Ids for RandomIds {
    fn random(&self) -> u128 {
        let mut rng = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
    }
}

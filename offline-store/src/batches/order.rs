//! The order of an epoch: a permutation of row numbers that any client could compute, one row at a time.
//!
//! Without a seed the order is that of the rows. With one, position p of N rows holds row `row(p)`, a keyed permutation of 0..N: a Feistel network over
//! the least power of two that holds N, walked until it lands below N (cycle walking: Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002).
//! It takes no memory, and a resumed epoch costs nothing. All numbers are big-endian, all arithmetic is modulo 2⁶⁴.
//!
//! ```text
//! material   "anabranch shuffle"   17 bytes
//!            01                    version
//!            32 bytes              the dataset's content digest
//!            u32 length | UTF-8    the split's name, empty for all rows
//!            u64                   seed
//!            u64                   epoch
//! K0 … K15   the first 128 bytes of BLAKE3's extended output over the material, as u64
//!
//! b          the least number of bits with 2^b >= N
//! x          H (the high floor(b/2) bits) and L (the low b - floor(b/2) bits)
//! mix(z)     z ^= z >> 30; z *= bf58476d1ce4e5b9; z ^= z >> 27; z *= 94d049bb133111eb; z ^= z >> 31     (splitmix64's finaliser)
//! round i    i even: L ^= mix(Ki ^ H), cut to L's bits; i odd: H ^= mix(Ki ^ L), cut to H's bits
//!
//! row(p)     x = p; do the 16 rounds on x, and again until x < N; x
//! ```
//!
//! It shuffles; it is no cipher, and keeps nothing secret.

use crate::dataset::ContentDigest;

const MAGIC: &[u8] = b"anabranch shuffle";
const VERSION: u8 = 1;
const ROUNDS: usize = 16;

/// The order of the rows of a dataset, or of a split of one, in an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowOrder {
    rows: u64,
    shuffle: Option<Feistel>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Feistel {
    keys: [u64; ROUNDS],
    low_bits: u32,
    low_mask: u64,
    high_mask: u64,
}

impl RowOrder {
    /// The order of `rows` rows; that of their numbers where there is no seed.
    pub fn new(content: &ContentDigest, split: &str, rows: u64, seed: Option<u64>, epoch: u64) -> Self {
        Self { rows, shuffle: seed.filter(|_| rows > 1).map(|seed| Feistel::new(content, split, rows, seed, epoch)) }
    }

    /// How many rows there are.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// The row at a position below [`RowOrder::rows`].
    pub fn row(&self, position: u64) -> u64 {
        debug_assert!(position < self.rows, "position {position} of {}", self.rows);
        let Some(shuffle) = &self.shuffle else { return position };
        let mut row = shuffle.rounds(position);
        while row >= self.rows {
            row = shuffle.rounds(row);
        }
        row
    }
}

impl Feistel {
    fn new(content: &ContentDigest, split: &str, rows: u64, seed: u64, epoch: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(MAGIC).update(&[VERSION]).update(&content.0);
        hasher.update(&(split.len() as u32).to_be_bytes()).update(split.as_bytes());
        hasher.update(&seed.to_be_bytes()).update(&epoch.to_be_bytes());
        let mut output = hasher.finalize_xof();
        let keys = std::array::from_fn(|_| {
            let mut key = [0; 8];
            output.fill(&mut key);
            u64::from_be_bytes(key)
        });
        let bits = u64::BITS - (rows - 1).leading_zeros();
        let high_bits = bits / 2;
        let mask = |bits: u32| 1_u64.checked_shl(bits).map_or(u64::MAX, |power| power - 1);
        Self { keys, low_bits: bits - high_bits, low_mask: mask(bits - high_bits), high_mask: mask(high_bits) }
    }

    fn rounds(&self, x: u64) -> u64 {
        let (mut high, mut low) = (x >> self.low_bits, x & self.low_mask);
        for pair in self.keys.chunks_exact(2) {
            low ^= mix(pair[0] ^ high) & self.low_mask;
            high ^= mix(pair[1] ^ low) & self.high_mask;
        }
        high << self.low_bits | low
    }
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

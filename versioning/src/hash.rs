//! Names of immutable things: the BLAKE3 hash of their bytes, 32 bytes, shown as 64 hex digits.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Defines a name of one sort of thing, so that a node is never looked up as a commit.
macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The name of these bytes.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// The hash.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The name in these 32 bytes.
            pub fn from_slice(bytes: &[u8]) -> Result<Self> {
                bytes.try_into().map(Self).map_err(|_| Error::invalid($what, format!("{} bytes where 32 are needed", bytes.len())))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let fail = || Error::invalid($what, format!("{text:?} is not 64 hex digits"));
                let mut hash = [0; 32];
                if text.len() != 64 || !text.is_ascii() {
                    return Err(fail());
                }
                for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let digit = |at: usize| (digits[at] as char).to_digit(16);
                    *byte = digit(0).zip(digit(1)).map(|(high, low)| (high * 16 + low) as u8).ok_or_else(fail)?;
                }
                Ok(Self(hash))
            }
        }
    };
}

hash_type!(
    /// Names a commit by its canonical bytes.
    CommitId,
    "commit id"
);
hash_type!(
    /// Names a node of the tree by its canonical bytes. The root's name is the content's.
    NodeHash,
    "node hash"
);
hash_type!(
    /// Names a pack by all its bytes.
    PackId,
    "pack id"
);
hash_type!(
    /// Names a blob by its content.
    Digest,
    "digest"
);

/// The name of a whole map: the hash of its top node.
pub type Root = NodeHash;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_as_it_is_shown_and_nothing_else_does() {
        let id = CommitId::of(b"x");
        assert_eq!(id.to_string().parse::<CommitId>().unwrap(), id);
        for bad in ["", "00", &"g".repeat(64), &"é".repeat(32), &format!("{id}0")] {
            assert!(bad.parse::<CommitId>().is_err(), "{bad}");
        }
    }
}

//! The Parquet library, where it reads what may be damaged.
//!
//! It trusts the bytes of a page in places and panics where they lie, such as levels that say more rows than they hold. Damage is an error all the same.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Error, Result};

/// What the library read of a file. Whatever it was reading with is not to be used any more after an error.
pub(crate) fn guarded<T, E: Display>(path: &str, read: impl FnOnce() -> std::result::Result<T, E>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| Error::corrupt(path, error)),
        Err(_) => Err(Error::corrupt(path, "its pages contradict themselves")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_panics_are_damage_of_the_file() {
        assert_eq!(guarded("a", || Ok::<_, &str>(7)).unwrap(), 7);
        for error in [guarded("a", || Err::<(), _>("it is cut")), guarded("a", || -> std::result::Result<(), &str> { panic!("a library's") })] {
            assert!(matches!(error.unwrap_err(), Error::Corrupt { object, .. } if object == "a"));
        }
    }
}

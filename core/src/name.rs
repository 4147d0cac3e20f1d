//! Rules for names of definitions and columns.
//!
//! A name is 1 to 63 ASCII letters, digits and underscores, and starts with a letter. Two underscores in a row are reserved for output columns
//! (`view__feature`). Column names may not be what Iceberg or Anabranch reserve: readers choke on them.

use crate::Error;

/// Longest name, in bytes.
pub const MAX_LEN: usize = 63;

/// Columns that every table carries beside a view's own.
pub mod reserved {
    /// When we had the row.
    pub const ARRIVAL: &str = "_arrival";
    /// The source id of the row.
    pub const SOURCE: &str = "_source";
    /// The row's place in its source.
    pub const POSITION: &str = "_position";
    /// True for a row that deletes its entity as of its event time.
    pub const TOMBSTONE: &str = "_tombstone";

    /// Names that Iceberg readers give a meaning of their own.
    pub const ICEBERG: [&str; 6] = ["_file", "_pos", "_deleted", "_spec_id", "file_path", "pos"];
}

/// Checks the name of a definition; `what` is its kind, for the message.
pub fn check(what: &'static str, name: &str) -> Result<(), Error> {
    let refuse = |reason: &str| Err(Error::Name { what, name: name.to_owned(), reason: reason.to_owned() });
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name.len() > MAX_LEN {
        return refuse("it is longer than 63 characters");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return refuse("it must start with a letter");
    }
    if let Some(odd) = name.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '_') {
        return refuse(&format!("{odd:?} is not a letter, digit or underscore"));
    }
    if name.contains("__") {
        return refuse("two underscores in a row are kept for output columns such as view__feature");
    }
    Ok(())
}

/// Checks the name of a column of a view.
pub fn check_column(name: &str) -> Result<(), Error> {
    if reserved::ICEBERG.contains(&name) {
        let reason = "Iceberg reserves it, choose another".to_owned();
        return Err(Error::Name { what: "column", name: name.to_owned(), reason });
    }
    check("column", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_refused_with_the_reason() {
        for good in ["a", "delay_7d", "Temp2"] {
            check("feature view", good).unwrap();
        }
        for bad in ["", "7d", "_x", "a b", "a-b", "a__b", "ä", &"x".repeat(64)] {
            assert!(check("feature view", bad).is_err(), "{bad}");
        }
        for bad in ["pos", "file_path", "_arrival"] {
            assert!(check_column(bad).is_err(), "{bad}");
        }
    }
}

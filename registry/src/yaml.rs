//! Definitions as YAML: several documents a file, each a `kind` and the fields of its definition at the same level.
//!
//! ```yaml
//! kind: entity
//! name: airport
//! join_keys:
//!   - {name: origin, type: string}
//! ---
//! kind: check
//! name: temp_range
//! view: weather
//! column: temp
//! rule: {range: {min: -60, max: 60}}
//! ```
//!
//! Two short forms exist in YAML only: an entity of one key may say `join_key: origin` and `type: string`, and a rule without parts may say
//! `rule: not_null`. Scalars are read by what their field holds: every field is a text, so that an unquoted `yes` or `007` stays what it is, but for the
//! bounds and values of rules, which follow YAML's core schema (`1` is a number, `"1"` a text). Only a plain `null`, `~` or nothing at all is null.
//!
//! Refused, each with its line and column: duplicate keys, anchors, aliases, tags, keys that are no text, nesting deeper than 32, unknown fields.

mod document;
mod places;
mod reader;
mod scalar;
mod writer;

use anabranch_core::definition::Definition;

pub use places::Places;
pub use writer::to_yaml;

use crate::error::{Fault, Place};
use crate::{Error, Result};

/// A file of definitions.
#[derive(Debug, Clone, Copy)]
pub struct YamlFile<'a> {
    /// What faults call it.
    pub name: &'a str,
    /// What it holds.
    pub text: &'a str,
}

/// Definitions read from files, and where they stand there.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// In the order of the files and documents.
    pub definitions: Vec<Definition>,
    /// Where faults found later lie.
    pub places: Places,
}

/// Reads definitions from YAML files.
///
/// # Errors
/// [`Error::Invalid`] with every fault found: at least one for each document at fault, and the first place where a file is no YAML.
pub fn parse_yaml(files: &[YamlFile<'_>]) -> Result<Parsed> {
    let mut parsed = Parsed::default();
    let mut faults = Vec::new();
    for file in files {
        let (documents, broken) = reader::read(file);
        for node in documents {
            match document::definition(file.name, node) {
                Ok((definition, spots)) => match parsed.places.insert(&definition, spots) {
                    None => parsed.definitions.push(definition),
                    Some((here, first)) => faults.push(twice(&definition, here, &first)),
                },
                Err(fault) => faults.push(fault),
            }
        }
        faults.extend(broken);
    }
    if !faults.is_empty() {
        return Err(Error::Invalid { faults });
    }
    Ok(parsed)
}

fn twice(definition: &Definition, here: Place, first: &Place) -> Fault {
    let reason = format!("it is defined twice, first at {}:{}:{}", first.file, first.line, first.column);
    Fault { place: Some(here), ..Fault::new(definition.kind(), definition.name(), "name", reason) }
}

#[cfg(test)]
mod tests;

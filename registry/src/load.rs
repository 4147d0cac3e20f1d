//! Reading the definitions that a commit holds.

use anabranch_core::definition::{Definition, Definitions};
use anabranch_versioning::{CommitId, Entry, MapReader, Repository, Scan, scan_all};

use crate::keys::{all_definitions, identity_of_key};
use crate::{Error, Result};

/// All definitions at a commit.
///
/// # Errors
/// [`Error::Versioning`] where the commit cannot be read, [`Error::Stored`] where an entry is no definition.
pub async fn load(repository: &Repository, commit: &CommitId) -> Result<Definitions> {
    load_from(&repository.at(commit).await?).await
}

/// All definitions of one state of the map.
///
/// # Errors
/// As [`load`].
pub async fn load_from(reader: &dyn MapReader) -> Result<Definitions> {
    scan_all(reader, Scan::prefix(all_definitions()?)).await?.iter().map(decode).collect()
}

/// Refuses bytes that are not canonical too: a later apply expects to find exactly them.
pub(crate) fn decode(entry: &Entry) -> Result<Definition> {
    let damaged = |reason: String| Error::Stored { key: entry.key.to_string(), reason };
    let definition = Definition::from_bytes(&entry.value).map_err(|error| damaged(error.to_string()))?;
    if identity_of_key(&entry.key)? != (definition.kind(), definition.name().to_owned()) {
        return Err(damaged(format!("it holds {} {:?}", definition.kind(), definition.name())));
    }
    if definition.to_bytes() != entry.value {
        return Err(damaged("its bytes are not canonical".to_owned()));
    }
    Ok(definition)
}

#[cfg(test)]
mod tests {
    use anabranch_core::definition::{DefinitionKind, Source};

    use super::*;
    use crate::definition_key;

    #[test]
    fn entries_that_are_not_what_their_key_says_are_damaged() {
        let bytes = Definition::Source(Source::push("flights")).to_bytes();
        let entry = |name: &str, value: &[u8]| Entry { key: definition_key(DefinitionKind::Source, name).unwrap(), value: value.to_vec().into() };
        assert_eq!(decode(&entry("flights", &bytes)).unwrap().name(), "flights");
        let spaced = [&bytes[..], b" "].concat();
        for bad in [entry("other", &bytes), entry("flights", &spaced), entry("flights", b"{}")] {
            assert!(matches!(decode(&bad), Err(Error::Stored { .. })));
        }
    }
}

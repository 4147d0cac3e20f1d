//! The keys of definitions in the versioned map.
//!
//! ```text
//! feature | kind, such as "feature_view" | name        ->        canonical bytes of the definition
//! ```

use anabranch_core::definition::DefinitionKind;
use anabranch_versioning::{Key, KeyKind};

use crate::{Error, Result};

/// The key of the definition of this kind and name.
///
/// # Errors
/// [`Error::Versioning`] where the name is too long for any key; no definition has such a name.
pub fn definition_key(kind: DefinitionKind, name: &str) -> Result<Key> {
    Ok(Key::new(KeyKind::Feature, &[kind.name().as_bytes(), name.as_bytes()])?)
}

/// What the keys of all definitions of a kind begin with.
///
/// # Errors
/// None in practice: the prefix is short.
pub fn definitions_of_kind(kind: DefinitionKind) -> Result<Key> {
    Ok(Key::prefix(KeyKind::Feature, &[kind.name().as_bytes()])?)
}

/// What the keys of all definitions begin with.
///
/// # Errors
/// None in practice: the prefix is short.
pub fn all_definitions() -> Result<Key> {
    Ok(Key::prefix(KeyKind::Feature, &[])?)
}

/// The kind and name in a definition's key.
///
/// # Errors
/// [`Error::Stored`] where it is the key of no definition.
pub fn identity_of_key(key: &Key) -> Result<(DefinitionKind, String)> {
    let damaged = || Error::Stored { key: key.to_string(), reason: "its key is not a kind of definition and a name".to_owned() };
    let parts = key.parts();
    let [kind, name] = parts.as_slice() else { return Err(damaged()) };
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| damaged());
    let kind = DefinitionKind::from_name(text(kind)?).filter(|_| key.kind() == KeyKind::Feature).ok_or_else(damaged)?;
    Ok((kind, text(name)?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_under_their_kind_and_read_back() {
        let key = definition_key(DefinitionKind::FeatureView, "weather").unwrap();
        assert_eq!(key.to_string(), r#"feature/"feature_view"/"weather""#);
        assert!(key.starts_with(&definitions_of_kind(DefinitionKind::FeatureView).unwrap()));
        assert!(!key.starts_with(&definitions_of_kind(DefinitionKind::FeatureService).unwrap()));
        assert!(key.starts_with(&all_definitions().unwrap()));
        assert_eq!(identity_of_key(&key).unwrap(), (DefinitionKind::FeatureView, "weather".to_owned()));
        let other = Key::new(KeyKind::Object, &[b"entity", b"a"]).unwrap();
        assert!(matches!(identity_of_key(&other), Err(Error::Stored { .. })));
    }
}

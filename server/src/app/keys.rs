//! Keys of the map as people write them: a kind and the key's parts, with `/` between, such as `feature/feature_view/weather`.
//!
//! What cannot stand in a part is written `%XX`: `%` and `/` themselves (an object's path keeps its `/`), control characters and bytes that are no UTF-8.
//! Numbers and uuids that keys hold as bytes are written as such. A text reads back as the key it was written from; leading parts read as the prefix
//! of the keys below them.

use anabranch_versioning::{Key, KeyKind};

use crate::error::{Error, Result};

/// The parts of a key behind its kind.
pub(crate) fn key_text(key: &Key) -> String {
    let kind = key.kind();
    let parts: Vec<_> = key.parts().iter().enumerate().map(|(index, part)| part_text(kind, index, part)).collect();
    parts.join("/")
}

/// The key, or the beginning of keys, that a path names.
pub(crate) fn key_of(path: &str) -> Result<Key> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let (kind, rest) = path.split_once('/').map_or((path, None), |(kind, rest)| (kind, Some(rest)));
    let known = KeyKind::ALL.into_iter().find(|known| known.name() == kind);
    let kind = known.ok_or_else(|| {
        let all = KeyKind::ALL.map(KeyKind::name).join(", ");
        Error::argument("path", format!("{kind:?} is no kind of thing; a path begins with one of {all}, as in feature/feature_view/weather"))
    })?;
    let parts = match rest {
        None => Vec::new(),
        // A path of a file is one part.
        Some(rest) if kind == KeyKind::Object => vec![unescaped(rest)],
        Some(rest) => rest.split('/').enumerate().map(|(index, text)| part_bytes(kind, index, text)).collect(),
    };
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Ok(Key::prefix(kind, &parts)?)
}

/// What a part holds where it is no text.
enum Binary {
    Number(usize),
    Uuid,
}

fn binary(kind: KeyKind, index: usize) -> Option<Binary> {
    match (kind, index) {
        (KeyKind::Snapshot, 0) => Some(Binary::Uuid),
        (KeyKind::Snapshot, 1) | (KeyKind::Offset, 0) => Some(Binary::Number(8)),
        (KeyKind::Offset, 2) => Some(Binary::Number(4)),
        _ => None,
    }
}

fn part_text(kind: KeyKind, index: usize, part: &[u8]) -> String {
    match binary(kind, index) {
        Some(Binary::Number(width)) if part.len() == width => part.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)).to_string(),
        Some(Binary::Uuid) if part.len() == 16 => {
            let hex: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
            [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
        }
        _ => escaped(kind, part),
    }
}

fn part_bytes(kind: KeyKind, index: usize, text: &str) -> Vec<u8> {
    let special = match binary(kind, index) {
        Some(Binary::Number(width)) => text.parse::<u64>().ok().map(|number| number.to_be_bytes()[8 - width..].to_vec()),
        Some(Binary::Uuid) => uuid_bytes(text),
        None => None,
    };
    special.unwrap_or_else(|| unescaped(text))
}

fn uuid_bytes(text: &str) -> Option<Vec<u8>> {
    let hex = text.replace('-', "");
    let digits = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(&hex, 16).ok().map(|uuid| uuid.to_be_bytes().to_vec())).flatten()
}

fn escaped(kind: KeyKind, part: &[u8]) -> String {
    let mut text = String::new();
    for chunk in part.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() || (c == '/' && kind != KeyKind::Object) {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%').then(|| after.get(..2)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: KeyKind, parts: &[&[u8]]) -> Key {
        Key::new(kind, parts).unwrap()
    }

    #[test]
    fn keys_are_written_for_people_and_read_back() {
        let uuid = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef";
        for (key, text) in [
            (key(KeyKind::Feature, &[b"feature_view", b"weather"]), "feature_view/weather"),
            (key(KeyKind::Table, &[b"a/b", "ä % \n".as_bytes()]), "a%2Fb/ä %25 %0A"),
            (key(KeyKind::Table, &[b"\xff\xc3", b"%2F"]), "%FF%C3/%252F"),
            (key(KeyKind::Snapshot, &[&uuid, &7_u64.to_be_bytes()]), "01234567-89ab-cdef-0123-456789abcdef/7"),
            (key(KeyKind::Offset, &[&3_u64.to_be_bytes(), b"push", &9_u32.to_be_bytes()]), "3/push/9"),
            (key(KeyKind::Object, &["models/ä/50%.bin".as_bytes()]), "models/ä/50%25.bin"),
        ] {
            assert_eq!(key_text(&key), text);
            assert_eq!(key_of(&format!("{}/{text}", key.kind().name())).unwrap(), key, "{text}");
        }
    }

    #[test]
    fn a_kind_and_leading_parts_are_prefixes() {
        let whole = key(KeyKind::Feature, &[b"feature_view", b"weather"]);
        for path in ["feature", "feature/", "feature/feature_view", "feature/feature_view/weather"] {
            assert!(whole.starts_with(&key_of(path).unwrap()), "{path}");
        }
        assert!(!whole.starts_with(&key_of("feature/feature").unwrap()));
        assert!(key_of("view/weather").unwrap_err().to_string().contains("feature"));
        assert!(key_of("").is_err());
        assert!(key_of(&format!("table/{}", "x".repeat(5000))).is_err());
    }
}

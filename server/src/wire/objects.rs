//! Objects as the contract and the HTTP face say them.

use anabranch_proto::v1;
use anabranch_versioning::{CommitId, Digest, ObjectCondition, ObjectInfo, ObjectItem, ObjectPage, ObjectsCommitted};
use serde_json::{Value as Json, json};

use crate::error::{Error, Result};

const CHECKSUM: &str = "blake3:";

pub(crate) fn checksum(info: &ObjectInfo) -> String {
    format!("{CHECKSUM}{}", info.entry.checksum())
}

/// Reads a checksum, with or without its algorithm's name.
pub(crate) fn digest(text: &str) -> Result<Digest> {
    let wrong = |_| Error::argument("checksum", format!("{text:?} is none: give {CHECKSUM} and 64 hex digits"));
    text.strip_prefix(CHECKSUM).unwrap_or(text).parse::<Digest>().map_err(wrong)
}

pub(crate) fn condition(condition: Option<v1::ObjectCondition>) -> Result<ObjectCondition> {
    use v1::object_condition::Condition;
    Ok(match condition.and_then(|condition| condition.condition) {
        None | Some(Condition::Absent(false) | Condition::Present(false)) => ObjectCondition::Any,
        Some(Condition::Absent(true)) => ObjectCondition::Absent,
        Some(Condition::Present(true)) => ObjectCondition::Present,
        Some(Condition::Checksum(text)) => ObjectCondition::Checksum(digest(&text)?),
    })
}

pub(crate) fn object(info: &ObjectInfo) -> v1::Object {
    v1::Object {
        path: info.path.clone(),
        size: info.entry.size(),
        checksum: checksum(info),
        content_type: info.entry.content_type().to_owned(),
        address: info.entry.address().to_string(),
        imported: info.entry.is_imported(),
    }
}

pub(crate) fn json(info: &ObjectInfo) -> Json {
    let object = object(info);
    json!({
        "path": object.path,
        "size": object.size,
        "checksum": object.checksum,
        "content_type": object.content_type,
        "address": object.address,
        "imported": object.imported,
    })
}

pub(crate) fn committed(committed: &ObjectsCommitted) -> v1::ObjectCommitReply {
    v1::ObjectCommitReply { commit: committed.commit.to_string(), changed: committed.changed }
}

pub(crate) fn put(committed: &ObjectsCommitted, put: &[ObjectInfo]) -> v1::PutObjectsReply {
    v1::PutObjectsReply { commit: committed.commit.to_string(), changed: committed.changed, objects: put.iter().map(object).collect() }
}

pub(crate) fn page(commit: &CommitId, page: ObjectPage) -> v1::ListObjectsReply {
    use v1::object_item::Item;
    let item = |item: ObjectItem| match item {
        ObjectItem::Object(info) => v1::ObjectItem { item: Some(Item::Object(object(&info))) },
        ObjectItem::Prefix(prefix) => v1::ObjectItem { item: Some(Item::Prefix(prefix)) },
    };
    v1::ListObjectsReply { commit: commit.to_string(), items: page.items.into_iter().map(item).collect(), next: page.next.unwrap_or_default() }
}

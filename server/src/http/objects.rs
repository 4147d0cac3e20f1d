//! Objects over HTTP: the path of an object is the rest of the route's, its bytes are the body, its checksum is the entity tag.
//!
//! `GET` takes `Range` (one range of bytes; several are answered with the whole, as RFC 9110 allows), `If-Range`, `If-Match` and `If-None-Match`; `HEAD` is
//! a `GET` without a body. `PUT` and `DELETE` take `If-Match`, `PUT` also `If-None-Match: *`: what they ask is judged on the head that the commit is made
//! on. A body that turns out damaged in midstream is broken off, so that it is shorter than its length says: what was sent up to there is sound.

use std::ops::Range;

use anabranch_versioning::{ObjectCondition, ObjectInfo, ObjectItem, ObjectQuery, ObjectReader};
use axum::body::Body;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::Answer;
use super::call::Call;
use crate::app::{PutObjects, Wanted};
use crate::auth::Verb;
use crate::error::{Error, Result};
use crate::wire::objects;

/// The commit that an object was read at.
const COMMIT: &str = "anabranch-commit";

type ObjectPath = std::result::Result<Path<String>, PathRejection>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct At {
    repository: String,
    r#ref: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Writing {
    repository: String,
    r#ref: String,
    author: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Listing {
    repository: String,
    r#ref: String,
    prefix: String,
    delimiter: String,
    after: String,
    limit: u32,
}

/// A copy, a rename or an import.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Moving {
    #[serde(default)]
    repository: String,
    #[serde(default)]
    r#ref: String,
    /// Only for a copy.
    #[serde(default)]
    from_ref: String,
    from: String,
    #[serde(default)]
    to: String,
    /// Refuse where something is there already.
    #[serde(default)]
    if_absent: bool,
    #[serde(default)]
    author: String,
    #[serde(default)]
    message: String,
}

impl Moving {
    fn wanted(&self) -> Wanted {
        let condition = if self.if_absent { ObjectCondition::Absent } else { ObjectCondition::Any };
        Wanted { condition, author: self.author.clone(), message: self.message.clone() }
    }
}

pub(super) async fn list(call: Call) -> Answer {
    let query: Listing = call.query()?;
    let scope = call.enter(Verb::ReadObjects, &query.repository, &query.r#ref).await?;
    let after = Some(query.after).filter(|after| !after.is_empty());
    let query = ObjectQuery { prefix: query.prefix, delimiter: query.delimiter, after, limit: query.limit as usize };
    let (commit, page) = scope.list_objects(query).await?;
    let (mut found, mut prefixes) = (Vec::new(), Vec::new());
    for item in page.items {
        match item {
            ObjectItem::Object(info) => found.push(objects::json(&info)),
            ObjectItem::Prefix(prefix) => prefixes.push(prefix),
        }
    }
    Ok(axum::Json(json!({"commit": commit.to_string(), "objects": found, "prefixes": prefixes, "next": page.next})))
}

pub(super) async fn get(path: ObjectPath, call: Call) -> Result<Response> {
    let query: At = call.query()?;
    let scope = call.enter(Verb::ReadObjects, &query.repository, &query.r#ref).await?;
    let (commit, info) = scope.stat_object(&named(path)?).await?;
    let etag = format!("\"{}\"", objects::checksum(&info));
    if call.header(IF_MATCH).is_some_and(|tags| !matches(&tags, &etag)) {
        return Err(Error::Precondition(format!("object {:?} has another checksum than If-Match says: {etag}", info.path)));
    }
    let size = info.entry.size();
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    for (name, value) in [(ETAG, etag.as_str()), (ACCEPT_RANGES, "bytes"), (CONTENT_TYPE, info.entry.content_type())] {
        headers.insert(name, text(value)?);
    }
    headers.insert(COMMIT, text(&commit.to_string())?);
    // A file that somebody put is no page of this server's.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    if call.header(IF_NONE_MATCH).is_some_and(|tags| matches(&tags, &etag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let whole = call.header(IF_RANGE).is_some_and(|tag| tag.trim() != etag);
    let wanted = call.header(RANGE).filter(|_| !whole).and_then(|range| asked(&range, size));
    let range = match wanted {
        None => 0..size,
        Some(Some(range)) => {
            headers.insert(CONTENT_RANGE, text(&format!("bytes {}-{}/{size}", range.start, range.end - 1))?);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            range
        }
        Some(None) => return unsatisfiable(&info),
    };
    response.headers_mut().insert(CONTENT_LENGTH, (range.end - range.start).into());
    *response.body_mut() = body(scope.open_object(info, Some(range)).await?);
    Ok(response)
}

pub(super) async fn put(path: ObjectPath, mut call: Call) -> Answer {
    let query: Writing = call.query()?;
    let scope = call.enter(Verb::WriteObjects, &query.repository, &query.r#ref).await?;
    let condition = condition(&call)?;
    let content_type = call.header(CONTENT_TYPE).unwrap_or_default();
    let mut put = scope.put_objects(&query.author, query.message).await?;
    let received = match put.begin(named(path)?, &content_type, condition).await {
        Ok(()) => receive(&mut put, &mut call).await,
        Err(error) => Err(error),
    };
    if let Err(error) = received {
        put.abort().await;
        call.discard().await;
        return Err(error);
    }
    let (committed, put) = put.commit().await?;
    let object = put.first().map_or(Json::Null, objects::json);
    Ok(axum::Json(json!({"commit": committed.commit.to_string(), "changed": committed.changed, "object": object})))
}

async fn receive(put: &mut PutObjects, call: &mut Call) -> Result<()> {
    while let Some(chunk) = call.chunk().await? {
        put.write(&chunk).await?;
    }
    Ok(())
}

pub(super) async fn delete(path: ObjectPath, call: Call) -> Answer {
    let query: Writing = call.query()?;
    let scope = call.enter(Verb::WriteObjects, &query.repository, &query.r#ref).await?;
    let wanted = Wanted { condition: condition(&call)?, author: query.author, message: query.message };
    let committed = scope.delete_objects(vec![named(path)?], wanted).await?;
    Ok(axum::Json(json!({"commit": committed.commit.to_string()})))
}

pub(super) async fn copy(mut call: Call) -> Answer {
    let body: Moving = call.json().await?;
    let scope = call.enter(Verb::WriteObjects, &body.repository, &body.r#ref).await?;
    if !body.from_ref.is_empty() {
        call.enter(Verb::ReadObjects, &body.repository, &body.from_ref).await?;
    }
    let wanted = body.wanted();
    let committed = scope.copy_object(&body.from_ref, &body.from, body.to, wanted).await?;
    Ok(axum::Json(json!({"commit": committed.commit.to_string(), "changed": committed.changed})))
}

pub(super) async fn rename(mut call: Call) -> Answer {
    let body: Moving = call.json().await?;
    let scope = call.enter(Verb::WriteObjects, &body.repository, &body.r#ref).await?;
    let wanted = body.wanted();
    let committed = scope.rename_object(body.from, body.to, wanted).await?;
    Ok(axum::Json(json!({"commit": committed.commit.to_string(), "changed": committed.changed})))
}

pub(super) async fn import(mut call: Call) -> Answer {
    let body: Moving = call.json().await?;
    let scope = call.enter(Verb::WriteObjects, &body.repository, &body.r#ref).await?;
    let wanted = body.wanted();
    let (committed, imported) = scope.import_objects(body.from, body.to, wanted).await?;
    let imported: Vec<_> = imported.iter().map(objects::json).collect();
    Ok(axum::Json(json!({"commit": committed.commit.to_string(), "changed": committed.changed, "objects": imported})))
}

fn named(path: ObjectPath) -> Result<String> {
    path.map(|Path(path)| path).map_err(|rejection| Error::argument("path", rejection.body_text()))
}

fn text(value: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(value).map_err(|_| Error::argument("header", format!("{value:?} cannot be sent")))
}

/// What a change must find, from the request's headers.
fn condition(call: &Call) -> Result<ObjectCondition> {
    let (wanted, unwanted) = (call.header(IF_MATCH), call.header(IF_NONE_MATCH));
    match (wanted.as_deref().map(str::trim), unwanted.as_deref().map(str::trim)) {
        (None, None) => Ok(ObjectCondition::Any),
        (None, Some("*")) => Ok(ObjectCondition::Absent),
        (Some("*"), None) => Ok(ObjectCondition::Present),
        (Some(tag), None) => match tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) {
            Some(checksum) if !checksum.contains('"') => Ok(ObjectCondition::Checksum(objects::digest(checksum)?)),
            _ => Err(Error::argument("If-Match", format!("{tag:?} is not one entity tag or *: give the object's ETag"))),
        },
        (None, Some(_)) => Err(Error::argument("If-None-Match", "a change takes only * there")),
        (Some(_), Some(_)) => Err(Error::argument("If-None-Match", "give it or If-Match, not both")),
    }
}

/// Whether a list of entity tags holds one, or is `*`.
fn matches(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// The range that a header asks for: `None` if it is to be passed over, `Some(None)` if the object has no such bytes.
fn asked(header: &str, size: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = header.trim().strip_prefix("bytes=").filter(|ranges| !ranges.contains(','))?.trim().split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().unwrap_or(u64::MAX));
    let range = match (first, last) {
        ("", "") => return None,
        ("", suffix) => size.saturating_sub(number(suffix)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some((range.start < range.end).then_some(range))
}

fn unsatisfiable(info: &ObjectInfo) -> Result<Response> {
    let size = info.entry.size();
    let mut response = Error::argument("Range", format!("object {:?} has {size} bytes, none of them there", info.path)).into_response();
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    response.headers_mut().insert(CONTENT_RANGE, text(&format!("bytes */{size}"))?);
    Ok(response)
}

fn body(reader: ObjectReader) -> Body {
    let parts = futures::stream::unfold(reader, |mut reader| async move {
        match reader.next().await {
            Ok(part) => part.map(|part| (Ok(part), reader)),
            Err(error) => {
                let error = Error::from(error);
                tracing::error!(%error, "an answer was broken off");
                Some((Err(error), reader))
            }
        }
    });
    Body::from_stream(parts.boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (header, expected) in [
            ("bytes=0-0", Some(Some(0..1))),
            ("bytes=2-", Some(Some(2..10))),
            ("bytes=-3", Some(Some(7..10))),
            ("bytes=-30", Some(Some(0..10))),
            ("bytes=5-99999999999999999999999", Some(Some(5..10))),
            ("bytes=9-9", Some(Some(9..10))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=99-100", Some(None)),
            ("bytes=3-2", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(asked(header, 10), expected, "{header}");
        }
        assert_eq!(asked("bytes=0-", 0), Some(None));
    }

    #[test]
    fn a_list_of_entity_tags_is_matched() {
        assert!(matches("\"a\", W/\"b\"", "\"b\"") && matches("*", "\"b\""));
        assert!(!matches("\"a\"", "\"b\"") && !matches("b", "\"b\""));
    }
}

//! Feast's wire: requests as Feast's own client sends them, and the answers that it takes. `sdk/python/tests/test_feast.py` runs that client itself.

use serde_json::{Value as Json, json};

use crate::support::TestServer;

const ROUTES: &str = "\
kind: entity
name: airport
join_key: origin
type: string
---
kind: entity
name: carrier
join_key: code
type: i64
---
kind: source
name: delays_push
via: push
---
kind: feature_view
name: delays
entities: [airport, carrier]
event_timestamp: at
source: delays_push
online_ttl: 36500d
fields:
  - {name: mean, type: f64}
  - {name: flights, type: i64}
  - {name: last, type: timestamp}
  - {name: reasons, type: list<string>}
---
kind: feature_view
name: weather
entities: [airport]
event_timestamp: at
online_ttl: 1d
fields:
  - {name: temp, type: f64}
---
kind: feature_service
name: model
features:
  - {view: delays, features: [mean, flights]}
  - {view: weather}
";

/// A frame as `RemoteOnlineStore.online_write_batch` sends it.
fn written() -> Json {
    json!({"feature_view_name": "delays", "allow_registry_cache": false, "df": {
        "origin": ["JFK", "LGA"], "code": [1, 2], "mean": [3.5, null], "flights": [7, 8], "last": [1_704_067_200, null],
        "reasons": [["fog", "strike"], []], "event_timestamp": ["2024-01-01T00:00:00", "2024-01-01T01:00:00.500000"], "created": [null, null],
    }})
}

async fn server() -> TestServer {
    let server = TestServer::start().await;
    server.apply(ROUTES).await.unwrap();
    let (status, reply) = server.http("POST", "/write-to-online-store", &written().to_string()).await;
    assert_eq!((status, &reply), (200, &Json::Null));
    server
}

/// What Feast's client makes an exception of: its class and message.
fn told(reply: &Json) -> (String, String) {
    let told: Json = serde_json::from_str(reply.as_str().unwrap_or_else(|| panic!("{reply}"))).unwrap();
    assert_eq!(told["module"], "feast.errors");
    (told["class"].as_str().unwrap().to_owned(), told["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn what_feast_writes_it_reads_by_a_composite_key() {
    let server = server().await;
    let body = json!({
        "entities": {"origin": ["LGA", "JFK", "JFK"], "code": [2, 1, 2]},
        "full_feature_names": false, "include_feature_view_version_metadata": false, "feature_service": "model",
    });
    let (status, reply) = server.http("POST", "/get-online-features", &body.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    assert_eq!(reply["metadata"], json!({"feature_names": ["code", "origin", "mean", "flights", "temp"]}));
    let none = "1970-01-01T00:00:00Z";
    let times = json!(["2024-01-01T01:00:00.500Z", "2024-01-01T00:00:00Z", none]);
    let expected = json!([
        {"values": [2, 1, 2], "statuses": ["PRESENT", "PRESENT", "PRESENT"], "event_timestamps": [none, none, none]},
        {"values": ["LGA", "JFK", "JFK"], "statuses": ["PRESENT", "PRESENT", "PRESENT"], "event_timestamps": [none, none, none]},
        {"values": [null, 3.5, null], "statuses": ["NULL_VALUE", "PRESENT", "NOT_FOUND"], "event_timestamps": times},
        {"values": [8, 7, null], "statuses": ["PRESENT", "PRESENT", "NOT_FOUND"], "event_timestamps": times},
        {"values": [null, null, null], "statuses": ["NOT_FOUND", "NOT_FOUND", "NOT_FOUND"], "event_timestamps": [none, none, none]},
    ]);
    assert_eq!(reply["results"], expected);
}

#[tokio::test]
async fn features_are_named_in_full_where_that_is_asked_for_and_times_are_seconds() {
    let server = server().await;
    let body = json!({"entities": {"airport": ["JFK"], "code": [1.0]}, "features": ["delays:last", "delays:reasons"], "full_feature_names": true});
    let (status, reply) = server.http("POST", "/get-online-features", &body.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    assert_eq!(reply["metadata"]["feature_names"], json!(["code", "origin", "delays__last", "delays__reasons"]));
    assert_eq!((&reply["results"][2]["values"], &reply["results"][3]["values"]), (&json!([1_704_067_200]), &json!([["fog", "strike"]])));
}

#[tokio::test]
async fn a_push_reaches_the_views_of_its_source_or_name_and_an_old_value_is_too_old() {
    let server = server().await;
    let df = json!({"origin": {"0": "JFK"}, "code": {"0": 1}, "mean": {"0": 4.5}, "flights": {"0": 9}, "last": {"0": null},
        "reasons": {"0": []}, "event_timestamp": {"0": "2024-01-02T00:00:00"}});
    for (name, df) in [("delays_push", df), ("weather", json!({"origin": ["JFK"], "temp": [20.5], "at": ["2024-01-02T00:00:00Z"]}))] {
        let body = json!({"push_source_name": name, "df": df, "to": "online_and_offline", "allow_registry_cache": true});
        let (status, reply) = server.http("POST", "/push", &body.to_string()).await;
        assert_eq!(status, 200, "{reply}");
    }
    let body = json!({"entities": {"origin": ["JFK"], "code": [1]}, "feature_service": "model"});
    let (_, reply) = server.http("POST", "/get-online-features", &body.to_string()).await;
    assert_eq!(reply["results"][2]["values"], json!([4.5]));
    assert_eq!((&reply["results"][4]["statuses"], &reply["results"][4]["values"]), (&json!(["OUTSIDE_MAX_AGE"]), &json!([null])));
}

#[tokio::test]
async fn materialising_leaves_whatever_is_committed_online() {
    let server = server().await;
    let body = json!({"start_ts": "2024-01-01T00:00:00", "end_ts": "2024-02-01T00:00:00", "feature_views": ["delays"]});
    assert_eq!(server.http("POST", "/materialize", &body.to_string()).await, (200, Json::Null));
    let body = json!({"end_ts": "2024-02-01T00:00:00+01:00"}).to_string();
    assert_eq!(server.http("POST", "/materialize-incremental", &body).await, (200, Json::Null));
    let (status, reply) = server.http("POST", "/materialize-incremental?async=true", &body).await;
    assert_eq!((status, &reply["feature_views"]), (202, &json!(["delays", "weather"])));
    let (status, _) = server.http("GET", "/health", "").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_callers_mistake_is_told_in_a_form_that_feasts_client_shows() {
    let server = server().await;
    let read = |features: Json, entities: Json| json!({"features": features, "entities": entities});
    let write = |column: &str, cells: Json| {
        let mut body = written();
        body["df"][column] = cells;
        body
    };
    let without = |column: &str| {
        let mut body = written();
        body["df"].as_object_mut().unwrap().remove(column);
        body
    };
    let key = json!({"origin": ["JFK"], "code": [1]});
    let (get, put) = ("/get-online-features", "/write-to-online-store");
    let span = |start: &str, end: &str| json!({"start_ts": start, "end_ts": end});
    for (path, body, status, class, reason) in [
        (get, json!({"feature_service": "modle", "entities": key}), 404, "FeatureServiceNotFoundException", "\"modle\""),
        (get, read(json!(["dalays:mean"]), key.clone()), 404, "FeatureViewNotFoundException", "did you mean \"delays\""),
        (get, read(json!(["delays:maen"]), key.clone()), 404, "FeatureViewNotFoundException", "no feature \"maen\""),
        (get, read(json!([]), key.clone()), 422, "FeastError", "feature list"),
        (get, read(json!(["delays:mean"]), json!({"origin": ["JFK"]})), 422, "FeastError", "\"code\" is missing"),
        (get, read(json!(["delays:mean"]), json!({"origin": ["JFK"], "code": ["one"]})), 422, "FeastError", "row 0"),
        (get, read(json!(["delays:mean"]), json!({"origin": ["JFK"], "code": [1, 2]})), 422, "FeastError", "values where others have"),
        (get, read(json!(["weather:temp"]), json!({"origin": ["JFK"], "user": [1]})), 404, "EntityNotFoundException", "\"user\""),
        (get, json!({"entities": "JFK"}), 422, "FeastError", "body"),
        (get, read(json!(["weather:temp"]), json!({"origin": vec!["JFK"; 10_001]})), 422, "FeastError", "10000"),
        (put, json!({"feature_view_name": "dalays", "df": {}}), 404, "FeatureViewNotFoundException", "\"dalays\""),
        (put, write("mean", json!(["high", 1.0])), 422, "FeastError", "column \"mean\", row 0"),
        (put, write("mean", json!([1.0])), 422, "FeastError", "values where others have"),
        (put, write("maen", json!([1.0, 2.0])), 422, "FeastError", "column \"maen\""),
        (put, write("origin", json!(["JFK", null])), 422, "FeastError", "column \"origin\", row 1"),
        (put, write("event_timestamp", json!(["noon", "noon"])), 422, "FeastError", "row 0"),
        (put, without("flights"), 422, "FeastError", "\"flights\""),
        (put, without("event_timestamp"), 422, "FeastError", "\"at\""),
        ("/push", json!({"push_source_name": "nowhere", "df": {}}), 404, "PushSourceNotFoundException", "\"nowhere\""),
        ("/push", json!({"push_source_name": "weather", "df": {}, "to": "moon"}), 422, "FeastError", "\"moon\""),
        ("/materialize", span("2024-01-02", "2024-01-01"), 422, "FeastError", "before"),
        ("/materialize", span("2024-01-02", "noon"), 422, "FeastError", "end_ts"),
        ("/materialize", json!({"end_ts": "2024-01-01"}), 422, "FeastError", "start_ts"),
        ("/materialize-incremental", json!({"end_ts": "2024-01-01", "version": "v2"}), 422, "FeastError", "version"),
        ("/materialize-incremental", json!({"end_ts": "2024-01-01", "feature_views": ["dalays"]}), 404, "FeatureViewNotFoundException", "dalays"),
    ] {
        let (found, reply) = server.http("POST", path, &body.to_string()).await;
        let (found_class, message) = told(&reply);
        assert_eq!((found, found_class.as_str()), (status, class), "{path} {body}: {message}");
        assert!(message.contains(reason), "{path} {body}: {message}");
    }
    let (status, reply) = server.http("POST", get, "{\"entities\": ").await;
    assert!(status == 422 && told(&reply).1.contains("not the JSON"), "{reply}");
}

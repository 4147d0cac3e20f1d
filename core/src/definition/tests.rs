use serde_json::json;

use super::*;
use crate::selection::Selection;
use crate::{DataType, Scalar};

fn spec(kind: DefinitionKind, spec: serde_json::Value) -> Result<Definition, Error> {
    Definition::from_spec(kind, spec)
}

fn airport() -> Definition {
    spec(DefinitionKind::Entity, json!({"name": "airport", "join_keys": [{"name": "origin", "type": "string"}]})).unwrap()
}

fn weather() -> Definition {
    let fields = json!([{"name": "temp", "type": "f64"}, {"name": "wind", "type": "f64"}]);
    let view = json!({"name": "weather", "entities": ["airport"], "event_timestamp": "hour", "fields": fields, "lookback": "24h"});
    spec(DefinitionKind::FeatureView, view).unwrap()
}

fn set(more: impl IntoIterator<Item = Definition>) -> Definitions {
    [airport(), weather()].into_iter().chain(more).collect()
}

#[test]
fn builders_and_json_give_the_same_canonical_bytes() {
    let f64 = DataType::Scalar(Scalar::F64);
    let built = FeatureView::new("weather", "hour").entity("airport").field("temp", f64).field("wind", f64).lookback("1d".parse().unwrap());
    let built = Definition::FeatureView(built).normalized().unwrap();
    assert_eq!(built.to_bytes(), weather().to_bytes());
    assert_eq!(Definition::from_bytes(&built.to_bytes()).unwrap(), built);
    let entity = Definition::Entity(Entity::new("airport", "origin", Scalar::String)).normalized().unwrap();
    assert_eq!(entity.to_bytes(), airport().to_bytes());
}

#[test]
fn canonical_bytes_are_as_recorded() {
    let bytes = String::from_utf8(weather().to_bytes()).unwrap();
    let golden = concat!(
        r#"{"format":1,"kind":"feature_view","spec":{"entities":["airport"],"event_timestamp":"hour","#,
        r#""fields":[{"name":"temp","type":"f64"},{"name":"wind","type":"f64"}],"lookback":"1d","name":"weather"}}"#
    );
    assert_eq!(bytes, golden);
}

#[test]
fn a_newer_format_and_unknown_fields_are_refused() {
    assert!(Definition::from_bytes(br#"{"format":2,"kind":"entity","spec":{}}"#).is_err());
    let error = spec(DefinitionKind::Entity, json!({"name": "a", "join_keys": [{"name": "k", "type": "int"}]})).unwrap_err();
    assert!(matches!(error, Error::Definition { path, .. } if path == "join_keys[0].type"));
    let error = spec(DefinitionKind::Entity, json!({"name": "a", "join_kays": []})).unwrap_err();
    assert!(error.to_string().contains("join_kays"), "{error}");
}

#[test]
fn definitions_that_contradict_themselves_are_refused() {
    let view = |more: serde_json::Value| {
        let mut base = json!({"name": "v", "entities": ["airport"], "event_timestamp": "t", "fields": [{"name": "x", "type": "i64"}]});
        base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec(DefinitionKind::FeatureView, base)
    };
    view(json!({})).unwrap();
    for bad in [
        json!({"fields": []}),
        json!({"entities": []}),
        json!({"fields": [{"name": "t", "type": "i64"}]}),
        json!({"fields": [{"name": "_file", "type": "i64"}]}),
        json!({"known_timestamp": "t"}),
        json!({"lookback": "0s"}),
        json!({"online_ttl": "2d", "retention": "1d"}),
        json!({"name": "a-b"}),
    ] {
        assert!(view(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn references_that_lead_nowhere_are_named() {
    let check = Check::new("c", "wether", "temp", Rule::NotNull {});
    let errors = set([Definition::Check(check)]).check().unwrap_err();
    assert!(errors[0].to_string().contains("did you mean \"weather\""), "{}", errors[0]);
    let range = Check::new("c", "weather", "temp", Rule::Range { min: Some(json!("low")), max: None });
    assert!(set([Definition::Check(range)]).check().is_err());
    let service = FeatureService::new("s").with(Projection { features: Some(vec!["rain".into()]), ..Projection::all("weather") });
    assert!(set([Definition::FeatureService(service)]).check().is_err());
    set([]).check().unwrap();
}

#[test]
fn one_view_under_two_aliases_has_two_sets_of_columns() {
    let at = |alias: &str, column: &str| Projection {
        alias: Some(alias.into()),
        key_map: [("origin".to_owned(), column.to_owned())].into(),
        features: Some(vec!["temp".into()]),
        view: "weather".into(),
    };
    let service = FeatureService::new("s").with(at("from", "origin")).with(at("to", "dest"));
    let definitions = set([Definition::FeatureService(service).normalized().unwrap()]);
    let selected = Selection::Service("s".into()).resolve(&definitions, &[], false).unwrap();
    assert_eq!(selected[0].output, ["from__temp"]);
    assert_eq!(selected[1].output, ["to__temp"]);
    assert_eq!(selected[1].key_columns, ["dest"]);
}

#[test]
fn a_service_says_which_lookups_are_logged_and_one_that_does_not_keeps_its_bytes() {
    let service = |logging: serde_json::Value| {
        let mut service = json!({"name": "s", "features": [{"view": "weather"}]});
        service.as_object_mut().unwrap().extend(logging.as_object().unwrap().clone());
        spec(DefinitionKind::FeatureService, service)
    };
    let bytes = |definition: Definition| String::from_utf8(definition.to_bytes()).unwrap();
    let plain = r#"{"format":1,"kind":"feature_service","spec":{"features":[{"view":"weather"}],"name":"s"}}"#;
    assert_eq!(bytes(service(json!({})).unwrap()), plain);
    assert_eq!(bytes(service(json!({"logging": {"sample_rate": -0.0}})).unwrap()), plain);
    let logged = r#"{"format":1,"kind":"feature_service","spec":{"features":[{"view":"weather"}],"logging":{"sample_rate":0.01},"name":"s"}}"#;
    let read = service(json!({"logging": {"sample_rate": 0.01}})).unwrap();
    assert_eq!(bytes(read.clone()), logged);
    let built = Definition::FeatureService(FeatureService::new("s").with(Projection::all("weather")).logged(0.01));
    assert_eq!(built.normalized().unwrap(), read);
    let whole = |rate: serde_json::Value| bytes(service(json!({"logging": {"sample_rate": rate}})).unwrap());
    assert_eq!(whole(json!(1)), whole(json!(1.0)));
    for bad in [json!(1.5), json!(-0.1), json!("often"), json!(null)] {
        let error = service(json!({"logging": {"sample_rate": bad}})).unwrap_err();
        assert!(matches!(error, Error::Definition { path, .. } if path == "logging.sample_rate"));
    }
    assert!(FeatureService::new("s").with(Projection::all("weather")).logged(f64::NAN).normalized().is_err());
}

#[test]
fn output_columns_are_short_unless_that_is_ambiguous() {
    let definitions = set([]);
    let resolve = |taken: &[String], full| {
        let selection = Selection::Features(vec!["weather:wind".into(), "weather:temp".into()]);
        selection.resolve(&definitions, taken, full).unwrap()[0].output.clone()
    };
    assert_eq!(resolve(&[], false), ["wind", "temp"]);
    assert_eq!(resolve(&[], true), ["weather__wind", "weather__temp"]);
    assert_eq!(resolve(&["temp".into()], false), ["wind", "weather__temp"]);
    assert!(Selection::Features(vec!["weather:rain".into()]).resolve(&definitions, &[], false).is_err());
}

#[test]
fn what_judges_rows_round_trips_and_services_do_not_count() {
    let service = Definition::FeatureService(FeatureService::new("s").with(Projection::all("weather")));
    let definitions = set([service]);
    assert_eq!(definitions.digest(), set([]).digest());
    assert_eq!(Definitions::from_judging_bytes(&definitions.judging_bytes()).unwrap(), set([]));
}

use anabranch_core::Kinded;
use anabranch_core::definition::{Check, Entity, FeatureService, FeatureView, Projection, Rule, Source};
use anabranch_core::{DataType, ErrorKind, Scalar};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::arbitrary;

const F32: DataType = DataType::Scalar(Scalar::F32);
const F64: DataType = DataType::Scalar(Scalar::F64);

fn airport() -> Definition {
    Definition::Entity(Entity::new("airport", "origin", Scalar::String))
}

fn view() -> FeatureView {
    FeatureView::new("weather", "hour").entity("airport").field("temp", F64).field("wind", F32).lookback("2d".parse().unwrap())
}

fn service() -> FeatureService {
    FeatureService::new("delays").with(Projection { features: Some(vec!["temp".into()]), ..Projection::all("weather") })
}

fn set(more: impl IntoIterator<Item = Definition>) -> Definitions {
    [airport(), Definition::FeatureView(view()), Definition::FeatureService(service())].into_iter().chain(more).collect()
}

fn update(definition: Definition) -> Plan {
    plan(&set([]), vec![definition], &PlanOptions::default()).unwrap()
}

fn delete(kind: DefinitionKind, name: &str) -> PlanOptions {
    PlanOptions { delete: vec![(kind, name.to_owned())], prune: false }
}

/// One line for each field: action, path and severity.
fn fields(plan: &Plan) -> Vec<String> {
    plan.changes.iter().flat_map(|change| &change.fields).map(|field| format!("{:?} {} {:?}", field.change, field.path, field.severity)).collect()
}

fn faults(result: Result<Plan>) -> Vec<String> {
    match result {
        Err(Error::Invalid { faults }) => faults.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn changes_of_a_view_are_told_field_by_field() {
    let base = view();
    let with = |change: fn(&mut FeatureView)| {
        let mut changed = base.clone();
        change(&mut changed);
        let proposed = vec![Definition::FeatureView(changed)];
        let other = |name: &str, key: &str| Definition::Entity(Entity::new(name, key, Scalar::String));
        let current = [airport(), other("port", "origin"), other("plane", "tail"), Definition::FeatureView(base.clone())].into_iter().collect();
        fields(&plan(&current, proposed, &PlanOptions::default()).unwrap())
    };
    assert_eq!(with(|view| view.description = "w".into()), ["Added description Safe"]);
    assert_eq!(with(|view| view.fields.push(anabranch_core::definition::Field::new("rain", F64))), ["Added fields.rain Safe"]);
    assert_eq!(with(|view| view.fields.truncate(1)), ["Dropped fields.wind Breaking"]);
    assert_eq!(with(|view| view.fields[1].data_type = F64), ["Widened fields.wind Safe"]);
    assert_eq!(with(|view| view.fields[0].data_type = F32), ["Narrowed fields.temp Breaking"]);
    assert_eq!(with(|view| view.fields[0].data_type = DataType::Scalar(Scalar::String)), ["Retyped fields.temp Breaking"]);
    assert_eq!(with(|view| view.fields.swap(0, 1)), ["Reordered fields Noted"]);
    assert_eq!(with(|view| view.fields[0].description = "F".into()), ["Added fields.temp.description Safe"]);
    assert_eq!(with(|view| view.lookback = "1d".parse().ok()), ["Changed lookback Noted"]);
    assert_eq!(with(|view| view.lookback = None), ["Dropped lookback Safe"]);
    assert_eq!(with(|view| view.online_ttl = "1d".parse().ok()), ["Added online_ttl Noted"]);
    assert_eq!(with(|view| view.retention = "9d".parse().ok()), ["Added retention Noted"]);
    assert_eq!(with(|view| view.max_future = "1m".parse().unwrap()), ["Changed max_future Noted"]);
    assert_eq!(with(|view| view.event_timestamp = "minute".into()), ["Changed event_timestamp Breaking"]);
    assert_eq!(with(|view| view.known_timestamp = Some("published".into())), ["Added known_timestamp Breaking"]);
    assert_eq!(with(|view| view.entities = vec!["plane".into()]), ["Changed entities Breaking"]);
    assert_eq!(with(|view| view.entities = vec!["port".into()]), ["Changed entities Noted"]);
}

#[test]
fn changes_of_keys_break_but_for_integers_that_widen() {
    let keyed = |scalar| Definition::Entity(Entity::new("user", "id", scalar));
    let change = |from, to| {
        let plan = plan(&[from].into_iter().collect(), vec![to], &PlanOptions::default()).unwrap();
        fields(&plan)
    };
    assert_eq!(change(keyed(Scalar::I32), keyed(Scalar::I64)), ["Widened join_keys.id Safe"]);
    assert_eq!(change(keyed(Scalar::I64), keyed(Scalar::I32)), ["Narrowed join_keys.id Breaking"]);
    assert_eq!(change(keyed(Scalar::I64), keyed(Scalar::String)), ["Retyped join_keys.id Breaking"]);
    let renamed = Definition::Entity(Entity::new("user", "uid", Scalar::I64));
    assert_eq!(change(keyed(Scalar::I64), renamed), ["Added join_keys.uid Breaking", "Dropped join_keys.id Breaking"]);
}

#[test]
fn what_breaks_names_who_uses_it() {
    let dropped = FeatureView { fields: view().fields[1..].to_vec(), ..view() };
    let still = FeatureService::new("delays").with(Projection::all("weather"));
    let proposed = vec![Definition::FeatureView(dropped), Definition::FeatureService(still)];
    let plan = plan(&set([]), proposed, &PlanOptions::default()).unwrap();
    assert!(plan.is_breaking());
    assert_eq!(
        plan.breaking(),
        [
            r#"feature_view "weather" drops fields.temp: f64 (whoever asks for it fails; used by feature_service "delays")"#,
            r#"feature_service "delays" drops features.weather.features.temp: weather:temp (models that ask for the service miss a column)"#,
        ]
    );
}

#[test]
fn logging_of_lookups_is_noted_and_never_breaks() {
    let change = |from: FeatureService, to: FeatureService| {
        let definitions = [airport(), Definition::FeatureView(view()), Definition::FeatureService(from)].into_iter().collect();
        let plan = plan(&definitions, vec![Definition::FeatureService(to)], &PlanOptions::default()).unwrap();
        assert!(!plan.is_breaking());
        plan.to_string()
    };
    let said = change(service(), service().logged(0.5));
    assert!(said.contains("logging.sample_rate: 0.5") && said.contains("lookups are logged from now on"), "{said}");
    let said = change(service().logged(0.5), service().logged(1.0));
    assert!(said.contains("another part of lookups"), "{said}");
    let said = change(service().logged(0.5), service().logged(0.0));
    assert!(said.contains("logged no longer"), "{said}");
}

#[test]
fn references_that_a_change_cuts_are_refused_whatever_is_allowed() {
    let cut = faults(plan(&set([]), vec![], &delete(DefinitionKind::FeatureView, "weather")));
    assert_eq!(cut.len(), 1);
    assert!(cut[0].starts_with(r#"feature_service "delays": features[0].view: there is no feature view "weather" after this change"#), "{}", cut[0]);
    assert!(!faults(plan(&set([]), vec![], &delete(DefinitionKind::Entity, "airport"))).is_empty());
    let dropped = Definition::FeatureView(FeatureView { fields: view().fields[1..].to_vec(), ..view() });
    assert!(faults(plan(&set([]), vec![dropped], &PlanOptions::default()))[0].contains("has no feature \"temp\""));
    // With the service gone in the same apply nothing is cut.
    let both = PlanOptions {
        delete: vec![(DefinitionKind::FeatureView, "weather".into()), (DefinitionKind::FeatureService, "delays".into())],
        prune: false,
    };
    let plan = plan(&set([]), vec![], &both).unwrap();
    assert_eq!((plan.count(Action::Delete), plan.is_breaking(), plan.after.len()), (2, true, 1));
}

#[test]
fn deletions_must_name_what_is_there() {
    let error = plan(&set([]), vec![], &delete(DefinitionKind::FeatureService, "delay")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), r#"there is no feature_service "delay" to delete, did you mean "delays"?"#);
    let both = plan(&set([]), vec![Definition::FeatureService(service())], &delete(DefinitionKind::FeatureService, "delays"));
    assert!(faults(both)[0].contains("both proposed and to be deleted"));
    assert!(faults(plan(&set([]), vec![airport(), airport()], &PlanOptions::default()))[0].contains("proposed twice"));
}

#[test]
fn checks_are_noted_and_told_tighter_or_looser() {
    let check = |rule| Definition::Check(Check::new("c", "weather", "temp", rule));
    let range = |min: Json, max: Json| check(Rule::Range { min: Some(min).filter(|b| !b.is_null()), max: Some(max).filter(|b| !b.is_null()) });
    let set_of = |values: &[i32]| check(Rule::OneOf { values: values.iter().map(|v| json!(v)).collect() });
    for (from, to, word) in [
        (range(json!(0), json!(10)), range(json!(1), json!(10)), "tightened"),
        (range(json!(0), json!(10)), range(json!(0), json!(11)), "relaxed"),
        (range(json!(0), json!(null)), range(json!(0), json!(11)), "tightened"),
        (range(json!(0), json!(1)), range(json!(0), json!(null)), "relaxed"),
        (range(json!(null), json!(1)), range(json!(0), json!(1)), "tightened"),
        (range(json!(0.5), json!(null)), range(json!(-1), json!(null)), "relaxed"),
        (set_of(&[1, 2]), set_of(&[1]), "tightened"),
        (set_of(&[1]), set_of(&[1, 2]), "relaxed"),
        (set_of(&[1]), set_of(&[2]), "judged differently"),
        (set_of(&[1]), check(Rule::NotNull {}), "judged differently"),
    ] {
        let plan = plan(&set([from]), vec![to.clone()], &PlanOptions::default()).unwrap();
        let reasons: Vec<_> = plan.changes[0].fields.iter().map(|field| field.reason.clone()).collect();
        assert!(plan.changes[0].severity == Severity::Noted && reasons.iter().all(|reason| reason.contains(word)), "{to:?}: {reasons:?}");
    }
    assert_eq!(update(check(Rule::NotNull {})).changes[0].severity, Severity::Noted);
}

#[test]
fn rules_that_no_row_could_keep_and_patterns_that_do_not_compile_are_refused() {
    let view = Definition::FeatureView(view().field("sky", DataType::Scalar(Scalar::String)));
    let propose = |column: &str, rule| {
        faults(plan(&set([]), vec![view.clone(), Definition::Check(Check::new("c", "weather", column, rule))], &PlanOptions::default()))
    };
    let pattern = |regex: &str| propose("sky", Rule::Pattern { regex: regex.into() });
    assert_eq!(pattern("(a"), [r#"check "c": rule.pattern.regex: it is no regular expression: unclosed group"#]);
    assert!(pattern("a{1000}{1000}{1000}")[0].contains("size limit"));
    assert!(propose("temp", Rule::Range { min: Some(json!(2)), max: Some(json!(1)) })[0].contains("no row would pass"));
    assert!(propose("sky", Rule::Range { min: Some(json!("b")), max: Some(json!("a")) })[0].contains("no row would pass"));
    assert!(propose("temp", Rule::Range { min: Some(json!("NaN")), max: None })[0].contains("NaN is no bound"));
}

#[test]
fn a_service_whose_views_want_unlike_keys_in_one_column_is_refused() {
    let entity = |name: &str, scalar| Definition::Entity(Entity::new(name, "id", scalar));
    let view = |name: &str, entity: &str| Definition::FeatureView(FeatureView::new(name, "t").entity(entity).field("x", F64));
    let propose = |scalar, key_map: &[(&str, &str)]| {
        let key_map = key_map.iter().map(|(key, column)| ((*key).to_owned(), (*column).to_owned())).collect();
        let service = FeatureService::new("s").with(Projection::all("a")).with(Projection { key_map, ..Projection::all("b") });
        let proposed = vec![entity("ea", Scalar::I64), entity("eb", scalar), view("a", "ea"), view("b", "eb"), Definition::FeatureService(service)];
        plan(&Definitions::new(), proposed, &PlanOptions::default())
    };
    assert!(faults(propose(Scalar::String, &[]))[0].contains("column \"id\" of the caller would be i64 for \"a\" and string for \"b\""));
    propose(Scalar::String, &[("id", "name")]).unwrap();
    propose(Scalar::I32, &[]).unwrap();
}

#[test]
fn a_definition_too_large_for_the_map_is_refused() {
    let source = Definition::Source(Source { description: "x".repeat(1 << 20), ..Source::push("s") });
    assert!(faults(plan(&Definitions::new(), vec![source], &PlanOptions::default()))[0].contains("split it"));
}

#[test]
fn every_fault_is_reported_at_once() {
    let bad = |name: &str| Definition::FeatureView(FeatureView { name: name.into(), entities: vec!["nobody".into()], ..view() });
    assert_eq!(faults(plan(&set([]), vec![bad("a"), bad("b")], &PlanOptions::default())).len(), 2);
    assert_eq!(faults(plan(&set([]), vec![bad("a-"), bad("b-")], &PlanOptions::default())).len(), 2);
}

#[test]
fn a_plan_reads_well_and_is_json() {
    let changed = FeatureView { lookback: "1d".parse().ok(), ..view() }.field("rain", F64);
    let changed = FeatureView { fields: changed.fields[1..].to_vec(), ..changed };
    let wind = FeatureService::new("delays").with(Projection { features: Some(vec!["wind".into()]), ..Projection::all("weather") });
    let plane = Definition::Entity(Entity::new("plane", "tail", Scalar::String));
    let proposed = vec![airport(), plane, Definition::FeatureView(changed), Definition::FeatureService(wind)];
    let plan = plan(&set([Definition::Source(Source::push("old"))]), proposed, &PlanOptions { prune: true, delete: vec![] }).unwrap();
    assert_eq!(plan.to_string(), include_str!("../../tests/golden/plan.txt").trim_end());
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["summary"], json!({"create": 1, "update": 2, "delete": 1, "unchanged": 1, "breaking": 2}));
    let dropped = json["changes"][3]["fields"].as_array().unwrap().iter().find(|field| field["path"] == "fields.temp").unwrap();
    let reason = r#"whoever asks for it fails; used by feature_service "delays""#;
    assert_eq!(*dropped, json!({"path": "fields.temp", "change": "dropped", "from": "f64", "severity": "breaking", "reason": reason}));
    assert_eq!(update(airport()).to_string(), "0 to create, 0 to update, 0 to delete, 1 unchanged");
}

proptest! {
    #[test]
    fn a_plan_leads_from_what_is_there_to_what_is_proposed(current in arbitrary::definitions(), wanted in arbitrary::definitions()) {
        let options = PlanOptions { prune: true, delete: vec![] };
        let there = plan(&current, wanted.iter().cloned().collect(), &options).unwrap();
        prop_assert_eq!(&there.after, &wanted);
        prop_assert_eq!(there.is_empty(), current == wanted);
        for change in &there.changes {
            // An update says what changes, and only that.
            prop_assert_eq!(change.action == Action::Update, change.before.is_some() && change.after.is_some() && !change.fields.is_empty());
            prop_assert!(change.fields.iter().all(|field| field.from != field.to));
            prop_assert!(change.fields.iter().all(|field| field.severity == Severity::Safe || !field.reason.is_empty()));
        }
        let again = plan(&there.after, wanted.iter().cloned().collect(), &options).unwrap();
        prop_assert!(again.is_empty() && !again.is_breaking());
    }

    #[test]
    fn a_plan_that_breaks_nothing_keeps_every_feature_with_a_type_that_holds_it(current in arbitrary::definitions(), wanted in arbitrary::definitions()) {
        if let Ok(plan) = plan(&current, wanted.iter().cloned().collect(), &PlanOptions::default()) && !plan.is_breaking() {
            for column in current.layout("v").iter().flat_map(|before| before.columns()) {
                let after = plan.after.layout("v").unwrap();
                let kept = after.columns().iter().find(|kept| kept.name == column.name).unwrap();
                prop_assert!(column.data_type == kept.data_type || column.data_type.widens_to(kept.data_type));
            }
        }
    }
}

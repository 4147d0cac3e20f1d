//! The pure part; with a repository in [`repository`].

mod repository;

use std::collections::BTreeMap;

use anabranch_core::Kinded;
use anabranch_core::definition::{Check, Entity, FeatureService, FeatureView, Projection, Rule, Source};
use anabranch_core::{DataType, ErrorKind, Scalar};
use proptest::prelude::*;

use super::*;
use crate::arbitrary;

const F64: DataType = DataType::Scalar(Scalar::F64);

fn airport() -> Definition {
    Definition::Entity(Entity::new("airport", "origin", Scalar::String))
}

fn weather(fields: &[&str]) -> Definition {
    let view = FeatureView::new("weather", "hour").entity("airport").source("hourly");
    Definition::FeatureView(fields.iter().fold(view, |view, field| view.field(*field, F64)))
}

fn delays(feature: &str) -> Definition {
    let projection = Projection { features: Some(vec![feature.to_owned()]), ..Projection::all("weather") };
    Definition::FeatureService(FeatureService::new("delays").with(projection))
}

fn base() -> Vec<Definition> {
    vec![airport(), Definition::Source(Source::push("hourly")), weather(&["temp", "wind"])]
}

fn planned(proposed: Vec<Definition>, options: &PlanOptions) -> Plan {
    plan(&base().into_iter().collect(), proposed, options).unwrap()
}

fn reads(plan: &Plan) -> Vec<String> {
    let reads = apply_changes(plan, true).unwrap().reads;
    let show = |read: &Read| match read {
        Read::Key(key) => format!("key {key}"),
        Read::Prefix(key) => format!("all {key}"),
    };
    reads.iter().map(show).collect()
}

#[test]
fn a_breaking_plan_is_refused_with_its_reasons_unless_allowed() {
    let plan = planned(vec![weather(&["temp"])], &PlanOptions::default());
    let error = apply_changes(&plan, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("drops fields.wind"), "{error}");
    assert_eq!(apply_changes(&plan, true).unwrap().changes.len(), 1);
}

#[test]
fn changes_expect_what_the_plan_saw() {
    let plan = planned(vec![airport(), weather(&["temp", "wind", "rain"]), delays("temp")], &PlanOptions::default());
    let changes = apply_changes(&plan, false).unwrap().changes;
    let [Change::Put { expect: view, .. }, Change::Put { expect: service, key, value }] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(*view, Expect::Value(weather(&["temp", "wind"]).to_bytes().into()));
    assert_eq!((service, key), (&Expect::Absent, &definition_key(DefinitionKind::FeatureService, "delays").unwrap()));
    assert_eq!(value, &delays("temp").to_bytes());
}

#[test]
fn a_plan_reads_what_it_refers_to_and_who_might_refer_to_what_it_takes_away() {
    let keys = [r#"key feature/"entity"/"airport""#, r#"key feature/"source"/"hourly""#, r#"key feature/"feature_view"/"weather""#];
    let none = PlanOptions::default();
    assert_eq!(reads(&planned(vec![weather(&["temp", "wind", "rain"])], &none)), keys[..2]);
    assert_eq!(reads(&planned(vec![delays("temp")], &none)), [keys[0], keys[2]]);
    let check = Definition::Check(Check::new("c", "weather", "temp", Rule::NotNull {}));
    assert_eq!(reads(&planned(vec![check], &none)), [keys[0], keys[2]]);
    let dependents = [r#"all feature/"check""#, r#"all feature/"feature_service""#];
    assert_eq!(reads(&planned(vec![weather(&["temp"])], &none)), [&keys[..2], &dependents[..]].concat());
    let delete = PlanOptions { delete: vec![(DefinitionKind::FeatureView, "weather".into())], prune: false };
    assert_eq!(reads(&planned(vec![], &delete)), dependents);
}

type Map = BTreeMap<Key, Bytes>;

fn map(definitions: &Definitions) -> Map {
    definitions.iter().map(|d| (definition_key(d.kind(), d.name()).unwrap(), d.to_bytes().into())).collect()
}

/// The map after a commit, by the words of the versioned map's contract; `None` where it is refused.
fn commit(base: &Map, head: &Map, prepared: Prepared) -> Option<Map> {
    let under =
        |map: &Map, prefix: &Key| map.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>();
    let unmoved = |read: &Read| match read {
        Read::Key(key) => base.get(key) == head.get(key),
        Read::Prefix(prefix) => under(base, prefix) == under(head, prefix),
    };
    if !prepared.reads.iter().all(unmoved) {
        return None;
    }
    let mut after = head.clone();
    for change in prepared.changes {
        let (key, value, expect) = match change {
            Change::Put { key, value, expect } => (key, Some(value), expect),
            Change::Delete { key, expect } => (key, None, expect),
            Change::Apply(_) => panic!("definitions need no apply"),
        };
        let expected = match expect {
            Expect::Any => true,
            Expect::Absent => !after.contains_key(&key),
            Expect::Value(value) => after.get(&key) == Some(&value),
        };
        if !expected {
            return None;
        }
        match value {
            Some(value) => after.insert(key, value),
            None => after.remove(&key),
        };
    }
    Some(after)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn two_applies_at_once_never_leave_a_reference_that_leads_nowhere(
        base in arbitrary::definitions(),
        first in arbitrary::definitions(),
        second in arbitrary::definitions(),
        prune in any::<bool>(),
    ) {
        let options = PlanOptions { prune, delete: vec![] };
        let planned = |wanted: &Definitions| plan(&base, wanted.iter().cloned().collect(), &options);
        if let (Ok(first), Ok(second)) = (planned(&first), planned(&second)) {
            let there = map(&base);
            let head = commit(&there, &there, apply_changes(&first, true).unwrap()).unwrap();
            prop_assert_eq!(&head, &map(&first.after));
            if let Some(head) = commit(&there, &head, apply_changes(&second, true).unwrap()) {
                let left: Definitions = head.values().map(|bytes| Definition::from_bytes(bytes).unwrap()).collect();
                prop_assert_eq!(left.check(), Ok(()));
            }
        }
    }
}

use anabranch_core::definition::DefinitionKind;
use proptest::prelude::*;

use super::*;
use crate::arbitrary;
use crate::plan::{PlanOptions, plan};

fn parse(text: &str) -> Result<Parsed> {
    parse_yaml(&[YamlFile { name: "f.yaml", text }])
}

fn faults(text: &str) -> Vec<String> {
    match parse(text) {
        Err(Error::Invalid { faults }) => faults.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn yaml_gives_the_canonical_bytes_on_record() {
    let parsed = parse(include_str!("../../tests/golden/flights.yaml")).unwrap();
    let lines: Vec<_> = parsed.definitions.iter().map(|definition| String::from_utf8(definition.to_bytes()).unwrap()).collect();
    let golden: Vec<_> = include_str!("../../tests/golden/flights.canonical").lines().collect();
    assert_eq!(lines, golden);
    parsed.definitions.into_iter().collect::<anabranch_core::definition::Definitions>().check().unwrap();
}

#[test]
fn definitions_are_shown_as_people_write_them() {
    let parsed = parse(include_str!("../../tests/golden/flights.yaml")).unwrap();
    let shown = parsed.definitions.iter().map(to_yaml).collect::<Vec<_>>().join("---\n");
    assert_eq!(shown, include_str!("../../tests/golden/flights.shown.yaml"));
}

#[test]
fn faults_name_the_line_of_the_field() {
    for (text, fault) in [
        ("kind: entity\nname: a\njoin_kays: []\n", "f.yaml:3:1: entity \"a\": unknown field `join_kays`"),
        ("kind: entity\nname: a\n", "f.yaml:1:1: entity \"a\": missing field `join_keys`"),
        ("kind: entity\nname: a-b\njoin_key: k\ntype: i64\n", "f.yaml:2:7: entity \"a-b\": entity name \"a-b\" is not allowed"),
        ("kind: entity\nname: a\njoin_keys:\n  - name: k\n    type: int\n", "f.yaml:5:11: entity \"a\": \"int\" is not a data type"),
        ("kind: entity\nname: a\njoin_key: k\ntype: f64\n", "f.yaml:4:7: entity \"a\": a join key cannot be f64"),
        ("kind: entity\nname: a\njoin_key: k\n", "f.yaml:3:1: entity: a join_key needs a type"),
        ("kind: entity\nname: a\njoin_key: k\ntype: i64\njoin_keys: []\n", "f.yaml:5:1: entity: it has both"),
        ("kind: entity\nname: a\njoin_key: pos\ntype: i64\n", "f.yaml:3:11: entity \"a\": column name \"pos\" is not allowed"),
        ("name: a\nkind: entitty\n", "f.yaml:2:7: \"entitty\" is no kind of definition"),
        ("\nname: a\n", "f.yaml:2:1: it has no kind"),
        ("- a\n", "f.yaml:1:1: a definition is a mapping"),
        ("kind: source\nname: s\nvia: {fil: {path: x}}\n", "f.yaml:3:7: source \"s\": unknown variant `fil`"),
        ("kind: source\nname: s\nvia:\n  file: {path: ''}\n", "f.yaml:4:10: source \"s\": it is empty"),
        ("kind: feature_view\nname: v\nentities: [e]\nevent_timestamp: t\nfields:\n- {name: x, type: i64}\nlookback: 3 weeks\n", "f.yaml:7:11: "),
        (
            "kind: feature_view\nname: v\nentities: [e]\nevent_timestamp: t\nfields:\n- {name: x, type: i64}\n- {name: x, type: i64}\n",
            "f.yaml:7:10: ",
        ),
        ("kind: feature_view\nname: v\nentities: [e, e]\nevent_timestamp: t\nfields:\n- {name: x, type: i64}\n", "f.yaml:3:15: "),
        ("kind: check\nname: c\nview: v\ncolumn: x\nrule: {range: {}}\n", "f.yaml:5:8: check \"c\": it needs min, max or both"),
        ("kind: check\nname: c\nview: v\ncolumn: x\nrule: {ranj: {}}\n", "f.yaml:5:8: check \"c\": unknown variant `ranj`"),
        ("kind: feature_service\nname: s\nfeatures:\n- view: v\n- view: v\n", "f.yaml:5:3: feature_service \"s\": \"v\" is taken twice"),
        (
            "kind: feature_service\nname: s\nfeatures:\n- view: v\nlogging: {sample_rate: 2}\n",
            "f.yaml:5:24: feature_service \"s\": 2 is not between 0 and 1",
        ),
        ("kind: entity\nname: [a]\njoin_key: k\ntype: i64\n", "f.yaml:2:1: entity: invalid type: sequence"),
    ] {
        let found = faults(text);
        assert!(found.len() == 1 && found[0].starts_with(fault), "{found:?}, not {fault:?}");
    }
}

#[test]
fn malformed_yaml_names_line_and_column() {
    let (deep, deeper, indented) = (format!("kind: {}", "[".repeat(100)), format!("kind: {}", "[".repeat(100_000)), "- ".repeat(100_000));
    for (text, fault) in [
        ("kind: entity\n  name: a\n", "f.yaml:2:7: this is no YAML"),
        ("kind: [entity\n", "f.yaml:2:1: this is no YAML"),
        ("kind: entity\nname: \"a\n", "f.yaml:2:7: this is no YAML"),
        ("kind: entity\nname: a\nname: b\n", "f.yaml:3:1: key \"name\" is there twice"),
        ("kind: entity\nname: &x a\n", "f.yaml:2:7: anchors are not supported"),
        ("kind: entity\nname: !!str a\n", "f.yaml:2:7: tags are not supported"),
        ("kind: entity\n[a]: b\n", "f.yaml:2:1: a key must be a text"),
        (deep.as_str(), "f.yaml:1:38: this is nested deeper than 32"),
        (deeper.as_str(), "f.yaml:1:262: this is no YAML: recursion limit exceeded"),
        (indented.as_str(), "f.yaml:1:65: this is nested deeper than 32"),
    ] {
        let found = faults(text);
        assert!(found[0].starts_with(fault), "{found:?}, not {fault:?}");
    }
    assert!(faults("a: &x 1\nb: *x\n").iter().any(|fault| fault == "f.yaml:2:4: aliases are not supported: write the value out"));
}

#[test]
fn every_document_at_fault_is_reported_at_once() {
    let found = faults("kind: entity\nname: 1\n---\nkind: x\n---\nkind: source\nname: good\n---\nkind: source\nname: good\n---\nkind: {\n");
    let lines: Vec<_> = found.iter().map(|fault| fault.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["1", "4", "10", "13"], "{found:#?}");
    assert!(found[2].contains("first at f.yaml:7:7"), "{}", found[2]);
}

#[test]
fn empty_documents_and_files_are_nothing() {
    for text in ["", "# only words\n", "---\n---\n", "\u{FEFF}"] {
        assert!(parse(text).unwrap().definitions.is_empty(), "{text:?}");
    }
    assert_eq!(parse("\u{FEFF}kind: source\nname: a\n").unwrap().definitions.len(), 1);
}

#[test]
fn texts_stay_texts_and_rules_take_numbers() {
    let parsed = parse("kind: source\nname: yes\nowner: 1.50\ndescription: 0x10\ntags: {a: true, b: 2024-01-01, 3: x}\n").unwrap();
    let spec = parsed.definitions[0].spec();
    assert_eq!(
        spec,
        serde_json::json!({"name": "yes", "owner": "1.50", "description": "0x10", "via": "push", "tags": {"3": "x", "a": "true", "b": "2024-01-01"}})
    );
    let found = faults("kind: source\nname: a\nowner:\n");
    assert!(found[0].starts_with("f.yaml:3:1: source \"a\": invalid type: null"), "{found:?}");
}

#[test]
fn faults_found_by_a_plan_get_their_line() {
    let text = "kind: entity\nname: a\njoin_key: k\ntype: i64\n---\nkind: feature_view\nname: v\nentities: [z, a]\nevent_timestamp: t\nfields:\n- {name: x, type: i64}\n---\nkind: check\nname: c\nview: v\ncolumn: x\nrule: {pattern: {regex: a}}\n";
    let parsed = parse(text).unwrap();
    let error = plan(&Default::default(), parsed.definitions.clone(), &PlanOptions::default()).unwrap_err();
    let Error::Invalid { faults } = parsed.places.locate(error) else { panic!("not invalid") };
    assert_eq!(faults[0].to_string(), "f.yaml:8:12: feature_view \"v\": there is no entity \"z\", did you mean \"a\"?");
    assert_eq!(parsed.places.find(DefinitionKind::Check, "c", "rule.pattern").unwrap().line, 17);
    assert_eq!(parsed.places.find(DefinitionKind::Check, "d", ""), None);
}

proptest! {
    #[test]
    fn definitions_read_back_from_their_yaml(definitions in proptest::collection::vec(arbitrary::definition(), 1..3)) {
        for definition in &definitions {
            let yaml = to_yaml(definition);
            let parsed = parse(&yaml);
            prop_assert!(parsed.is_ok(), "{}\n{:?}", yaml, parsed);
            let read = &parsed.unwrap().definitions[0];
            prop_assert_eq!(String::from_utf8(read.to_bytes()).unwrap(), String::from_utf8(definition.to_bytes()).unwrap(), "{}", yaml);
        }
    }

    #[test]
    fn canonical_bytes_read_back_as_the_same_bytes(definition in arbitrary::definition()) {
        let bytes = definition.to_bytes();
        prop_assert_eq!(Definition::from_bytes(&bytes).unwrap().to_bytes(), bytes);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "([a-z\\[\\]{},:\\-?&*!|>'\"#%@ \\n\\t~.0-9]|kind: entity\\n|name: a\\n|---\\n|\\PC){0,24}") {
        if let Err(error) = parse(&text) {
            let placed = matches!(&error, Error::Invalid { faults } if faults.iter().all(|fault| fault.place.is_some()));
            prop_assert!(placed, "{}", error);
        }
    }
}

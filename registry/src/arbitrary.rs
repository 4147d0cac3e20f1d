//! Definitions at random, for the laws.

use std::collections::BTreeMap;

use anabranch_core::definition::{
    Check, Definition, Definitions, Entity, FeatureService, FeatureView, Field, FileFormat, JoinKey, Logging, Partition, Projection, Rule, Source,
    SourceKind,
};
use anabranch_core::{DataType, Scalar, Span};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

fn name() -> impl Strategy<Value = String> {
    // Among them what YAML or people take for something else.
    prop_oneof!["[a-z][a-z0-9]{0,6}", Just("null".to_owned()), Just("true".to_owned()), Just("no".to_owned()), Just("e1".to_owned())]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("~".to_owned()),
        Just("a: b # c".to_owned()),
        Just("- x".to_owned()),
        Just("\u{FEFF}\u{85}\u{2028}\u{0}\u{7f}".to_owned()),
        "[ -~]{0,12}",
        "[\\n\\t \"'\\\\:#,a]{0,8}",
        any::<String>(),
    ]
}

fn tags() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop_oneof![4 => text(), 1 => Just("k".repeat(2000))];
    btree_map(key, text(), 0..3)
}

fn span() -> impl Strategy<Value = Span> {
    prop_oneof![1..100_i64, (1..100_i64).prop_map(|hours| hours * 3_600_000_000)].prop_map(Span)
}

fn data_type() -> impl Strategy<Value = DataType> {
    const NAMES: [&str; 10] = ["bool", "i32", "i64", "f32", "f64", "string", "bytes", "timestamp", "list<i64>", "vector<3>"];
    proptest::sample::select(&NAMES[..]).prop_map(|name| name.parse().unwrap())
}

fn entity() -> impl Strategy<Value = Definition> {
    let key = prop_oneof![Just(Scalar::I32), Just(Scalar::I64), Just(Scalar::String), Just(Scalar::Timestamp)];
    (name(), btree_map(name(), key, 1..4), text(), text(), tags()).prop_map(|(name, keys, description, owner, tags)| {
        let join_keys = keys.into_iter().rev().map(|(name, scalar)| JoinKey { name, data_type: DataType::Scalar(scalar) }).collect();
        Definition::Entity(Entity { name, join_keys, description, owner, tags })
    })
}

fn source() -> impl Strategy<Value = Definition> {
    let format = option::of(prop_oneof![Just(FileFormat::Parquet), Just(FileFormat::JsonLines)]);
    let file = ("[ -~]{1,9}", format).prop_map(|(path, format)| SourceKind::File { path, format });
    let via = prop_oneof![Just(SourceKind::Push), file];
    (name(), via, text(), text(), tags())
        .prop_map(|(name, via, description, owner, tags)| Definition::Source(Source { name, via, description, owner, tags }))
}

fn view() -> impl Strategy<Value = Definition> {
    let columns = btree_map(name(), (data_type(), text()), 3..7);
    let spans = (option::of(span()), option::of(span()), span());
    let partition = prop_oneof![Just(Partition::None), Just(Partition::Day)];
    let words = (text(), text(), tags());
    (name(), btree_set(name(), 1..3), columns, any::<bool>(), spans, option::of(name()), partition, words).prop_map(
        |(name, entities, columns, known, (lookback, online_ttl, max_future), source, partition, (description, owner, tags))| {
            let mut columns = columns.into_iter();
            let event_timestamp = columns.next().unwrap().0;
            let known_timestamp = columns.next().filter(|_| known).map(|(name, _)| name);
            let fields = columns.map(|(name, (data_type, description))| Field { name, data_type, description }).collect();
            let entities = entities.into_iter().rev().collect();
            let view = FeatureView {
                name,
                entities,
                fields,
                event_timestamp,
                known_timestamp,
                lookback,
                online_ttl,
                retention: None,
                max_future,
                source,
                partition,
                description,
                owner,
                tags,
            };
            Definition::FeatureView(view)
        },
    )
}

fn json_scalar() -> impl Strategy<Value = Json> {
    prop_oneof![
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(|x| json!(x)).prop_filter("null is no value", |json| !json.is_null()),
        text().prop_map(Json::from),
        prop_oneof![Just("1"), Just("1.5"), Just("true"), Just("NaN"), Just(".nan"), Just("0x1F"), Just("null")].prop_map(Json::from),
    ]
}

fn check() -> impl Strategy<Value = Definition> {
    let rule = prop_oneof![
        Just(Rule::NotNull {}),
        (json_scalar(), option::of(json_scalar())).prop_map(|(min, max)| Rule::Range { min: Some(min), max }),
        vec(json_scalar(), 1..4).prop_map(|values| Rule::OneOf { values }),
        text().prop_map(|regex| Rule::Pattern { regex }),
    ];
    (name(), text(), text(), rule, text())
        .prop_map(|(name, view, column, rule, description)| Definition::Check(Check { name, view, column, rule, description }))
}

fn service() -> impl Strategy<Value = Definition> {
    let features = option::of(btree_set(text(), 1..4).prop_map(|names| names.into_iter().collect()));
    let projection = (text(), features, btree_map(name(), text(), 0..3));
    let logging = option::of((0.0..=1.0_f64).prop_map(|sample_rate| Logging { sample_rate }));
    (name(), vec(projection, 1..4), logging, text(), text(), tags()).prop_map(|(name, projections, logging, description, owner, tags)| {
        let numbered = projections.into_iter().enumerate();
        let projection = |(i, (view, features, key_map))| Projection { view, alias: Some(format!("p{i}")), features, key_map };
        Definition::FeatureService(FeatureService { name, features: numbered.map(projection).collect(), logging, description, owner, tags })
    })
}

/// Any definition that is right in itself, in canonical form; what it refers to need not exist.
pub(crate) fn definition() -> impl Strategy<Value = Definition> {
    let any = prop_oneof![entity(), source(), view(), check(), service()];
    any.prop_filter_map("wrong in itself", |definition| definition.normalized().ok())
}

/// Sets whose references all lead somewhere, small and alike, so that two of them differ in single fields.
pub(crate) fn definitions() -> impl Strategy<Value = Definitions> {
    let key = prop_oneof![Just(Scalar::I32), Just(Scalar::I64), Just(Scalar::String)];
    let field_type = prop_oneof![Just(Scalar::F32), Just(Scalar::F64), Just(Scalar::String)];
    let fields = btree_map(prop_oneof![Just("f0"), Just("f1"), Just("f2"), Just("f3")], field_type, 1..5);
    let there = (any::<bool>(), 0..4, any::<bool>(), any::<bool>());
    let parts = (any::<bool>(), option::of(span()), 0..4_usize, option::of(btree_set(0..4_usize, 1..3)));
    (key, fields, there, parts).prop_map(|(key, fields, (source, view, check, service), (backwards, lookback, checked, taken))| {
        let mut names: Vec<_> = fields.into_iter().collect();
        if backwards {
            names.reverse();
        }
        let mut all = vec![Definition::Entity(Entity::new("e", "id", key))];
        all.extend(source.then(|| Definition::Source(Source::push("s"))));
        if view > 0 {
            let mut view = FeatureView { lookback, source: source.then(|| "s".to_owned()), ..FeatureView::new("v", "at").entity("e") };
            for (name, scalar) in &names {
                view = view.field(*name, DataType::Scalar(*scalar));
            }
            all.push(Definition::FeatureView(view));
            let column = |i: usize| names.get(i).map_or("id", |(name, _)| *name).to_owned();
            all.extend(check.then(|| Definition::Check(Check::new("c", "v", column(checked), Rule::NotNull {}))));
            let taken = taken.map(|taken| taken.into_iter().filter_map(|i| names.get(i)).map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
            let projection = Projection { features: taken.filter(|features| !features.is_empty()), ..Projection::all("v") };
            all.extend(service.then(|| Definition::FeatureService(FeatureService::new("m").with(projection))));
        } else if check {
            all.remove(0);
        }
        all.into_iter().map(|definition| definition.normalized().unwrap()).collect()
    })
}

use std::sync::Arc;

use anabranch_core::definition::{Check, Entity, FeatureService, FeatureView, Field, Projection, Rule, Source};
use anabranch_core::{DataType, ManualClock, RandomIds, Scalar, Span, Timestamp};
use anabranch_versioning::{
    Change, CommitId, CommitRequest, Error as VersioningError, MemoryMetadata, Merge, MergeRequest, RefSpec, ReplayRequest, Repository,
    RepositoryOptions, Strategy as Side,
};
use object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;
use crate::arbitrary;

const F64: DataType = DataType::Scalar(Scalar::F64);

fn bytes(definition: &Definition) -> Bytes {
    definition.to_bytes().into()
}

fn triple(base: Option<&Definition>, ours: &Definition, theirs: &Definition) -> Triple {
    let key = definition_key(ours.kind(), ours.name()).unwrap();
    Triple { key, base: base.map(bytes), ours: Some(bytes(ours)), theirs: Some(bytes(theirs)) }
}

fn merged(base: &Definition, ours: &Definition, theirs: &Definition) -> Definition {
    match merge(&triple(Some(base), ours, theirs)) {
        Resolution::Value(Some(value)) => Definition::from_bytes(&value).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn conflict(base: &Definition, ours: &Definition, theirs: &Definition) -> String {
    match merge(&triple(Some(base), ours, theirs)) {
        Resolution::Conflict(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn view() -> FeatureView {
    FeatureView::new("weather", "hour").entity("airport").field("temp", F64).field("wind", F64)
}

fn with_view(change: impl FnOnce(&mut FeatureView)) -> Definition {
    let mut view = view();
    change(&mut view);
    Definition::FeatureView(view)
}

#[test]
fn edits_of_unlike_fields_are_both_taken() {
    let ours = with_view(|view| {
        view.description = "ours".into();
        view.fields.push(Field::new("rain", F64));
        view.tags.insert("team".into(), "a".into());
    });
    let theirs = with_view(|view| {
        view.lookback = Some(Span::seconds(2 * 3600));
        view.fields.push(Field::new("snow", F64));
        view.fields[0].description = "celsius".into();
        view.tags.insert("tier".into(), "1".into());
    });
    let expected = with_view(|view| {
        view.description = "ours".into();
        view.lookback = Some(Span::seconds(2 * 3600));
        view.fields[0].description = "celsius".into();
        view.fields.extend([Field::new("rain", F64), Field::new("snow", F64)]);
        view.tags.extend([("team".to_owned(), "a".to_owned()), ("tier".to_owned(), "1".to_owned())]);
    });
    assert_eq!(merged(&with_view(|_| ()), &ours, &theirs), expected);
}

#[test]
fn edits_of_one_field_conflict_and_name_it() {
    let retype = |data_type| with_view(|view| view.fields[0].data_type = data_type);
    let reason = conflict(&with_view(|_| ()), &retype(DataType::Scalar(Scalar::F32)), &retype(DataType::Scalar(Scalar::I64)));
    assert_eq!(reason, r#"fields.temp.type is "f32" here and "i64" there"#);
    let dropped = with_view(|view| drop(view.fields.remove(0)));
    for (ours, theirs) in [(&dropped, &retype(DataType::Scalar(Scalar::F32))), (&retype(DataType::Scalar(Scalar::F32)), &dropped)] {
        let reason = conflict(&with_view(|_| ()), ours, theirs);
        assert!(reason.contains("fields.temp") && reason.contains("nothing"), "{reason}");
    }
    // A field that one side dropped and the other left alone goes.
    let described = with_view(|view| view.description = "x".into());
    assert!(!bytes(&merged(&with_view(|_| ()), &described, &dropped)).windows(6).any(|text| text == b"\"temp\""));
}

#[test]
fn what_is_no_definition_together_conflicts() {
    // Each span is right beside the other's old one.
    let base = with_view(|view| (view.online_ttl, view.retention) = (Some(Span::seconds(2 * 3600)), Some(Span::seconds(10 * 3600))));
    let ours = with_view(|view| (view.online_ttl, view.retention) = (Some(Span::seconds(9 * 3600)), Some(Span::seconds(10 * 3600))));
    let theirs = with_view(|view| (view.online_ttl, view.retention) = (Some(Span::seconds(2 * 3600)), Some(Span::seconds(3 * 3600))));
    let reason = conflict(&base, &ours, &theirs);
    assert!(reason.contains("online_ttl"), "{reason}");
    let check = |rule| Definition::Check(Check::new("c", "weather", "temp", rule));
    let range = Rule::Range { min: Some(0.into()), max: None };
    conflict(&check(range), &check(Rule::NotNull {}), &check(Rule::Pattern { regex: "a".into() }));
    let one_of = |values: &[i64]| check(Rule::OneOf { values: values.iter().map(|value| (*value).into()).collect() });
    assert_eq!(merged(&one_of(&[1, 2]), &one_of(&[1, 2, 3]), &one_of(&[1, 4])), one_of(&[1, 4, 3]));
}

#[test]
fn order_is_kept_and_the_side_that_reordered_leads() {
    let service = |features: &[&str]| {
        let features = Some(features.iter().map(|name| (*name).to_owned()).collect());
        Definition::FeatureService(FeatureService::new("s").with(Projection { features, ..Projection::all("weather") }))
    };
    assert_eq!(merged(&service(&["a", "b"]), &service(&["a", "x", "b"]), &service(&["b", "a", "y"])), service(&["b", "a", "y", "x"]));
    let all = Definition::FeatureService(FeatureService::new("s").with(Projection::all("weather")));
    assert!(conflict(&all, &service(&["a"]), &service(&["b"])).starts_with("features.weather.features is"));
    assert!(conflict(&service(&["a", "b", "c"]), &service(&["b", "a", "c"]), &service(&["a", "c", "b"])).contains("features.weather.features"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_sided_and_equal_edits_are_taken_whole_and_any_merge_is_canonical(
        // A list of them lies on the heap; side by side they would fill the stack of a test.
        all in proptest::collection::vec(arbitrary::definition(), 3),
    ) {
        let (a, b, c) = (bytes(&all[0]), bytes(&all[1]), bytes(&all[2]));
        let key = definition_key(DefinitionKind::Entity, "x").unwrap();
        let of = |base: &Bytes, ours: &Bytes, theirs: &Bytes| {
            merge(&Triple { key: key.clone(), base: Some(base.clone()), ours: Some(ours.clone()), theirs: Some(theirs.clone()) })
        };
        let same_kind = Definition::from_bytes(&a).unwrap().kind() == Definition::from_bytes(&b).unwrap().kind();
        if same_kind {
            prop_assert_eq!(of(&a, &b, &b), Resolution::Value(Some(b.clone())));
            prop_assert_eq!(of(&a, &b, &a), Resolution::Value(Some(b.clone())));
            prop_assert_eq!(of(&a, &a, &b), Resolution::Value(Some(b.clone())));
        }
        if let Resolution::Value(Some(value)) = of(&a, &b, &c) {
            prop_assert_eq!(bytes(&Definition::from_bytes(&value).unwrap()), value);
        }
    }
}

async fn repository() -> Arc<Repository> {
    let ids = Arc::new(RandomIds::seeded(7));
    let metadata = Arc::new(MemoryMetadata::new(&*ids));
    let mut options = RepositoryOptions::default();
    options.resolvers.push(Arc::new(FeatureResolver));
    Repository::open(metadata, Arc::new(InMemory::new()), Arc::new(ManualClock::new(Timestamp(0))), ids, options).await.unwrap()
}

async fn put(repository: &Repository, branch: &str, definitions: &[Definition]) -> CommitId {
    let changes = definitions.iter().map(|one| Change::put(definition_key(one.kind(), one.name()).unwrap(), bytes(one))).collect();
    repository.commit(branch, CommitRequest::new("ada", "put", changes)).await.unwrap().commit
}

async fn delete(repository: &Repository, branch: &str, kind: DefinitionKind, name: &str) -> CommitId {
    let change = Change::delete(definition_key(kind, name).unwrap());
    repository.commit(branch, CommitRequest::new("ada", "delete", vec![change])).await.unwrap().commit
}

fn airport() -> Definition {
    Definition::Entity(Entity::new("airport", "origin", Scalar::String))
}

#[tokio::test]
async fn a_view_whose_entity_the_other_side_deleted_conflicts_whatever_the_strategy() {
    let repository = repository().await;
    put(&repository, "main", &[airport()]).await;
    repository.create_branch("side", &RefSpec::branch("main"), "ada").await.unwrap();
    let added = put(&repository, "side", &[with_view(|_| ())]).await;
    let before = delete(&repository, "main", DefinitionKind::Entity, "airport").await;
    for strategy in [Side::Default, Side::Ours, Side::Theirs] {
        let request = MergeRequest { strategy, ..MergeRequest::new(RefSpec::branch("side"), "ada") };
        let Err(VersioningError::Conflicts { conflicts, total, .. }) = repository.merge("main", request).await else { panic!("merged") };
        assert_eq!((conflicts[0].key.clone(), total), (definition_key(DefinitionKind::FeatureView, "weather").unwrap(), 1));
        assert!(conflicts[0].reason.contains("there is no entity \"airport\""), "{}", conflicts[0].reason);
        assert_eq!(conflicts[0].theirs, Some(bytes(&with_view(|_| ()))));
    }
    assert!(matches!(
        repository.cherry_pick("main", ReplayRequest::new(RefSpec::commit(added), "ada")).await,
        Err(VersioningError::Conflicts { .. })
    ));
    assert_eq!(repository.branch("main").await.unwrap().head, before);
}

#[tokio::test]
async fn merged_definitions_read_as_a_whole_and_a_strategy_decides_what_conflicts() {
    let repository = repository().await;
    put(&repository, "main", &[airport(), with_view(|_| ()), Definition::Source(Source::push("feed"))]).await;
    repository.create_branch("side", &RefSpec::branch("main"), "ada").await.unwrap();
    put(&repository, "side", &[with_view(|view| view.fields.push(Field::new("snow", F64)))]).await;
    put(&repository, "main", &[with_view(|view| view.owner = "ada".into())]).await;
    let merged = repository.merge("main", MergeRequest::new(RefSpec::branch("side"), "ada")).await.unwrap();
    let Merge::Merged { to, .. } = merged else { panic!("{merged:?}") };
    let definitions = crate::load(&repository, &to).await.unwrap();
    assert_eq!((definitions.view("weather").unwrap().fields.len(), definitions.view("weather").unwrap().owner.as_str()), (3, "ada"));
    put(&repository, "main", &[with_view(|view| view.owner = "eve".into())]).await;
    put(&repository, "side", &[with_view(|view| view.owner = "bob".into())]).await;
    let request = || MergeRequest::new(RefSpec::branch("side"), "ada");
    let Err(VersioningError::Conflicts { conflicts, .. }) = repository.merge("main", request()).await else { panic!("merged") };
    assert_eq!(conflicts[0].reason, r#"owner is "eve" here and "bob" there"#);
    let merged = repository.merge("main", MergeRequest { strategy: Side::Theirs, ..request() }).await.unwrap();
    let Merge::Merged { to, .. } = merged else { panic!("{merged:?}") };
    assert_eq!(crate::load(&repository, &to).await.unwrap().view("weather").unwrap().owner, "bob");
}

//! Applies to a real repository, in memory.

use std::sync::Arc;

use anabranch_core::{ManualClock, RandomIds, Timestamp};
use anabranch_versioning::{LogQuery, MemoryMetadata, RepositoryOptions, Scan};
use object_store::memory::InMemory;

use super::*;

async fn repository() -> Arc<Repository> {
    let ids = Arc::new(RandomIds::seeded(7));
    let metadata = Arc::new(MemoryMetadata::new(&*ids));
    let clock = Arc::new(ManualClock::new(Timestamp(0)));
    Repository::open(metadata, Arc::new(InMemory::new()), clock, ids, RepositoryOptions::default()).await.unwrap()
}

fn request(definitions: Vec<Definition>) -> ApplyRequest {
    ApplyRequest { definitions, author: "ada".to_owned(), ..ApplyRequest::default() }
}

async fn head(repository: &Repository, branch: &str) -> anabranch_versioning::CommitId {
    repository.resolve(&RefSpec::branch(branch)).await.unwrap().commit
}

async fn at_head(repository: &Repository, branch: &str) -> Definitions {
    load(repository, &head(repository, branch).await).await.unwrap()
}

#[tokio::test]
async fn what_is_applied_is_there_and_applying_it_again_changes_nothing() {
    let repository = repository().await;
    let applied = apply(&repository, "main", request(base())).await.unwrap();
    assert_eq!(applied.plan.count(Action::Create), 3);
    assert_eq!(at_head(&repository, "main").await, applied.plan.after);
    let before = head(&repository, "main").await;
    assert!(apply(&repository, "main", request(base())).await.unwrap().committed.is_none());
    assert_eq!(head(&repository, "main").await, before);
}

#[tokio::test]
async fn every_apply_is_a_commit_of_the_log_and_the_diff_shows_its_definitions() {
    let repository = repository().await;
    let first = apply(&repository, "main", request(base())).await.unwrap().committed.unwrap().commit;
    let more = request(vec![weather(&["temp", "wind", "rain"]), delays("rain")]);
    let second = apply(&repository, "main", more).await.unwrap().committed.unwrap().commit;
    let log = repository.log(&LogQuery::new(second, 10)).await.unwrap().commits;
    assert_eq!(log[0].commit.message, "update feature_view weather, create feature_service delays");
    assert_eq!((log[0].commit.author.as_str(), log[1].id), ("ada", first));
    let differences = repository.diff(&first, &second, &Scan::all()).await.unwrap().items;
    let changed: Vec<_> = differences.iter().map(|difference| identity_of_key(&difference.key).unwrap().1).collect();
    assert_eq!(changed.len(), 2);
    assert!(changed.contains(&"weather".to_owned()) && changed.contains(&"delays".to_owned()));
    // The old commit still speaks of what was then.
    assert_eq!(load(&repository, &first).await.unwrap(), base().into_iter().collect());
}

#[tokio::test]
async fn an_apply_that_is_refused_changes_nothing_at_all() {
    let repository = repository().await;
    apply(&repository, "main", request(base())).await.unwrap();
    let before = head(&repository, "main").await;
    let good = Definition::Entity(Entity::new("plane", "tail", Scalar::String));
    let wrong = Definition::FeatureView(FeatureView::new("lost", "t").entity("nobody").field("x", F64));
    let breaking = request(vec![good.clone(), weather(&["temp"])]);
    let refused = [
        (apply(&repository, "main", request(vec![good.clone(), wrong])).await, ErrorKind::InvalidArgument),
        (apply(&repository, "main", breaking.clone()).await, ErrorKind::FailedPrecondition),
        (apply(&repository, "nowhere", request(vec![good])).await, ErrorKind::NotFound),
    ];
    for (result, kind) in refused {
        assert_eq!(result.unwrap_err().kind(), kind);
    }
    assert_eq!(head(&repository, "main").await, before);
    let allowed = ApplyRequest { allow_breaking: true, ..breaking };
    assert_eq!(apply(&repository, "main", allowed).await.unwrap().plan.count(Action::Update), 1);
}

#[tokio::test]
async fn a_view_applied_twice_at_once_is_there_once_and_the_loser_is_told() {
    let repository = repository().await;
    apply(&repository, "main", request(base())).await.unwrap();
    let wanted = || request(vec![weather(&["temp", "wind", "rain"])]);
    let (a, b) = tokio::join!(apply(&repository, "main", wanted()), apply(&repository, "main", wanted()));
    let (won, lost): (Vec<_>, Vec<_>) = [a, b].into_iter().partition(Result::is_ok);
    assert!(!won.is_empty());
    for error in lost {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(error.to_string(), r#"feature_view "weather" changed on "main" since the plan was made: plan again"#);
    }
    let commits = repository.log(&LogQuery::new(head(&repository, "main").await, 10)).await.unwrap().commits.len();
    assert_eq!(commits, 3, "the empty one, the base and the one update");
    assert!(apply(&repository, "main", wanted()).await.unwrap().committed.is_none());
}

/// Plans at the head, lets another apply go first, then commits.
async fn after(repository: &Repository, mine: ApplyRequest, other: ApplyRequest) -> Result<()> {
    let base = head(repository, "main").await;
    let plan = plan(&load(repository, &base).await?, mine.definitions, &mine.options)?;
    apply(repository, "main", other).await?;
    let Prepared { changes, reads } = apply_changes(&plan, true)?;
    let commit = CommitRequest { base: Some(base), reads, ..CommitRequest::new("ada", "mine", changes) };
    repository.commit("main", commit).await.map(|_| ()).map_err(|error| Error::from_commit(error, "main"))
}

#[tokio::test]
async fn of_two_applies_that_contradict_each_other_the_second_is_told_to_plan_again() {
    let drop_wind = ApplyRequest { allow_breaking: true, ..request(vec![weather(&["temp"])]) };
    let (take_wind, take_temp) = (request(vec![delays("wind")]), request(vec![delays("temp")]));
    for (mine, other) in [(drop_wind.clone(), take_wind.clone()), (take_wind.clone(), drop_wind), (take_temp, take_wind)] {
        let repository = repository().await;
        apply(&repository, "main", request(base())).await.unwrap();
        let error = after(&repository, mine, other).await.unwrap_err();
        assert!(matches!(error, Error::Moved { .. }), "{error}");
        at_head(&repository, "main").await.check().unwrap();
    }
}

#[tokio::test]
async fn applies_that_do_not_touch_each_other_both_go_through() {
    let repository = repository().await;
    apply(&repository, "main", request(base())).await.unwrap();
    let plane = request(vec![Definition::Entity(Entity::new("plane", "tail", Scalar::String))]);
    after(&repository, request(vec![delays("wind")]), plane).await.unwrap();
    assert_eq!(at_head(&repository, "main").await.len(), 5);
}

#[tokio::test]
async fn the_definitions_of_a_branch_are_its_own() {
    let repository = repository().await;
    apply(&repository, "main", request(base())).await.unwrap();
    repository.create_branch("try", &RefSpec::branch("main"), "ada").await.unwrap();
    apply(&repository, "try", request(vec![delays("temp")])).await.unwrap();
    assert_eq!(at_head(&repository, "main").await.len(), 3);
    assert_eq!(at_head(&repository, "try").await.len(), 4);
    let pruned = ApplyRequest { options: PlanOptions { prune: true, delete: vec![] }, allow_breaking: true, ..request(vec![airport()]) };
    apply(&repository, "main", pruned).await.unwrap();
    assert_eq!((at_head(&repository, "main").await.len(), at_head(&repository, "try").await.len()), (1, 4));
}

//! Queries over the tables of a commit, and joins as plans of many partitions.

use std::sync::Arc;

use anabranch_core::definition::{Definition, Definitions, Entity, FeatureView};
use anabranch_core::selection::Selection;
use anabranch_core::{ErrorKind, Ids, Kinded, RandomIds, Scalar, Timestamp, Value};
use anabranch_offline_store::engine::{Engine, EngineKind, EngineOptions, JoinRequest};
use anabranch_offline_store::join::{JoinOptions, JoinPlan, Knowledge, Spine, Spool, SpoolLimits};
use anabranch_offline_store::{Append, Error, TableName, TableRows};
use anabranch_versioning::CommitId;
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{DAY, World, batch, batch_of, clicks_append};

pub(crate) fn engine(folder: &TempDir, memory_bytes: Option<usize>) -> Arc<Engine> {
    let ids: Arc<dyn Ids> = Arc::new(RandomIds::seeded(3));
    Engine::new(&EngineOptions { memory_bytes, spill_folder: folder.path().to_owned(), cluster: None }, &ids).unwrap()
}

async fn ask(engine: &Engine, world: &World, commit: CommitId, sql: &str) -> Result<RecordBatch, Error> {
    let (schema, rows) = engine.query(commit, &world.store, sql).await?;
    let batches: Vec<_> = rows.try_collect().await?;
    Ok(concat_batches(&schema, &batches).unwrap())
}

async fn number(engine: &Engine, world: &World, commit: CommitId, sql: &str) -> i64 {
    ask(engine, world, commit, sql).await.unwrap().column(0).as_primitive::<Int64Type>().value(0)
}

/// Ten clicks, a day apart, in two appends; and the commits after each.
async fn clicks() -> (World, [CommitId; 2]) {
    let world = World::memory().await;
    world.create(&crate::support::layout(anabranch_core::definition::Partition::None)).await;
    let first = world.append("main", batch(1, 0..5)).await.committed.commit;
    let second = world.append("main", batch(1, 5..10)).await.committed.commit;
    (world, [first, second])
}

#[tokio::test]
async fn a_query_reads_the_tables_of_its_commit() {
    let (folder, (world, [first, second])) = (TempDir::new().unwrap(), clicks().await);
    let engine = engine(&folder, None);
    assert_eq!(number(&engine, &world, first, "SELECT count(*) FROM clicks").await, 5);
    assert_eq!(number(&engine, &world, second, "SELECT count(*) FROM features.clicks").await, 10);
    let sql = "SELECT user_id, at AS event_timestamp, region FROM clicks WHERE region = 'us' AND at < '1970-01-08T00:00:00Z' ORDER BY at DESC";
    let spine = ask(&engine, &world, second, sql).await.unwrap();
    assert_eq!(spine.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["user_id", "event_timestamp", "region"]);
    assert_eq!(spine.column(0).as_primitive::<Int64Type>().values(), &[0, 3, 1]);
    // What a query gives can be a spine.
    assert_eq!(Spine::of(spine, Spine::DEFAULT_TIME_COLUMN).unwrap().rows(), 3);
    let joined = "SELECT max(c.\"count\") FROM clicks c JOIN (SELECT user_id, min(at) AS at FROM clicks GROUP BY user_id) f USING (user_id, at)";
    assert_eq!(ask(&engine, &world, second, joined).await.unwrap().num_rows(), 1);
    assert_eq!(number(&engine, &world, second, "WITH odd AS (SELECT * FROM clicks WHERE _position % 2 = 1) SELECT count(*) FROM odd").await, 5);
}

#[tokio::test]
async fn files_beyond_the_bounds_of_a_query_are_not_opened() {
    let (folder, (world, [_, commit])) = (TempDir::new().unwrap(), clicks().await);
    let engine = engine(&folder, None);
    let files = world.store.added_files(None, &commit, &crate::support::clicks()).await.unwrap().files;
    let table = world.store.table(&commit, &crate::support::clicks()).await.unwrap();
    let lost = format!("data/{}/{}", table.entry().uuid, files.last().unwrap().name);
    world.objects.delete(&lost.as_str().into()).await.unwrap();
    for within in
        ["at <= '1970-01-05T12:00:00Z'", "at BETWEEN '1970-01-01' AND '1970-01-05T12:00:00Z'", "'1970-01-05T12:00:00Z' > at AND user_id >= 0"]
    {
        assert_eq!(number(&engine, &world, commit, &format!("SELECT count(*) FROM clicks WHERE {within}")).await, 5, "{within}");
    }
    let error = ask(&engine, &world, commit, "SELECT count(score) FROM clicks").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
    assert!(error.to_string().contains(&lost), "{error}");
}

#[tokio::test]
async fn what_is_no_query_is_refused_with_the_place() {
    let (folder, (world, [_, commit])) = (TempDir::new().unwrap(), clicks().await);
    let engine = engine(&folder, None);
    let file = folder.path().join("out.csv");
    let copy = format!("COPY clicks TO '{}'", file.display());
    let external = format!("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '{}'", folder.path().display());
    let wrong = [
        ("SELEC 1", "SELEC"),
        ("SELECT a b c FROM clicks", "Line: 1"),
        ("", "statement"),
        ("SELECT 1; SELECT 2", "single"),
        ("SELECT * FROM spend", "spend"),
        ("SELECT * FROM other.clicks", "other"),
        ("SELECT scor FROM clicks", "score"),
        ("SELECT USER_ID FROM clicks", "user_id"),
        ("SELECT nothing(score) FROM clicks", "nothing"),
        ("SELECT 1 / (user_id - user_id) FROM clicks", "ivide"),
        ("SELECT CAST(region AS INT) FROM clicks", "ast"),
        ("CREATE TABLE x AS SELECT 1", "DDL"),
        ("CREATE VIEW x AS SELECT 1", "DDL"),
        ("DROP TABLE clicks", "DDL"),
        ("INSERT INTO clicks SELECT * FROM clicks", "DML"),
        ("DELETE FROM clicks", "DML"),
        ("UPDATE clicks SET score = 1", "DML"),
        ("SET datafusion.execution.batch_size = 1", ""),
        ("EXPLAIN SELECT 1", "SELECT"),
        ("EXPLAIN ANALYZE SELECT 1", "SELECT"),
        ("DESCRIBE clicks", ""),
        ("SHOW TABLES", ""),
        ("BEGIN", ""),
        ("PREPARE x AS SELECT 1", ""),
        (&copy, "COPY"),
        (&external, "DDL"),
        ("SELECT * FROM '/etc/passwd'", ""),
        ("SELECT * FROM read_csv('/etc/passwd')", "read_csv"),
    ];
    for (sql, place) in wrong {
        let error = ask(&engine, &world, commit, sql).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{sql}: {error:?}");
        assert!(error.to_string().contains(place), "{sql}: {error}");
    }
    assert!(!file.exists());
}

#[tokio::test]
async fn a_query_larger_than_its_memory_spills_or_is_refused() {
    let (folder, (world, [_, commit])) = (TempDir::new().unwrap(), clicks().await);
    let engine = engine(&folder, Some(64 << 20));
    let rows = "(SELECT value, repeat(CAST(value AS VARCHAR), 20) AS text FROM generate_series(1, 400000))";
    let sorted = format!("SELECT sum(value) FROM (SELECT value, row_number() OVER (ORDER BY text) AS n FROM {rows}) WHERE n <= 400000");
    assert_eq!(number(&engine, &world, commit, &sorted).await, 400_000 * 400_001 / 2);
    assert!(engine.runtime().spilling_progress().current_bytes == 0, "nothing is left on disk");
    let small = self::engine(&folder, Some(1 << 20));
    let refused = ask(&small, &world, commit, &sorted).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exhausted, "{refused:?}");
    assert_eq!(small.runtime().memory_pool.reserved(), 0);
}

fn definitions() -> Definitions {
    let user = Entity::new("user", "user_id", Scalar::I64).join_key("region", Scalar::String);
    let person = Entity::new("person", "user_id", Scalar::I64);
    let clicks = crate::support::clicks_view();
    let spend = spend_view();
    [Definition::Entity(user), Definition::Entity(person), Definition::FeatureView(clicks), Definition::FeatureView(spend)].into_iter().collect()
}

fn spend_view() -> FeatureView {
    FeatureView::new("spend", "at").entity("person").field("total", "f64".parse().unwrap())
}

type SpineRow = (i64, Option<i64>, bool);

fn spine(rows: &[SpineRow], batch_rows: usize) -> Spine {
    let (schema, batches) = spine_rows(rows, batch_rows);
    Spine::new(schema, batches, Spine::DEFAULT_TIME_COLUMN).unwrap()
}

/// The same on disk.
fn spooled_spine(rows: &[SpineRow], batch_rows: usize) -> Spine {
    let (schema, batches) = spine_rows(rows, batch_rows);
    let limits = SpoolLimits { memory_bytes: 0, total_bytes: u64::MAX, reserve: None, files: Arc::new(tempfile::tempfile) };
    let mut spool = Spool::new(schema, limits);
    batches.into_iter().for_each(|batch| spool.push(batch).unwrap());
    let spine = Spine::spooled(spool.finish().unwrap(), Spine::DEFAULT_TIME_COLUMN).unwrap();
    assert!(spine.is_on_disk() || rows.is_empty());
    spine
}

fn spine_rows(rows: &[SpineRow], batch_rows: usize) -> (SchemaRef, Vec<RecordBatch>) {
    let columns = [("user_id", "i64"), ("region", "string"), ("event_timestamp", "timestamp"), ("__row", "i64")];
    let values = |(n, (time, user, eu)): (usize, &SpineRow)| {
        let region = if *eu { "eu" } else { "us" };
        let user = user.map_or(Value::Null, Value::I64);
        vec![user, Value::String(region.into()), Value::Timestamp(Timestamp(*time)), Value::I64(n as i64)]
    };
    let rows: Vec<_> = rows.iter().enumerate().map(values).collect();
    let schema =
        Arc::new(Schema::new(columns.map(|(name, of)| Field::new(name, of.parse::<anabranch_core::DataType>().unwrap().to_arrow(), true)).to_vec()));
    let arrays = columns.iter().enumerate().map(|(place, (_, of))| {
        let column: Vec<_> = rows.iter().map(|row| row[place].clone()).collect();
        anabranch_core::columns::column_of(of.parse().unwrap(), &column).unwrap()
    });
    let whole = RecordBatch::try_new(Arc::clone(&schema), arrays.collect()).unwrap();
    let batches = (0..whole.num_rows()).step_by(batch_rows).map(|at| whole.slice(at, batch_rows.min(whole.num_rows() - at))).collect();
    (schema, batches)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_join_is_the_same_in_any_number_of_partitions(
        rows in vec((0..12 * DAY, proptest::option::weighted(0.9, 0_i64..6), any::<bool>()), 0..200),
        batch_rows in 1_usize..64,
        partitions in 1_usize..12,
        strict in any::<bool>(),
        any in any::<bool>(),
        on_disk in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = TempDir::new().unwrap();
            let engine = engine(&folder, None);
            let (world, _) = clicks().await;
            let layout = definitions().layout("spend").unwrap();
            world.create(&layout).await;
            let spent: Vec<_> = (0..40).map(spent).collect();
            let table = TableRows { table: TableName::features("spend"), batches: vec![batch_of(&layout.table_columns(), &spent)], intervals: Vec::new() };
            let append = Append { tables: vec![table], ..clicks_append(batch(1, 0..0)) };
            let commit = world.store.append("main", append).await.unwrap().committed.commit;
            let options = JoinOptions { knowledge: if any { Knowledge::Any } else { Knowledge::Spine }, strict, full_names: false };
            let (selection, definitions) = (Selection::Features(vec!["clicks".into(), "spend".into()]), Arc::new(definitions()));
            let plan = Arc::new(JoinPlan::new(spine(&rows, batch_rows), &selection, &definitions, options).unwrap());
            let request = JoinRequest { commit, plan, selection, definitions, options };
            let whole = engine.join(EngineKind::DataFusion, &world.store, request.clone()).await.unwrap();
            let spine = if on_disk { spooled_spine(&rows, batch_rows) } else { spine(&rows, batch_rows) };
            let plan = Arc::new(JoinPlan::new(spine, &request.selection, &request.definitions, options).unwrap());
            let cut = engine.join_partitioned(partitions, &world.store, JoinRequest { plan, ..request }).await.unwrap();
            assert_eq!(whole.schema, cut.schema);
            assert_eq!(cut.report.parts as usize, rows.len().div_ceil(rows.len().div_ceil(partitions).max(1)));
            let text = |batches: &[RecordBatch]| concat_batches(&whole.schema, batches).unwrap();
            assert_eq!(text(&whole.rows.collect().unwrap()), text(&cut.rows.collect().unwrap()));
            assert_eq!(text(&cut.rows.collect().unwrap()).num_rows(), rows.len());
        });
    }
}

fn spent(n: i64) -> Vec<Value> {
    let at = Value::Timestamp(Timestamp(n * DAY / 4));
    let total = if n % 5 == 0 { Value::Null } else { Value::F64(n as f64) };
    vec![Value::I64(n % 4), at.clone(), total, at, Value::I32(2), Value::I64(n), if n % 9 == 8 { Value::Bool(true) } else { Value::Null }]
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_said() {
    let (folder, (world, [_, commit])) = (TempDir::new().unwrap(), clicks().await);
    let (selection, definitions) = (Selection::Features(vec!["clicks".into()]), Arc::new(definitions()));
    let options = JoinOptions::default();
    let plan = Arc::new(JoinPlan::new(spine(&[(DAY, Some(1), true)], 1), &selection, &definitions, options).unwrap());
    let request = JoinRequest { commit, plan, selection, definitions, options };
    let none = engine(&folder, None).join(EngineKind::Ballista, &world.store, request).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidArgument);
    assert!(none.to_string().contains("engine.scheduler"), "{none}");
}

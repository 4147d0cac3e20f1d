//! Iceberg's own reader and writer on our tables, through the catalog.

use std::sync::Arc;

use anabranch_core::definition::Partition;
use anabranch_offline_store::{Fill, RefCatalog, ScanRequest};
use anabranch_versioning::RefSpec;
use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::TimeUnit;
use futures::TryStreamExt;
use iceberg::spec::{DataFile, DataFileFormat, Type};
use iceberg::table::Table;
use iceberg::transaction::{ApplyTransactionAction, Transaction};
use iceberg::writer::base_writer::data_file_writer::DataFileWriterBuilder;
use iceberg::writer::file_writer::ParquetWriterBuilder;
use iceberg::writer::file_writer::location_generator::{DefaultFileNameGenerator, DefaultLocationGenerator};
use iceberg::writer::file_writer::rolling_writer::RollingFileWriterBuilder;
use iceberg::writer::{IcebergWriter, IcebergWriterBuilder};
use iceberg::{Catalog, ErrorKind, NamespaceIdent, TableIdent};
use parquet::file::properties::WriterProperties;

use crate::support::{DAY, World, batch, clicks, expected, interval, layout, source};

pub(crate) fn ident() -> TableIdent {
    TableIdent::from_strs(["features", "clicks"]).unwrap()
}

pub(crate) fn catalog(world: &World, at: &str) -> RefCatalog {
    RefCatalog::new(Arc::clone(&world.store), at.parse().unwrap(), "spark")
}

pub(crate) async fn read_by_iceberg(table: &Table) -> Vec<String> {
    let batches: Vec<RecordBatch> = table.scan().build().unwrap().to_arrow().await.unwrap().try_collect().await.unwrap();
    let columns = layout(Partition::None).table_columns();
    let canonical = batches.iter().map(|batch| {
        let arrays = columns
            .iter()
            .map(|column| anabranch_core::columns::conform(batch.column_by_name(&column.name).unwrap(), column.data_type).unwrap().column);
        RecordBatch::try_new(anabranch_offline_store::schema_of(&columns), arrays.collect()).unwrap()
    });
    crate::support::texts(&canonical.collect::<Vec<_>>(), &columns)
}

#[tokio::test]
async fn icebergs_own_reader_reads_what_we_wrote() {
    for partition in [Partition::None, Partition::Month, Partition::Day] {
        let world = World::memory().await;
        world.create(&layout(partition)).await;
        world.append("main", batch(1, 0..50)).await;
        world.append("main", batch(2, 20..50)).await;
        let table = catalog(&world, "main").load_table(&ident()).await.unwrap();
        assert_eq!(read_by_iceberg(&table).await, expected(&[batch(1, 0..50), batch(2, 20..50)]));
    }
}

#[tokio::test]
async fn the_catalog_lists_what_is_at_its_ref() {
    let world = World::memory().await;
    let before = world.head("main").await;
    world.create(&layout(Partition::None)).await;
    world.repository.create_tag("v1", &RefSpec::branch("main")).await.unwrap();
    let features = NamespaceIdent::new("features".into());
    assert_eq!(catalog(&world, "main").list_tables(&features).await.unwrap(), [ident()]);
    assert!(catalog(&world, "tag:v1").table_exists(&ident()).await.unwrap());
    let earlier = catalog(&world, &format!("commit:{before}"));
    assert!(!earlier.table_exists(&ident()).await.unwrap());
    assert_eq!(earlier.load_table(&ident()).await.unwrap_err().kind(), ErrorKind::TableNotFound);
    assert_eq!(earlier.list_namespaces(None).await.unwrap().len(), 3);
    let odd = NamespaceIdent::new("odd".into());
    assert_eq!(earlier.list_tables(&odd).await.unwrap_err().kind(), ErrorKind::NamespaceNotFound);
    assert!(!earlier.namespace_exists(&odd).await.unwrap());
}

#[tokio::test]
async fn what_would_lose_data_or_bypass_definitions_is_refused() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let head = world.append("main", batch(1, 0..5)).await.committed.commit;
    let catalog = catalog(&world, "main");
    for refused in [catalog.purge_table(&ident()).await, catalog.drop_table(&ident()).await, catalog.rename_table(&ident(), &ident()).await] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::FeatureUnsupported);
    }
    let table = catalog.load_table(&ident()).await.unwrap();
    assert!(iceberg::drop_table_data(&table).await.is_err());
    let moving = Transaction::new(&table);
    let moving = moving.update_location().set_location("memory://elsewhere".into()).apply(moving).unwrap();
    assert_eq!(moving.commit(&catalog).await.unwrap_err().kind(), ErrorKind::FeatureUnsupported);
    assert_eq!(world.head("main").await, head);
    assert_eq!(world.clicks(&head).await, expected(&[batch(1, 0..5)]));
}

/// Writes rows with keys and times only, as an engine that knows nothing of reserved columns does.
pub(crate) async fn write_bare(table: &Table, name: &str, users: &[i64]) -> Vec<DataFile> {
    let schema = Arc::new(iceberg::arrow::schema_to_arrow_schema(table.metadata().current_schema()).unwrap());
    let times = |offset: i64| {
        let micros = Int64Array::from_iter_values(users.iter().map(|user| user * DAY + offset));
        arrow::compute::cast(&micros, &arrow::datatypes::DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))).unwrap()
    };
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "region" => Arc::new(StringArray::from(vec!["eu"; users.len()])) as _,
        "user_id" => Arc::new(Int64Array::from(users.to_vec())) as _,
        "at" => times(1),
        "known" => times(2),
        _ => arrow::array::new_null_array(field.data_type(), users.len()),
    });
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap();
    let locations = DefaultLocationGenerator::new(table.metadata()).unwrap();
    let names = DefaultFileNameGenerator::new(name.into(), None, DataFileFormat::Parquet);
    let parquet = ParquetWriterBuilder::new(WriterProperties::default(), Arc::clone(table.metadata().current_schema()));
    let rolling = RollingFileWriterBuilder::new_with_default_file_size(parquet, table.file_io().clone(), locations, names);
    let mut writer = DataFileWriterBuilder::new(rolling).build(None).await.unwrap();
    writer.write(batch).await.unwrap();
    writer.close().await.unwrap()
}

#[tokio::test]
async fn rows_of_an_outside_engine_get_an_arrival_a_source_and_positions() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    let ours = world.append("main", batch(1, 0..3)).await.committed.commit;
    let catalog = catalog(&world, "main");
    let table = catalog.load_table(&ident()).await.unwrap();
    let files = [write_bare(&table, "a", &[7, 8]).await, write_bare(&table, "b", &[9]).await].concat();
    let transaction = Transaction::new(&table);
    let transaction = transaction.fast_append().add_data_files(files).apply(transaction).unwrap();
    let after = transaction.commit(&catalog).await.unwrap();
    assert_eq!(after.metadata().snapshots().len(), 2);

    let head = world.head("main").await;
    let added = world.store.added_files(Some(&ours), &head, &clicks()).await.unwrap().files;
    let fills: Vec<_> = added.iter().map(|file| file.fill.unwrap()).collect();
    assert_eq!((fills.len(), fills[0].arrival, fills[0].source), (2, anabranch_core::Timestamp(1_700_000_000_000_000), fills[1].source));
    let id = fills[0].source.get();
    assert_eq!(world.store.intervals(&head, &clicks(), source(id)).await.unwrap(), [interval(id, 0, 2)]);
    let Fill { arrival, .. } = fills[0];
    let mut rows: Vec<_> = [(7, 0), (8, 1), (9, 2)].iter().map(|(user, position): &(i64, i64)| {
        format!(r#"["eu",{user},"1970-01-{:02}T00:00:00.000001Z","1970-01-{:02}T00:00:00.000002Z",null,null,null,null,"{arrival}",{id},{position},null]"#, user + 1, user + 1)
    }).collect();
    rows.extend(expected(&[batch(1, 0..3)]));
    rows.sort();
    assert_eq!(world.clicks(&head).await, rows);
    // What the file's own rows lack is filled in when the files are read alone, too.
    let request = ScanRequest::all(clicks(), layout(Partition::None).table_columns());
    let alone: Vec<_> = world.store.scan_files(&head, &request, &added[1..]).await.unwrap().try_collect().await.unwrap();
    assert!(crate::support::texts(&alone, &request.columns)[0].ends_with(&format!(r#",{id},2,null]"#)));

    // Ours go on behind theirs, and merge their manifests with ours.
    for step in 3..20 {
        rows.extend(expected(&[batch(1, step..step + 1)]));
        world.append("main", batch(1, step..step + 1)).await;
    }
    rows.sort();
    assert_eq!(world.clicks(&world.head("main").await).await, rows);
    let table = catalog.load_table(&ident()).await.unwrap();
    assert_eq!(read_by_iceberg(&table).await.len(), rows.len());
}

#[tokio::test]
async fn tags_and_commits_are_read_only_and_a_stale_writer_retries() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    world.repository.create_tag("v1", &RefSpec::branch("main")).await.unwrap();
    let catalog = catalog(&world, "main");
    let table = catalog.load_table(&ident()).await.unwrap();
    let files = write_bare(&table, "a", &[1]).await;
    let on_tag = Transaction::new(&table);
    let on_tag = on_tag.fast_append().add_data_files(files.clone()).apply(on_tag).unwrap();
    let tagged = RefCatalog::new(Arc::clone(&world.store), RefSpec::tag("v1"), "spark");
    let error = on_tag.commit(&tagged).await.unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");

    // The table moves under the writer, which then builds on what it finds.
    world.append("main", batch(1, 0..5)).await;
    let late = Transaction::new(&table);
    let late = late.fast_append().add_data_files(files).apply(late).unwrap();
    late.commit(&catalog).await.unwrap();
    assert_eq!(world.clicks(&world.head("main").await).await.len(), 6);
}

#[tokio::test]
async fn an_outside_engine_may_add_a_column_and_set_properties() {
    let world = World::memory().await;
    world.create(&layout(Partition::None)).await;
    world.append("main", batch(1, 0..5)).await;
    let catalog = catalog(&world, "main");
    let table = catalog.load_table(&ident()).await.unwrap();
    let before = table.metadata().last_column_id();
    let change = Transaction::new(&table);
    let column = iceberg::transaction::AddColumn::optional("extra", Type::Primitive(iceberg::spec::PrimitiveType::Long));
    let change = change.update_schema().add_column(column).apply(change).unwrap();
    let change = change.update_table_properties().set("owner".into(), "ada".into()).apply(change).unwrap();
    let after = change.commit(&catalog).await.unwrap();
    assert_eq!((after.metadata().last_column_id(), after.metadata().properties()["owner"].as_str()), (before + 1, "ada"));
    let head = world.head("main").await;
    let state = world.store.table(&head, &clicks()).await.unwrap();
    assert_eq!(state.field("extra").unwrap().id, before + 1);
    assert_eq!(world.clicks(&head).await, expected(&[batch(1, 0..5)]));
}

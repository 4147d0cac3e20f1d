//! PyIceberg, which shares no code with us, reads the files of a local repository where they lie.

use std::path::PathBuf;
use std::process::Command;

use anabranch_core::definition::{FeatureView, Partition};
use anabranch_offline_store::{ScanRequest, TableShape};

use crate::support::{World, batch, clicks, clicks_view, layout, layout_of};

fn python() -> PathBuf {
    let python = std::env::var_os("ANABRANCH_PYTHON").map_or_else(|| "../.cache/venv/bin/python".into(), PathBuf::from);
    assert!(python.exists(), "no Python environment at {}: run `make setup`", python.display());
    python
}

/// The rows as PyIceberg reads them, as [`World::rows`] gives them.
pub(crate) fn read_by_pyiceberg(world: &World, metadata: &[u8], columns: &[&str]) -> Vec<String> {
    let file = world.folder.as_ref().unwrap().path().join("00001-test.metadata.json");
    std::fs::write(&file, metadata).unwrap();
    let output = Command::new(python()).arg("tests/tables/read_by_pyiceberg.py").arg(&file).args(columns).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "PyIceberg failed (is it installed? run `make setup`):\n{errors}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn pyiceberg_reads_the_same_rows_at_every_commit() {
    let world = World::local().await;
    world.create(&layout(Partition::Month)).await;
    let first = world.append("main", batch(1, 0..50)).await.committed.commit;
    for step in 0..9 {
        world.append("main", batch(2, step..step + 1)).await;
    }
    let mut view: FeatureView = clicks_view();
    view.fields[0].data_type = "i64".parse().unwrap();
    view.fields.remove(2);
    let view = view.field("rank", "vector<3>".parse().unwrap());
    let head = world.head("main").await;
    let changes = world.store.evolve_table(&head, &clicks(), &TableShape::from(layout_of(view.clone()).as_ref())).await.unwrap();
    let evolved = world.commit("main", changes).await;

    for (commit, layout) in [(first, layout(Partition::None)), (evolved, layout_of(view))] {
        let columns = layout.table_columns();
        let ours = world.rows(&commit, &ScanRequest::all(clicks(), columns.clone())).await;
        let metadata = world.store.metadata_json(&commit, &clicks()).await.unwrap();
        let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
        let theirs = read_by_pyiceberg(&world, &metadata, &names);
        assert_eq!(theirs, canonical(&ours), "at {commit}");
    }
}

/// Python spells floats and times in its own ways; both sides are brought to numbers.
pub(crate) fn canonical(rows: &[String]) -> Vec<String> {
    let mut lines: Vec<_> = rows
        .iter()
        .map(|row| {
            let cells: Vec<serde_json::Value> = serde_json::from_str(row).unwrap();
            serde_json::Value::from(cells.into_iter().map(number).collect::<Vec<_>>()).to_string()
        })
        .collect();
    lines.sort();
    lines
}

fn number(cell: serde_json::Value) -> serde_json::Value {
    match cell {
        serde_json::Value::String(text) => match text.parse::<anabranch_core::Timestamp>() {
            Ok(time) => time.micros().into(),
            Err(_) => text.into(),
        },
        other => other,
    }
}

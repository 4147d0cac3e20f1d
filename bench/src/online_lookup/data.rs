//! What is written and looked up: a value is a function of its seed, entity, view and feature, so that every answer can be checked.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anabranch_client::{BulkOptions, Client, OnlineQuery, Rows};
use anabranch_core::selection::Selection;
use anyhow::ensure;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, RecordBatchIterator, TimestampMicrosecondArray};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::oneshot::Receiver;

use super::Asker;
use crate::report::{START_US, now, say};
use crate::server::register;

/// The service that is looked up.
pub(super) const SERVICE: &str = "all";

/// Entities whose values are compared before time is taken.
const CHECKED: usize = 500;
/// Rows of a batch of the load, and of a push beside the lookups.
const LOAD_ROWS: i64 = 50_000;
const PUSH_ROWS: u64 = 500;

#[derive(Clone, Debug)]
pub(super) struct Data {
    pub(super) entities: i64,
    pub(super) views: usize,
    pub(super) features: usize,
    pub(super) seed: u64,
}

impl Data {
    pub(super) fn name(view: usize, feature: usize) -> String {
        format!("f{view}_{feature}")
    }

    /// By the steps of SplitMix64.
    pub(super) fn value(&self, entity: i64, view: usize, feature: usize) -> f64 {
        let place = (entity as u64).wrapping_mul((self.views * self.features) as u64).wrapping_add((view * self.features + feature) as u64);
        let mut x = self.seed.wrapping_add(place).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn rows(&self, view: usize, entities: &[i64], time_us: i64) -> anyhow::Result<RecordBatch> {
        let times = TimestampMicrosecondArray::from_value(time_us, entities.len()).with_timezone("UTC");
        let mut columns: Vec<(String, ArrayRef)> =
            vec![("entity".to_owned(), Arc::new(Int64Array::from(entities.to_vec()))), ("at".to_owned(), Arc::new(times))];
        for feature in 0..self.features {
            let values = Float64Array::from_iter_values(entities.iter().map(|entity| self.value(*entity, view, feature)));
            columns.push((Self::name(view, feature), Arc::new(values)));
        }
        Ok(RecordBatch::try_from_iter(columns)?)
    }

    /// Registers the views and writes every entity in each, by bulk streams; returns when all is online.
    pub(super) async fn load(&self, client: &Client) -> anyhow::Result<()> {
        register(client, self.views, self.features).await?;
        let start = now();
        let mut token = String::new();
        for view in 0..self.views {
            let schema = self.rows(view, &[], START_US)?.schema();
            let (data, last) = (self.clone(), self.entities);
            let batches = (0..self.entities).step_by(LOAD_ROWS as usize).map(move |first| {
                let entities: Vec<_> = (first..(first + LOAD_ROWS).min(last)).collect();
                data.rows(view, &entities, START_US).map_err(|error| arrow::error::ArrowError::ExternalError(error.into()))
            });
            let rows = Box::new(RecordBatchIterator::new(batches, schema));
            let written = client.bulk(&format!("view{view}"), rows, &BulkOptions::default()).await?;
            ensure!(written.rows == self.entities as u64, "{} rows of {} went in", written.rows, self.entities);
            token = written.token;
        }
        let offline = start.elapsed().as_secs_f64();
        let query = OnlineQuery { at_least: token, timeout_ms: 3_600_000, ..OnlineQuery::new(Selection::Service(SERVICE.to_owned())) };
        let keys = RecordBatch::try_from_iter([("entity", Arc::new(Int64Array::from(vec![0])) as ArrayRef)])?;
        client.get_online_features(&query, &keys).await?;
        say(&format!("{} entities are in a commit after {offline:.1} s and online after {:.1} s", self.entities, start.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Compares what some entities of a range, its ends among them, are answered with what was written.
    pub(super) fn check(&self, asker: &mut dyn Asker, range: Range<i64>) -> anyhow::Result<()> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut keys = vec![range.start, range.end - 1];
        keys.extend((keys.len()..CHECKED).map(|_| rng.random_range(range.clone())));
        let found = asker.values(&keys)?;
        for view in 0..self.views {
            for feature in 0..self.features {
                let name = Self::name(view, feature);
                let column = found.iter().find(|(found, _)| *found == name || *found == format!("view{view}__{name}"));
                let expected = keys.iter().map(|entity| self.value(*entity, view, feature));
                ensure!(
                    column.is_some_and(|(_, values)| values.iter().copied().eq(expected)),
                    "the values of {name} are not those that were written"
                );
            }
        }
        Ok(())
    }

    /// Writes rows at a rate until it is told to end, newer ones with the values that are there; gives the rate that was reached.
    pub(super) async fn keep_writing(&self, client: &Client, rate: u64, mut ends: Receiver<()>) -> anyhow::Result<f64> {
        let mut rng = StdRng::seed_from_u64(!self.seed);
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(PUSH_ROWS as f64 / rate as f64));
        let (start, mut written) = (now(), 0);
        for push in 0_usize.. {
            tokio::select! {
                _ = &mut ends => break,
                _ = ticks.tick() => {}
            }
            let entities: Vec<_> = (0..PUSH_ROWS).map(|_| rng.random_range(0..self.entities)).collect();
            let view = push % self.views;
            let batch = self.rows(view, &entities, START_US + 1_000 + push as i64)?;
            client.push(&format!("view{view}"), Rows::arrow(&batch.schema(), &[batch])?).await?;
            written += PUSH_ROWS;
        }
        Ok(written as f64 / start.elapsed().as_secs_f64())
    }
}

/// Rebuilds what is online again and again until it is told to end, and waits for the last rebuild; gives the rate at which rows were filled.
pub(super) async fn keep_rebuilding(client: &Client, mut ends: Receiver<()>) -> anyhow::Result<f64> {
    let (start, mut rows, mut ended) = (now(), 0, false);
    while !ended {
        client.rebuild_online("", &[], None).await?;
        let mut of_views = std::collections::BTreeMap::new();
        loop {
            let branches = client.served_branches().await?;
            let [main] = &branches[..] else { anyhow::bail!("{} branches are served where there is one", branches.len()) };
            of_views.extend(main.views.iter().filter_map(|view| Some((view.view.clone(), view.fill.as_ref()?.rows))));
            if !main.filling {
                break;
            }
            tokio::select! {
                _ = &mut ends, if !ended => ended = true,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        rows += of_views.values().sum::<u64>();
    }
    Ok(rows as f64 / start.elapsed().as_secs_f64())
}

//! The hook of lookups into the serving log: which of them are logged is decided before they run, and all else happens behind them.

use std::sync::Arc;

use anabranch_core::DataType;
use anabranch_core::columns::column_of;
use anabranch_core::selection::Selection;
use anabranch_ingest::{Sample, Served, ServedLookup, ServingLogCounts};
use anabranch_online_store::Lookup;
use arrow::array::ArrayRef;

use super::online::{Keys, Looked, json_columns, key_columns};
use super::{DEFAULT_BRANCH, Repo, Scope};
use crate::metrics::{Metrics, ServingLogLabels};

/// A lookup that was drawn, with the keys that it is asked for.
#[derive(Debug)]
pub(super) struct Drawn {
    sample: Sample,
    keys: Keys,
}

impl Scope {
    /// Decides whether a lookup is logged; nearly always it is not.
    pub(super) fn draw(&self, served: &Served, selection: &Selection, keys: &Keys) -> Option<Drawn> {
        let Selection::Service(service) = selection else { return None };
        let sample = self.repo.serving_log.draw(served, service).filter(|_| self.is_on_main())?;
        Some(Drawn { sample, keys: keys.clone() })
    }

    /// Hands over what was found where the lookup was drawn.
    pub(super) fn log_served(&self, drawn: Option<Drawn>, served: &Served, looked: &Looked) {
        let Some(Drawn { sample, keys }) = drawn else { return };
        let lookup = Arc::clone(&looked.lookup);
        let of = Arc::clone(&lookup);
        let keys = Box::new(move || arrays(&of, keys));
        let (definitions, commit, answer) = (Arc::clone(&served.definitions), served.commit, looked.answer.clone());
        self.repo.serving_log.log(ServedLookup { sample, definitions, commit, lookup, keys, answer });
    }

    /// Whether the scope's ref is the branch that is always served.
    pub(super) fn is_on_main(&self) -> bool {
        self.reference == DEFAULT_BRANCH || self.reference == "branch:main"
    }
}

impl Repo {
    /// Takes over what the serving log counted.
    pub(super) fn measure_serving_log(&self, metrics: &Metrics) {
        let ServingLogCounts { logged, full, failed } = self.serving_log.counts();
        for (outcome, rows) in [("logged", logged), ("dropped_full", full), ("dropped_failed", failed)] {
            let labels = ServingLogLabels { repository: self.name().to_owned(), outcome };
            metrics.serving_log_rows.get_or_create(&labels).inner().store(rows, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// The key columns in the lookup's order; none where they are not the lookup's, which would have refused them.
fn arrays(lookup: &Lookup, keys: Keys) -> Option<Vec<ArrayRef>> {
    match keys {
        Keys::Columns(columns) => key_columns(lookup, columns).ok(),
        Keys::Json(columns) => {
            let values = json_columns(lookup, columns).ok()?;
            let typed = lookup.key_columns().iter().zip(&values);
            typed.map(|(key, values)| column_of(DataType::Scalar(key.scalar), values).ok()).collect()
        }
    }
}

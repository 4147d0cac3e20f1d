//! Metrics for Prometheus: their names, what they mean, and where they are counted.
//!
//! Labels are bounded: faces and methods are those of the contract, kinds those of the error table, repositories those of the configuration.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use ahash::RandomState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::error::{Error, Result};

/// Requests answered, by face, method and gRPC or HTTP code (`_total`).
pub const REQUESTS: &str = "anabranch_requests";
/// How long requests took until their answer began (`_seconds`).
pub const REQUEST_DURATION: &str = "anabranch_request_duration";
/// Requests that are being handled.
pub const REQUESTS_IN_FLIGHT: &str = "anabranch_requests_in_flight";
/// Handlers that panicked (`_total`).
pub const PANICS: &str = "anabranch_panics";
/// Rows acknowledged by push (`_total`).
pub const ROWS_PUSHED: &str = "anabranch_rows_pushed";
/// Rows taken in by bulk ingest, quarantined ones included (`_total`).
pub const ROWS_INGESTED: &str = "anabranch_rows_ingested";
/// Values looked up online, by their status (`_total`).
pub const VALUES_LOOKED_UP: &str = "anabranch_values_looked_up";
/// Entities looked up in a store behind a cache, by whether that knew them (`_total`).
pub const CACHE_LOOKUPS: &str = "anabranch_online_cache_lookups";
/// Rows of lookups that were drawn to be logged, by what became of them (`_total`).
pub const SERVING_LOG_ROWS: &str = "anabranch_serving_log_rows";
/// Rows of datasets sent (`_total`).
pub const DATASET_ROWS: &str = "anabranch_dataset_rows";
/// Compactions of tables, by how they ended (`_total`).
pub const COMPACTIONS: &str = "anabranch_compactions";
/// Rows that compactions rewrote (`_total`).
pub const COMPACTED_ROWS: &str = "anabranch_compacted_rows";
/// Streams of saved datasets that are being read.
pub const DATASET_READERS: &str = "anabranch_dataset_readers";
/// Memory that unpacked datasets take.
pub const DATASET_CACHE_MEMORY: &str = "anabranch_dataset_cache_memory_bytes";
/// Disk that unpacked datasets take.
pub const DATASET_CACHE_DISK: &str = "anabranch_dataset_cache_disk_bytes";
/// Sessions held open.
pub const SESSIONS: &str = "anabranch_sessions";
/// Rows of history that were looked for online (`_total`).
pub const ROWS_SAMPLED: &str = "anabranch_online_rows_sampled";
/// Rows of history that were not online, nor a later one of their entity (`_total`).
pub const ROWS_SKEWED: &str = "anabranch_online_rows_skewed";
/// The pipeline's position in its log, by stage: appended, published, committed.
pub const PIPELINE_POSITION: &str = "anabranch_pipeline_position_rows";

/// What a request was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// grpc, flight or http.
    pub face: &'static str,
    /// The RPC or route.
    pub method: String,
    /// The code of the answer.
    pub code: u16,
}

/// The part of [`RequestLabels`] that a histogram keeps.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MethodLabels {
    /// grpc, flight or http.
    pub face: &'static str,
    /// The RPC or route.
    pub method: String,
}

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RepositoryLabels {
    /// Its name.
    pub repository: String,
}

/// How compactions of a repository's tables ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CompactionLabels {
    /// The repository.
    pub repository: String,
    /// compacted, nothing, superseded or failed.
    pub outcome: &'static str,
}

/// A stage of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StageLabels {
    /// The repository.
    pub repository: String,
    /// appended, published or committed.
    pub stage: &'static str,
}

/// Whether a cache of the online store knew an entity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CacheLabels {
    /// The repository.
    pub repository: String,
    /// hit or miss.
    pub outcome: &'static str,
}

/// What became of rows that were drawn to be logged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServingLogLabels {
    /// The repository.
    pub repository: String,
    /// logged, dropped_full or dropped_failed.
    pub outcome: &'static str,
}

/// A status of a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabels {
    /// As the wire spells it: PRESENT, NULL_VALUE, NOT_FOUND or OUTSIDE_TTL.
    pub status: &'static str,
}

/// All metrics of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// [`REQUESTS`].
    pub requests: Family<RequestLabels, Counter>,
    /// [`REQUEST_DURATION`].
    pub request_duration: Family<MethodLabels, Histogram, fn() -> Histogram>,
    /// [`REQUESTS_IN_FLIGHT`].
    pub requests_in_flight: Gauge,
    /// [`PANICS`].
    pub panics: Counter,
    /// [`ROWS_PUSHED`].
    pub rows_pushed: Family<RepositoryLabels, Counter>,
    /// [`ROWS_INGESTED`].
    pub rows_ingested: Family<RepositoryLabels, Counter>,
    /// [`VALUES_LOOKED_UP`].
    pub values_looked_up: Family<StatusLabels, Counter>,
    /// [`CACHE_LOOKUPS`].
    pub cache_lookups: Family<CacheLabels, Counter>,
    /// [`SERVING_LOG_ROWS`].
    pub serving_log_rows: Family<ServingLogLabels, Counter>,
    /// [`DATASET_ROWS`].
    pub dataset_rows: Family<RepositoryLabels, Counter>,
    /// [`COMPACTIONS`].
    pub compactions: Family<CompactionLabels, Counter>,
    /// [`COMPACTED_ROWS`].
    pub compacted_rows: Family<RepositoryLabels, Counter>,
    /// [`DATASET_READERS`].
    pub dataset_readers: Gauge,
    /// [`DATASET_CACHE_MEMORY`].
    pub dataset_cache_memory: Gauge,
    /// [`DATASET_CACHE_DISK`].
    pub dataset_cache_disk: Gauge,
    /// [`SESSIONS`].
    pub sessions: Gauge,
    /// [`ROWS_SAMPLED`].
    pub rows_sampled: Family<RepositoryLabels, Counter>,
    /// [`ROWS_SKEWED`].
    pub rows_skewed: Family<RepositoryLabels, Counter>,
    /// [`PIPELINE_POSITION`].
    pub pipeline_position: Family<StageLabels, Gauge>,
    methods: Methods,
}

impl Default for Metrics {
    fn default() -> Self {
        // From 50 µs to about 100 s.
        let durations: fn() -> Histogram = || Histogram::new(exponential_buckets(50e-6, 2.0, 22));
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(durations),
            requests_in_flight: Gauge::default(),
            panics: Counter::default(),
            rows_pushed: Family::default(),
            rows_ingested: Family::default(),
            values_looked_up: Family::default(),
            cache_lookups: Family::default(),
            serving_log_rows: Family::default(),
            dataset_rows: Family::default(),
            compactions: Family::default(),
            compacted_rows: Family::default(),
            dataset_readers: Gauge::default(),
            dataset_cache_memory: Gauge::default(),
            dataset_cache_disk: Gauge::default(),
            sessions: Gauge::default(),
            rows_sampled: Family::default(),
            rows_skewed: Family::default(),
            pipeline_position: Family::default(),
            methods: Methods::default(),
        };
        metrics.register();
        metrics
    }
}

/// What is counted of a method, found once.
#[derive(Debug, Clone)]
struct Method {
    duration: Histogram,
    well: Counter,
}

/// The methods that were called, by face and name: looking both metrics up by their labels costs more than counting.
#[derive(Debug, Default)]
struct Methods(RwLock<MethodsByFace>);

type MethodsByFace = HashMap<&'static str, HashMap<String, Method, RandomState>, RandomState>;

impl Metrics {
    /// Counts an answer; `well` is the code of answers that are no errors.
    pub(crate) fn answered(&self, face: &'static str, method: &str, code: u16, well: u16, took_s: f64) {
        let known = |methods: &MethodsByFace| methods.get(face).and_then(|of_face| of_face.get(method)).cloned();
        let found = known(&self.methods.0.read().unwrap_or_else(PoisonError::into_inner));
        let of_method = found.unwrap_or_else(|| {
            let labels = MethodLabels { face, method: method.to_owned() };
            let of_well = RequestLabels { face, method: method.to_owned(), code: well };
            let duration = self.request_duration.get_or_create(&labels).clone();
            let of_method = Method { duration, well: self.requests.get_or_create(&of_well).clone() };
            let mut methods = self.methods.0.write().unwrap_or_else(PoisonError::into_inner);
            methods.entry(face).or_default().insert(method.to_owned(), of_method.clone());
            of_method
        });
        of_method.duration.observe(took_s);
        if code == well {
            of_method.well.inc();
        } else {
            self.requests.get_or_create(&RequestLabels { face, method: method.to_owned(), code }).inc();
        }
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(REQUESTS, "Requests answered", self.requests.clone());
        let help = "How long requests took until their answer began";
        registry.register_with_unit(REQUEST_DURATION, help, Unit::Seconds, self.request_duration.clone());
        registry.register(REQUESTS_IN_FLIGHT, "Requests that are being handled", self.requests_in_flight.clone());
        registry.register(PANICS, "Handlers that panicked", self.panics.clone());
        registry.register(ROWS_PUSHED, "Rows acknowledged by push", self.rows_pushed.clone());
        registry.register(ROWS_INGESTED, "Rows taken in by bulk ingest, quarantined ones included", self.rows_ingested.clone());
        registry.register(VALUES_LOOKED_UP, "Values looked up online by their status", self.values_looked_up.clone());
        registry.register(CACHE_LOOKUPS, "Entities looked up in a store behind a cache by whether that knew them", self.cache_lookups.clone());
        let help = "Rows of lookups that were drawn to be logged by what became of them";
        registry.register(SERVING_LOG_ROWS, help, self.serving_log_rows.clone());
        registry.register(DATASET_ROWS, "Rows of datasets sent", self.dataset_rows.clone());
        registry.register(COMPACTIONS, "Compactions of tables by how they ended", self.compactions.clone());
        registry.register(COMPACTED_ROWS, "Rows that compactions rewrote", self.compacted_rows.clone());
        registry.register(DATASET_READERS, "Streams of saved datasets that are being read", self.dataset_readers.clone());
        registry.register(DATASET_CACHE_MEMORY, "Memory that unpacked datasets take", self.dataset_cache_memory.clone());
        registry.register(DATASET_CACHE_DISK, "Disk that unpacked datasets take", self.dataset_cache_disk.clone());
        registry.register(SESSIONS, "Sessions held open", self.sessions.clone());
        registry.register(ROWS_SAMPLED, "Rows of history that were looked for online", self.rows_sampled.clone());
        registry.register(ROWS_SKEWED, "Rows of history that were not online, nor a later one of their entity", self.rows_skewed.clone());
        let help = "Rows of the log by stage of the pipeline: appended, published online, committed offline";
        registry.register(PIPELINE_POSITION, help, self.pipeline_position.clone());
    }

    /// All of them as text for Prometheus.
    ///
    /// # Errors
    /// Fails only where memory does.
    pub fn encode(&self) -> Result<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).map_err(|_| Error::Panicked)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_face_method_and_code() {
        let metrics = Metrics::default();
        for (face, method, code, well) in
            [("http", "/a", 200, 200), ("http", "/a", 200, 200), ("http", "/a", 400, 200), ("grpc", "/a", 0, 0), ("http", "/b", 404, 200)]
        {
            metrics.answered(face, method, code, well, 0.1);
        }
        let text = metrics.encode().unwrap();
        for (labels, count) in [
            (r#"face="http",method="/a",code="200""#, 2),
            (r#"face="http",method="/a",code="400""#, 1),
            (r#"face="grpc",method="/a",code="0""#, 1),
            (r#"face="http",method="/b",code="404""#, 1),
        ] {
            assert!(text.contains(&format!("anabranch_requests_total{{{labels}}} {count}\n")), "{text}");
        }
        assert!(text.contains(r#"anabranch_request_duration_seconds_count{face="http",method="/a"} 3"#), "{text}");
    }

    #[test]
    fn every_metric_is_described_once_under_its_name() {
        let metrics = Metrics::default();
        let repository = || RepositoryLabels { repository: "default".into() };
        metrics.requests.get_or_create(&RequestLabels { face: "grpc", method: "/a".into(), code: 0 }).inc();
        metrics.request_duration.get_or_create(&MethodLabels { face: "grpc", method: "/a".into() }).observe(0.1);
        metrics.rows_pushed.get_or_create(&repository()).inc();
        metrics.rows_ingested.get_or_create(&repository()).inc();
        metrics.dataset_rows.get_or_create(&repository()).inc();
        metrics.compactions.get_or_create(&CompactionLabels { repository: "default".into(), outcome: "compacted" }).inc();
        metrics.compacted_rows.get_or_create(&repository()).inc();
        metrics.values_looked_up.get_or_create(&StatusLabels { status: "PRESENT" }).inc();
        metrics.rows_sampled.get_or_create(&repository()).inc();
        metrics.rows_skewed.get_or_create(&repository()).inc();
        metrics.cache_lookups.get_or_create(&CacheLabels { repository: "default".into(), outcome: "hit" }).inc();
        metrics.serving_log_rows.get_or_create(&ServingLogLabels { repository: "default".into(), outcome: "logged" }).inc();
        metrics.pipeline_position.get_or_create(&StageLabels { repository: "default".into(), stage: "appended" }).set(1);
        let text = metrics.encode().unwrap();
        let names = [
            REQUESTS,
            "anabranch_request_duration_seconds",
            REQUESTS_IN_FLIGHT,
            PANICS,
            ROWS_PUSHED,
            ROWS_INGESTED,
            VALUES_LOOKED_UP,
            DATASET_ROWS,
            COMPACTIONS,
            COMPACTED_ROWS,
            CACHE_LOOKUPS,
            SERVING_LOG_ROWS,
            DATASET_READERS,
            DATASET_CACHE_MEMORY,
            DATASET_CACHE_DISK,
            SESSIONS,
            ROWS_SAMPLED,
            ROWS_SKEWED,
            PIPELINE_POSITION,
        ];
        for name in names {
            assert_eq!(text.matches(&format!("# HELP {name} ")).count(), 1, "{name}\n{text}");
        }
        assert!(text.contains(r#"anabranch_requests_total{face="grpc",method="/a",code="0"} 1"#), "{text}");
    }
}

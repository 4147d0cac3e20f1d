//! Manifests and manifest lists, written through iceberg's public types so that their number stays bounded however long the history.
//!
//! An append writes one manifest of its own files and a list of that and the parent's manifests. A list would grow with every commit, so manifests are
//! merged in tiers, as a log-structured tree does with its runs: a manifest of *n* files is in tier ⌊log₈ n⌋, and as soon as a tier has eight, they are
//! rewritten as one. So a list of a million files holds at most some sixty manifests, each file's entry is rewritten once in each tier, and the cost of a
//! commit is constant but for that logarithm. A manifest over 8 MiB is left alone.
//!
//! Entries that are merged keep their snapshot and their sequence numbers; an added entry inherits them from the list, so a manifest that was written for
//! one parent serves for another.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, FormatVersion, Manifest, ManifestContentType, ManifestFile, ManifestList, ManifestListWriter, ManifestWriter, ManifestWriterBuilder,
    PartitionSpecRef, UNASSIGNED_SEQUENCE_NUMBER,
};
use uuid::Uuid;

use crate::metadata::{TableState, metadata_path};
use crate::storage::Locations;
use crate::{Error, Result};

/// A manifest of this size is not merged any more.
const FULL_BYTES: i64 = 8 << 20;

/// Reads manifests and lists, which never change, and keeps them.
#[derive(Debug)]
pub(crate) struct ManifestCache {
    lists: moka::future::Cache<String, Arc<Vec<ManifestFile>>>,
    manifests: moka::future::Cache<String, Arc<Manifest>>,
}

impl ManifestCache {
    pub(crate) fn new(entries: u64) -> Self {
        let weigh = |_: &String, manifest: &Arc<Manifest>| u32::try_from(manifest.entries().len()).unwrap_or(u32::MAX).max(1);
        Self { lists: moka::future::Cache::new(64), manifests: moka::future::Cache::builder().weigher(weigh).max_capacity(entries).build() }
    }

    /// The manifests of a list.
    pub(crate) async fn list(&self, io: &FileIO, location: &str) -> Result<Arc<Vec<ManifestFile>>> {
        if let Some(known) = self.lists.get(location).await {
            return Ok(known);
        }
        let bytes = io.new_input(location)?.read().await?;
        let list = ManifestList::parse_with_version(&bytes, FormatVersion::V2)?;
        let list = Arc::new(list.consume_entries().into_iter().collect::<Vec<_>>());
        self.lists.insert(location.to_owned(), Arc::clone(&list)).await;
        Ok(list)
    }

    /// The entries of a manifest.
    pub(crate) async fn manifest(&self, io: &FileIO, file: &ManifestFile) -> Result<Arc<Manifest>> {
        if let Some(known) = self.manifests.get(&file.manifest_path).await {
            return Ok(known);
        }
        let manifest = Arc::new(file.load_manifest(io).await?);
        self.manifests.insert(file.manifest_path.clone(), Arc::clone(&manifest)).await;
        Ok(manifest)
    }
}

/// Writes manifests for one snapshot of a table.
pub(crate) struct ManifestWork<'a> {
    pub(crate) cache: &'a ManifestCache,
    pub(crate) io: &'a FileIO,
    pub(crate) locations: &'a Locations,
    pub(crate) table: &'a TableState,
    pub(crate) snapshot_id: i64,
    /// How many manifests of a tier are merged into one; at least 2.
    pub(crate) fan_out: usize,
}

impl ManifestWork<'_> {
    /// A manifest of added files.
    pub(crate) async fn added(&self, name: Uuid, files: impl IntoIterator<Item = DataFile>) -> Result<ManifestFile> {
        let mut writer = self.writer(name, self.table.metadata().default_partition_spec())?;
        for file in files {
            writer.add_file(file, UNASSIGNED_SEQUENCE_NUMBER)?;
        }
        Ok(writer.write_manifest_file().await?)
    }

    /// The parent's manifests with those of crowded tiers merged; `name` gives names for new ones.
    pub(crate) async fn merged(&self, parent: &[ManifestFile], mut name: impl FnMut() -> Uuid) -> Result<Vec<ManifestFile>> {
        let mut kept: Vec<ManifestFile> = parent.iter().filter(|manifest| live_files(manifest) > 0).cloned().collect();
        while let Some((spec, tier)) = self.crowded(&kept) {
            let (merge, rest): (Vec<_>, Vec<_>) = kept.into_iter().partition(|manifest| self.bucket(manifest) == Some((spec, tier)));
            let one = self.merge(spec, &merge, name()).await?;
            kept = [vec![one], rest].concat();
        }
        Ok(kept)
    }

    /// A manifest with some of its files marked as gone, the others as they were; none where it has none of them. Gives how many went.
    pub(crate) async fn without(&self, manifest: &ManifestFile, gone: &HashSet<String>, name: Uuid) -> Result<Option<(ManifestFile, usize)>> {
        let entries = self.cache.manifest(self.io, manifest).await?;
        let alive = || entries.entries().iter().filter(|entry| entry.is_alive());
        let count = alive().filter(|entry| gone.contains(entry.file_path())).count();
        if count == 0 {
            return Ok(None);
        }
        let mut writer = self.writer(name, self.spec(manifest.partition_spec_id)?)?;
        for entry in alive() {
            let damaged = || Error::corrupt(&manifest.manifest_path, "an entry has no snapshot or sequence number");
            let (Some(snapshot), Some(sequence)) = (entry.snapshot_id(), entry.sequence_number()) else { return Err(damaged()) };
            let file = entry.data_file().clone();
            match gone.contains(entry.file_path()) {
                true => writer.add_delete_file(file, sequence, entry.file_sequence_number)?,
                false => writer.add_existing_file(file, snapshot, sequence, entry.file_sequence_number)?,
            }
        }
        Ok(Some((writer.write_manifest_file().await?, count)))
    }

    /// A list of these manifests under a sequence number; gives its path.
    pub(crate) async fn list(&self, name: Uuid, manifests: Vec<ManifestFile>, parent: Option<i64>, sequence_number: i64) -> Result<String> {
        let path = format!("{}/snap-{}-{name}.avro", metadata_path(self.table.entry.uuid), self.snapshot_id);
        let location = self.locations.location(&path);
        let output = self.io.new_output(&location)?.writer().await?;
        let mut writer = ManifestListWriter::v2(output, self.snapshot_id, parent, sequence_number);
        writer.add_manifests(manifests.into_iter())?;
        writer.close().await?;
        Ok(path)
    }

    /// The lowest tier that has as many manifests as are merged.
    fn crowded(&self, manifests: &[ManifestFile]) -> Option<(i32, u32)> {
        let mut buckets = BTreeMap::<(u32, i32), usize>::new();
        for (spec, tier) in manifests.iter().filter_map(|manifest| self.bucket(manifest)) {
            *buckets.entry((tier, spec)).or_default() += 1;
        }
        buckets.into_iter().find(|(_, count)| *count >= self.fan_out.max(2)).map(|((tier, spec), _)| (spec, tier))
    }

    /// What a manifest may be merged with: the same partition spec and about as many files.
    fn bucket(&self, manifest: &ManifestFile) -> Option<(i32, u32)> {
        let mergeable = manifest.content == ManifestContentType::Data && manifest.manifest_length < FULL_BYTES;
        mergeable.then(|| (manifest.partition_spec_id, live_files(manifest).max(1).ilog(self.fan_out.max(2) as u64)))
    }

    async fn merge(&self, spec_id: i32, manifests: &[ManifestFile], name: Uuid) -> Result<ManifestFile> {
        let mut writer = self.writer(name, self.spec(spec_id)?)?;
        for manifest in manifests {
            for entry in self.cache.manifest(self.io, manifest).await?.entries().iter().filter(|entry| entry.is_alive()) {
                let damaged = || Error::corrupt(&manifest.manifest_path, "an entry has no snapshot or sequence number");
                let (Some(snapshot), Some(sequence)) = (entry.snapshot_id(), entry.sequence_number()) else { return Err(damaged()) };
                writer.add_existing_file(entry.data_file().clone(), snapshot, sequence, entry.file_sequence_number)?;
            }
        }
        Ok(writer.write_manifest_file().await?)
    }

    fn spec(&self, spec_id: i32) -> Result<&PartitionSpecRef> {
        let unknown = || Error::corrupt(format!("table {}", self.table.name), format!("it has no partition spec {spec_id}"));
        self.table.metadata().partition_spec_by_id(spec_id).ok_or_else(unknown)
    }

    fn writer(&self, name: Uuid, spec: &PartitionSpecRef) -> Result<ManifestWriter> {
        let location = self.locations.location(&format!("{}/{name}.avro", metadata_path(self.table.entry.uuid)));
        let (output, schema) = (self.io.new_output(location)?, self.table.metadata().current_schema());
        Ok(ManifestWriterBuilder::new(output, Some(self.snapshot_id), Arc::clone(schema), spec.as_ref().clone()).build_v2_data())
    }
}

pub(crate) fn live_files(manifest: &ManifestFile) -> u64 {
    // Unknown counts are taken as one: such a manifest is kept.
    let count = |count: Option<u32>| count.map_or(1, u64::from);
    count(manifest.added_files_count) + count(manifest.existing_files_count)
}

//! One view of a join: its chunks found, matched from the latest to the earliest, and its features gathered.
//!
//! ```text
//! chunks -> keys (read ahead, decoded side by side) -> matching (in turn) -> ties -> tombstones -> hits by chunk
//!                                                                             hits -> features, a task for each column or few
//! ```

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::buffer::NullBuffer;
use futures::{StreamExt, TryStreamExt, stream};

use super::gather::{Gathered, Gathering, matched};
use super::keys::{self, ChunkKeys, Keys, Tail};
use super::matching::{Hit, Matching};
use super::plan::ViewPlan;
use super::report::{ViewReport, micros, timed};
use super::rows::{Chunk, ChunkInfo, ColumnReader, PageReaders};
use super::together::Together;
use super::work::{Ahead, Cores};
use super::{JoinError, ViewRows};

/// Rows of a batch of features: large enough that starting one costs nothing, small enough that a column of it stays in a core's cache.
const BATCH_ROWS: usize = 1 << 16;

/// Where a chunk has more than so many rows for each that matched, only those that did are decoded.
const SPARSE: usize = 40;

/// Chunks whose keys or features are fetched before their turn.
const AHEAD: usize = 2;

/// Small chunks are matched together, of so many rows.
const ROWS_TOGETHER: usize = 1 << 19;

/// Columns of chunks smaller than this are read together, so that small files don't cost a reader for each column.
const ROWS_PER_READER: usize = 1 << 18;

/// A view with what matched.
#[derive(Debug)]
pub(super) struct Matched {
    plan: Arc<ViewPlan>,
    chunks: Vec<Arc<dyn Chunk>>,
    hits: Vec<Vec<Hit>>,
    rows: NullBuffer,
}

/// Finds what each row of the spine matches.
pub(super) async fn match_view(plan: Arc<ViewPlan>, rows: &dyn ViewRows, cores: &Cores) -> Result<(Arc<Matched>, ViewReport), JoinError> {
    let mut report = ViewReport { name: plan.scan.name.clone(), ..ViewReport::default() };
    let spine_rows = plan.timeline.spine_rows;
    // Where no row of the spine has a key, nothing can match and nothing need be read.
    let chunks = match plan.timeline.times.is_empty() {
        true => Vec::new(),
        false => {
            let found = rows.chunks(&plan.scan).await.map_err(|error| JoinError::scan(&plan.scan.name, error))?;
            (report.files, report.files_read, report.row_groups, report.rows) = (found.files, found.files_kept, found.chunks_seen, found.rows);
            found.chunks
        }
    };
    let infos: Vec<ChunkInfo> = chunks.iter().map(|chunk| chunk.info()).collect();
    report.row_groups_read = chunks.len() as u64;
    report.rows_read = infos.iter().map(|info| info.rows as u64).sum();
    let mut search = Search { plan: Arc::clone(&plan), chunks, cores: cores.clone(), spent: Duration::ZERO, report };
    let matching = search.run(infos.clone()).await?;
    let mut hits = cores.run(move || matching.finish()).await?;
    search.drop_tombstones(&infos, &mut hits).await?;
    let Search { chunks, mut report, spent, .. } = search;
    report.match_us = micros(spent);
    report.row_groups_gathered = hits.iter().filter(|hits| !hits.is_empty()).count() as u64;
    let (hits, rows) = cores.run(move || (matched(spine_rows, hits.iter().flatten()), hits)).await.map(|(rows, hits)| (hits, rows))?;
    report.matched = (rows.len() - rows.null_count()) as u64;
    let read: u64 = chunks.iter().zip(&hits).filter(|(_, hits)| !hits.is_empty()).map(|(chunk, _)| chunk.stored_bytes(&plan.places.features)).sum();
    report.bytes_read += read;
    Ok((Arc::new(Matched { plan, chunks, hits, rows }), report))
}

struct Search {
    plan: Arc<ViewPlan>,
    chunks: Vec<Arc<dyn Chunk>>,
    cores: Cores,
    spent: Duration,
    report: ViewReport,
}

impl Search {
    async fn run(&mut self, infos: Vec<ChunkInfo>) -> Result<Matching, JoinError> {
        let mut order: Vec<u32> = (0..infos.len() as u32).collect();
        order.sort_by_key(|chunk| Reverse(infos[*chunk as usize].max_event_time));
        let mut matching = Matching::new(Arc::clone(&self.plan), infos);
        let head = &self.plan.places.head;
        self.report.bytes_read += self.chunks.iter().map(|chunk| chunk.stored_bytes(head)).sum::<u64>();
        let ahead = Cores::count() + AHEAD - 1;
        let (plan, chunks, cores) = (Arc::clone(&self.plan), self.chunks.clone(), self.cores.clone());
        let reads = order.into_iter().map(move |number| {
            let (plan, chunk, cores) = (Arc::clone(&plan), Arc::clone(&chunks[number as usize]), cores.clone());
            Ahead::start(async move { read_keys(plan, chunk, &cores).await.map(|(keys, grouped, spent)| (number, keys, grouped, spent)) })
        });
        let mut keys = stream::iter(reads).buffered(ahead);
        let (mut small, mut small_rows) = (Vec::new(), 0);
        while let Some((number, keys, grouped, spent)) = keys.try_next().await? {
            self.spent += spent;
            self.report.row_groups_grouped += u64::from(grouped);
            let info = self.chunks[number as usize].info();
            if Together::takes(&info, &keys) {
                small.push((number, keys));
                small_rows += info.rows;
                if small_rows >= ROWS_TOGETHER {
                    small_rows = 0;
                    matching = self.add(matching, std::mem::take(&mut small), None).await?;
                }
            } else {
                small_rows = 0;
                matching = self.add(matching, std::mem::take(&mut small), Some((number, keys))).await?;
            }
        }
        drop(keys);
        matching = self.add(matching, small, None).await?;
        self.resolve_ties(matching).await
    }

    /// Takes small chunks together, and then a large one.
    async fn add(&mut self, mut matching: Matching, small: Vec<(u32, ChunkKeys)>, large: Option<(u32, ChunkKeys)>) -> Result<Matching, JoinError> {
        let add = move || {
            if !small.is_empty() {
                matching.add_together(&small);
            }
            if let Some((number, keys)) = large {
                matching.add(number, &keys);
            }
            matching
        };
        let (matching, spent) = self.cores.run(|| timed(add)).await?;
        self.spent += spent;
        if matching.is_crowded() { self.resolve_ties(matching).await } else { Ok(matching) }
    }

    async fn resolve_ties(&mut self, mut matching: Matching) -> Result<Matching, JoinError> {
        let tied = matching.tied_chunks();
        if tied.is_empty() {
            return Ok(matching);
        }
        let mut contest = matching.contest();
        for number in tied {
            let chunk = &self.chunks[number as usize];
            self.report.bytes_read += chunk.stored_bytes(&self.plan.places.tail);
            let tail = read_tail(&self.plan, chunk, &self.cores).await?;
            contest = self
                .cores
                .run(move || {
                    contest.judge(number, &tail);
                    contest
                })
                .await?;
        }
        self.report.ties += matching.settle(contest);
        Ok(matching)
    }

    /// A tombstone that matches gives nulls: as if nothing had matched.
    async fn drop_tombstones(&mut self, infos: &[ChunkInfo], hits: &mut [Vec<Hit>]) -> Result<(), JoinError> {
        let place = self.plan.places.tombstone;
        for (number, hits) in hits.iter_mut().enumerate().filter(|(number, hits)| infos[*number].tombstones && !hits.is_empty()) {
            let chunk = &self.chunks[number];
            self.report.bytes_read += chunk.stored_bytes(&[place]);
            let reader = read(&self.plan, chunk, &[place], None, infos[number].rows.max(1)).await?;
            let (plan, all) = (Arc::clone(&self.plan), std::mem::take(hits));
            *hits = self.cores.run(move || without_tombstones(&plan, reader, all)).await??;
        }
        Ok(())
    }
}

async fn read(
    plan: &ViewPlan,
    chunk: &Arc<dyn Chunk>,
    columns: &[usize],
    rows: Option<&[Range<usize>]>,
    batch_rows: usize,
) -> Result<ColumnReader, JoinError> {
    chunk.read(columns, rows, batch_rows).await.map_err(|error| JoinError::scan(&plan.scan.name, error))
}

async fn read_keys(plan: Arc<ViewPlan>, chunk: Arc<dyn Chunk>, cores: &Cores) -> Result<(ChunkKeys, bool, Duration), JoinError> {
    let info = chunk.info();
    let reader = read(&plan, &chunk, &plan.places.head, None, info.rows.max(1)).await?;
    let of = Arc::clone(&plan);
    let (keys, spent) = cores.run(move || timed(|| keys::keys(&of, info, reader))).await?;
    match keys? {
        Keys::Ready(keys) => {
            let grouped = keys.is_grouped();
            Ok((keys, grouped, spent))
        }
        Keys::TailNeeded(keys) => {
            let tail = read_tail(&plan, &chunk, cores).await?;
            let (keys, more) = cores.run(move || timed(|| keys::order_ties(&keys, &tail))).await?;
            Ok((keys, true, spent + more))
        }
    }
}

async fn read_tail(plan: &Arc<ViewPlan>, chunk: &Arc<dyn Chunk>, cores: &Cores) -> Result<Tail, JoinError> {
    let info = chunk.info();
    let reader = read(plan, chunk, &plan.places.tail, None, info.rows.max(1)).await?;
    let of = Arc::clone(plan);
    cores.run(move || keys::tail(&of, info, reader)).await?
}

fn without_tombstones(plan: &ViewPlan, reader: ColumnReader, mut hits: Vec<Hit>) -> Result<Vec<Hit>, JoinError> {
    let mut first = 0;
    let mut dead: Vec<bool> = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| JoinError::scan(&plan.scan.name, error))?;
        let column = batch.first().ok_or_else(|| keys::wrong(plan, "a batch has no columns".to_owned()))?;
        let column = keys::canonical(plan, plan.places.tombstone, column)?;
        let column = column.as_boolean();
        dead.extend((0..column.len()).map(|row| column.is_valid(row) && column.value(row)));
        first += column.len();
    }
    hits.retain(|hit| (hit.row as usize) < first && !dead[hit.row as usize]);
    Ok(hits)
}

impl Matched {
    /// The features in groups, each of which one task gathers.
    pub(super) fn tasks(&self) -> Vec<Range<usize>> {
        let features = self.plan.places.features.len();
        let read = self.hits.iter().filter(|hits| !hits.is_empty()).count().max(1);
        let rows: usize = self.chunks.iter().zip(&self.hits).filter(|(_, hits)| !hits.is_empty()).map(|(chunk, _)| chunk.info().rows).sum();
        let together = (ROWS_PER_READER * read / rows.max(1)).clamp(1, features.div_ceil(Cores::count()).max(1));
        (0..features).step_by(together).map(|first| first..features.min(first + together)).collect()
    }

    /// Gathers some of the features, by their places among those asked for.
    pub(super) async fn gather(self: Arc<Self>, features: Range<usize>, cores: &Cores) -> Result<(Vec<Gathered>, Duration), JoinError> {
        let _turn = cores.turn().await;
        let places: Vec<usize> = self.plan.places.features[features].to_vec();
        let types: Vec<_> = places.iter().map(|place| self.plan.scan.columns[*place].data_type).collect();
        let mut columns: Vec<Gathering> = types.iter().map(|data_type| Gathering::new(*data_type, self.rows.clone())).collect();
        let mut spent = Duration::ZERO;
        let wanted = (0..self.chunks.len()).filter(|number| !self.hits[*number].is_empty());
        let reads = wanted.map(|number| {
            let (view, places) = (Arc::clone(&self), places.clone());
            Ahead::start(async move {
                let selected = Selected::of(&view.hits[number], view.chunks[number].info().rows);
                let source = view.source(number, &places, selected.as_ref()).await?;
                Ok::<_, JoinError>((number, selected, source))
            })
        });
        let mut reads = stream::iter(reads).buffered(AHEAD);
        while let Some((number, selected, source)) = reads.try_next().await? {
            let (view, of) = (Arc::clone(&self), places.clone());
            let (done, took) = cores
                .run(move || {
                    timed(move || {
                        let hits = selected.as_ref().map_or(view.hits[number].as_slice(), |selected| &selected.hits);
                        match source {
                            Source::Batches(reader) => fill(&view.plan, &of, reader, hits, &mut columns),
                            Source::Pages(readers) => fill_from_pages(&view.plan, readers, hits, &mut columns),
                        }
                        .map(|()| columns)
                    })
                })
                .await?;
            (columns, spent) = (done?, spent + took);
        }
        drop(reads);
        let (done, took) =
            cores.run(move || timed(move || columns.into_iter().zip(types).map(|(column, data_type)| column.finish(data_type)).collect())).await?;
        Ok((done, spent + took))
    }

    /// Fetches features of a chunk.
    async fn source(&self, number: usize, places: &[usize], selected: Option<&Selected>) -> Result<Source, JoinError> {
        let chunk = &self.chunks[number];
        if selected.is_none()
            && let Some(pages) = chunk.pages(places).await.map_err(|error| JoinError::scan(&self.plan.scan.name, error))?
        {
            return Ok(Source::Pages(pages));
        }
        let ranges = selected.map(|selected| selected.ranges.as_slice());
        Ok(Source::Batches(read(&self.plan, chunk, places, ranges, BATCH_ROWS).await?))
    }
}

/// Where the features of a chunk come from.
enum Source {
    /// Some columns, decoded.
    Batches(ColumnReader),
    /// Some columns, as they are stored.
    Pages(PageReaders),
}

/// The rows of a chunk that matched, where they are few: as ranges, and the hits with rows counted among these.
struct Selected {
    ranges: Vec<Range<usize>>,
    hits: Vec<Hit>,
}

impl Selected {
    fn of(hits: &[Hit], rows: usize) -> Option<Self> {
        if hits.len() >= rows / SPARSE {
            return None;
        }
        let mut selected = Self { ranges: Vec::new(), hits: Vec::with_capacity(hits.len()) };
        let (mut taken, mut last) = (0_u32, None);
        for hit in hits {
            if last != Some(hit.row) {
                match selected.ranges.last_mut() {
                    Some(range) if range.end == hit.row as usize => range.end += 1,
                    _ => selected.ranges.push(hit.row as usize..hit.row as usize + 1),
                }
                (taken, last) = (taken + 1, Some(hit.row));
            }
            selected.hits.push(Hit { row: taken - 1, out: hit.out });
        }
        Some(selected)
    }
}

/// The hits of a chunk, by row, of which each batch or page that comes takes its own.
struct Coming<'a> {
    hits: &'a [Hit],
    /// The rows that came.
    rows: usize,
}

impl<'a> Coming<'a> {
    /// The hits of the next rows, and where these begin.
    fn take(&mut self, rows: usize) -> (usize, &'a [Hit]) {
        let (first, end) = (self.rows, self.rows + rows);
        let (taken, rest) = self.hits.split_at(self.hits.partition_point(|hit| (hit.row as usize) < end));
        (self.hits, self.rows) = (rest, end);
        (first, taken)
    }

    fn end(self, plan: &ViewPlan) -> Result<(), JoinError> {
        match self.hits.is_empty() {
            true => Ok(()),
            false => Err(keys::wrong(plan, format!("a chunk gave {} rows, fewer than it said", self.rows))),
        }
    }
}

/// Brings what a reader gives to its places; `hits` are by row.
fn fill(plan: &ViewPlan, places: &[usize], reader: ColumnReader, hits: &[Hit], columns: &mut [Gathering]) -> Result<(), JoinError> {
    let mut coming = Coming { hits, rows: 0 };
    for batch in reader {
        let batch = batch.map_err(|error| JoinError::scan(&plan.scan.name, error))?;
        if batch.len() != places.len() {
            return Err(keys::wrong(plan, format!("a batch has {} columns where {} were asked for", batch.len(), places.len())));
        }
        let (first, hits) = coming.take(batch.first().map_or(0, |column| column.len()));
        if !hits.is_empty() {
            for ((column, place), values) in columns.iter_mut().zip(places).zip(&batch) {
                column.take(first, &keys::canonical(plan, *place, values)?, hits)?;
            }
        }
    }
    coming.end(plan)
}

/// As [`fill`], of columns whose values are taken from their pages.
fn fill_from_pages(plan: &ViewPlan, readers: PageReaders, hits: &[Hit], columns: &mut [Gathering]) -> Result<(), JoinError> {
    let readers = readers().map_err(|error| JoinError::scan(&plan.scan.name, error))?;
    if readers.len() != columns.len() {
        return Err(keys::wrong(plan, format!("a chunk gave the pages of {} columns where {} were asked for", readers.len(), columns.len())));
    }
    for (column, reader) in columns.iter_mut().zip(readers) {
        let mut coming = Coming { hits, rows: 0 };
        for page in reader {
            let page = page.map_err(|error| JoinError::scan(&plan.scan.name, error))?;
            let (first, hits) = coming.take(page.rows);
            if !column.take_page(first, &page, hits) {
                return Err(keys::wrong(plan, "a page holds values of another type, or fewer than it says".to_owned()));
            }
        }
        coming.end(plan)?;
    }
    Ok(())
}

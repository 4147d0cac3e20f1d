//! What each row of the spine matches in one view, chunk by chunk.
//!
//! The candidates of a spine row in a run, an entity's rows of a chunk in their total order, are those that it sees: of an event time before its own and,
//! under `knowledge = spine`, of a known time before its own. So the match is the last row that is seen, and what a spine row sees an earlier one of its
//! entity sees no more than that. The spine rows are therefore taken from the latest to the earliest, and the run is walked backwards beside them: a row
//! that one does not see is passed for good. The last row has the latest event time of those seen, so if it is older than the lookback reaches, all are.
//!
//! What is best so far comes no earlier along an entity's times. A run therefore need not be held against spine rows from the first on whose best so
//! far is later than all of the run; and chunks are taken from the latest to the earliest, so that rows in files of a stream that was appended for months
//! are asked about once each, not once for each file.
//!
//! Small chunks, of which a stream leaves many, are taken together ([`Together`]): each would pass over all of the spine for a few rows of each entity.
//!
//! Only event and known times are compared here. Where rows of several files tie in both, they are put down as [`Tie`]s, and arrival, source and position
//! are read for those alone, at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Knowledge;
use super::entities::{Groups, Run};
use super::keys::{ChunkKeys, Tail};
use super::plan::ViewPlan;
use super::rows::ChunkInfo;
use super::together::{Candidate, Together, runs_of};

/// Where a row lies: its chunk in the upper half, its row there in the lower.
pub(super) type Place = u64;

/// No row.
const NOWHERE: Place = Place::MAX;

pub(super) fn place_of(chunk: u32, row: u32) -> Place {
    u64::from(chunk) << 32 | u64::from(row)
}

pub(super) fn chunk_of(place: Place) -> u32 {
    (place >> 32) as u32
}

fn row_of(place: Place) -> u32 {
    place as u32
}

/// A row that was as late as the best of a spine row when it came by.
#[derive(Debug, Clone, Copy)]
struct Tie {
    at: u32,
    event: i64,
    known: i64,
    place: Place,
}

/// What a spine row matched: the row of a chunk, and the spine row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) row: u32,
    pub(super) out: u32,
}

/// The best rows so far. All is by place in the timeline.
#[derive(Debug)]
struct Best {
    place: Vec<Place>,
    event: Vec<i64>,
    /// None where known times are the event times.
    known: Option<Vec<i64>>,
    ties: Vec<Tie>,
}

impl Best {
    /// Holds a row against the best so far, and gives whether it is better.
    #[inline]
    fn challenge(&mut self, chunks: &[ChunkInfo], at: usize, new: &Candidate) -> bool {
        if self.place[at] != NOWHERE {
            let best = (self.event[at], self.known.as_ref().map_or(self.event[at], |known| known[at]));
            if best > new.time() {
                return false;
            }
            if best == new.time() {
                let (of_best, of_new) = (chunks[chunk_of(self.place[at]) as usize], chunks[chunk_of(new.place) as usize]);
                if !(of_best.sorted && of_new.sorted && of_best.file == of_new.file) {
                    self.ties.push(Tie { at: at as u32, event: new.event, known: new.known, place: new.place });
                    return false;
                }
                if self.place[at] > new.place {
                    return false;
                }
            }
        }
        (self.place[at], self.event[at]) = (new.place, new.event);
        if let Some(all) = &mut self.known {
            all[at] = new.known;
        }
        true
    }
}

/// Rows of one entity in their total order.
trait EntityRows {
    fn count(&self) -> usize;
    fn event(&self, row: usize) -> i64;
    fn known(&self, row: usize) -> i64;
    fn candidate(&self, row: usize) -> Candidate;
}

/// Those of a chunk.
struct RunRows<'a> {
    chunk: u32,
    keys: &'a ChunkKeys,
    /// Where they begin among the chunk's keys.
    start: usize,
    event: &'a [i64],
    known: &'a [i64],
}

impl EntityRows for RunRows<'_> {
    fn count(&self) -> usize {
        self.event.len()
    }

    fn event(&self, row: usize) -> i64 {
        self.event[row]
    }

    fn known(&self, row: usize) -> i64 {
        self.known[row]
    }

    fn candidate(&self, row: usize) -> Candidate {
        Candidate { event: self.event[row], known: self.known[row], place: place_of(self.chunk, self.keys.row(self.start + row)) }
    }
}

/// Those of several chunks.
impl EntityRows for &[Candidate] {
    fn count(&self) -> usize {
        self.len()
    }

    fn event(&self, row: usize) -> i64 {
        self[row].event
    }

    fn known(&self, row: usize) -> i64 {
        self[row].known
    }

    fn candidate(&self, row: usize) -> Candidate {
        self[row]
    }
}

/// A view's chunks and what the spine's rows match in them.
#[derive(Debug)]
pub(super) struct Matching {
    plan: Arc<ViewPlan>,
    chunks: Vec<ChunkInfo>,
    best: Best,
    /// For each chunk the places of the timeline that it was the best for when it came by, with its rows.
    hits: Vec<Vec<Hit>>,
    /// What one walk finds, from the latest to the earliest.
    found: Vec<(Place, u32)>,
}

impl Matching {
    pub(super) fn new(plan: Arc<ViewPlan>, chunks: Vec<ChunkInfo>) -> Self {
        let rows = plan.timeline.times.len();
        let known = plan.has_known().then(|| vec![i64::MIN; rows]);
        // As many as there would be if rows matched evenly: lists that grow are copied, into memory that is cleared for them.
        let all: usize = chunks.iter().map(|chunk| chunk.rows).sum();
        let hits = chunks.iter().map(|chunk| Vec::with_capacity(rows.min(all) * chunk.rows / all.max(1) * 17 / 16)).collect();
        let best = Best { place: vec![NOWHERE; rows], event: vec![i64::MIN; rows], known, ties: Vec::new() };
        Self { plan, chunks, best, hits, found: Vec::new() }
    }

    /// Takes a chunk; the caller takes those of later event times first.
    pub(super) fn add(&mut self, chunk: u32, keys: &ChunkKeys) {
        for run in &keys.runs {
            self.add_run(chunk, keys, *run);
        }
    }

    /// Takes chunks as if they were one; they are by entity, as [`Together::takes`] says.
    pub(super) fn add_together(&mut self, chunks: &[(u32, ChunkKeys)]) {
        let mut together = Together::new(chunks, self.plan.timeline.rows.len());
        while let Some(entities) = together.block() {
            for (entity, rows) in entities {
                match rows.windows(2).any(|pair| pair[0].time() == pair[1].time()) {
                    // Which of them counts is not known yet, and may never need to be.
                    true => runs_of(chunks, entity).for_each(|(chunk, keys, run)| self.add_run(chunk, keys, run)),
                    false => self.add_rows(entity, rows),
                }
            }
        }
    }

    /// Takes an entity's rows of a chunk.
    fn add_run(&mut self, chunk: u32, keys: &ChunkKeys, run: Run) {
        let (event, known) = keys.times(&run);
        self.add_rows(run.entity, RunRows { chunk, keys, start: run.start as usize, event, known: known.unwrap_or(event) });
    }

    /// Takes rows of an entity.
    fn add_rows(&mut self, entity: u32, rows: impl EntityRows) {
        // What was known to a time is known to all later ones.
        match (self.plan.options.knowledge, &self.best.known) {
            (Knowledge::Any, _) | (Knowledge::Spine, None) => self.walk(entity, rows, |_, _| true),
            (Knowledge::Spine, Some(_)) => self.walk(entity, rows, |known, time| known <= time),
            (Knowledge::At(at), _) => self.walk(entity, rows, |known, _| known <= at.micros()),
        }
    }

    /// Walks an entity's rows backwards beside the spine's; `known` says whether a known time was known to a spine row of a time.
    fn walk(&mut self, entity: u32, rows: impl EntityRows, known: impl Fn(i64, i64) -> bool) {
        let Self { plan, chunks, best, hits, found } = self;
        let mut left = rows.count();
        let Some(last) = left.checked_sub(1).map(|last| rows.event(last)) else { return };
        let range = plan.timeline.rows.range(entity as usize);
        let bests = &best.event[range.clone()];
        // Mostly all of them, as where nothing was found for the entity yet.
        let open = if bests.last().is_some_and(|event| *event <= last) { bests.len() } else { bests.partition_point(|event| *event <= last) };
        for at in (range.start..range.start + open).rev() {
            let time = plan.timeline.times[at];
            // Strictly before a time is at or before the microsecond before it; nothing is before the first.
            let Some(until) = (if plan.options.strict { time.checked_sub(1) } else { Some(time) }) else { break };
            while left > 0 && !(rows.event(left - 1) <= until && known(rows.known(left - 1), time)) {
                left -= 1;
            }
            if left == 0 {
                break;
            }
            let latest = rows.candidate(left - 1);
            if best.challenge(chunks, at, &latest) {
                found.push((latest.place, at as u32));
            }
        }
        // Hits come by row, which is how features are read.
        for (place, out) in found.drain(..).rev() {
            hits[chunk_of(place) as usize].push(Hit { row: row_of(place), out });
        }
    }

    /// Whether so many ties wait that they should be resolved before more come.
    pub(super) fn is_crowded(&self) -> bool {
        self.best.ties.len() > self.best.place.len().max(1 << 20)
    }

    /// The chunks of rows that tie with the best of a spine row, the best's own among them.
    pub(super) fn tied_chunks(&mut self) -> Vec<u32> {
        let (event, known) = (&self.best.event, &self.best.known);
        self.best.ties.retain(|tie| {
            let at = tie.at as usize;
            (event[at], known.as_ref().map_or(event[at], |known| known[at])) == (tie.event, tie.known)
        });
        let mut chunks: Vec<u32> = self.best.ties.iter().flat_map(|tie| [chunk_of(tie.place), chunk_of(self.best.place[tie.at as usize])]).collect();
        chunks.sort_unstable();
        chunks.dedup();
        chunks
    }

    /// Begins to resolve the ties that [`Matching::tied_chunks`] left.
    pub(super) fn contest(&mut self) -> Contest {
        let mut rows: BTreeMap<u32, Vec<(u32, Place)>> = BTreeMap::new();
        let ties = std::mem::take(&mut self.best.ties);
        let mut spine: Vec<u32> = ties.iter().map(|tie| tie.at).collect();
        spine.sort_unstable();
        spine.dedup();
        let own = spine.iter().map(|at| (*at, self.best.place[*at as usize]));
        for (at, place) in own.chain(ties.iter().map(|tie| (tie.at, tie.place))) {
            rows.entry(chunk_of(place)).or_default().push((at, place));
        }
        Contest { rows, best: BTreeMap::new() }
    }

    /// Takes what the contest decided; gives how many spine rows it was about.
    pub(super) fn settle(&mut self, contest: Contest) -> u64 {
        let decided = contest.best.len() as u64;
        for (at, (_, place)) in contest.best {
            if self.best.place[at as usize] != place {
                self.best.place[at as usize] = place;
                self.hits[chunk_of(place) as usize].push(Hit { row: row_of(place), out: at });
            }
        }
        decided
    }

    /// The matches by chunk, in the order of its rows, with the spine's own row numbers.
    pub(super) fn finish(self) -> Vec<Vec<Hit>> {
        let timeline = &self.plan.timeline;
        let reach = |at: usize| {
            self.plan.scan.layout.view().lookback.is_none_or(|lookback| self.best.event[at] >= timeline.times[at].saturating_sub(lookback.micros()))
        };
        let mut all = self.hits;
        for (chunk, hits) in all.iter_mut().enumerate() {
            hits.retain_mut(|hit| {
                let at = hit.out as usize;
                let matched = self.best.place[at] == place_of(chunk as u32, hit.row) && reach(at);
                hit.out = timeline.rows.all()[at];
                matched
            });
            sort(hits, self.chunks[chunk].rows);
        }
        all
    }
}

/// Brings hits into the order of the chunk's rows: by counting where they are many.
fn sort(hits: &mut Vec<Hit>, rows: usize) {
    if hits.is_sorted_by_key(|hit| hit.row) {
        return;
    }
    if hits.len() < rows / 16 {
        hits.sort_unstable_by_key(|hit| (hit.row, hit.out));
        return;
    }
    let by_row = Groups::new(hits.len(), rows, |hit| hits[hit].row);
    *hits = by_row.all().iter().map(|hit| hits[*hit as usize]).collect();
}

/// Rows that tie in event and known time, while the rest of the total order is read, chunk by chunk.
#[derive(Debug)]
pub(super) struct Contest {
    rows: BTreeMap<u32, Vec<(u32, Place)>>,
    best: BTreeMap<u32, ((i64, i32, i64), Place)>,
}

impl Contest {
    /// Takes the tail of a chunk.
    pub(super) fn judge(&mut self, chunk: u32, tail: &Tail) {
        for (at, place) in self.rows.remove(&chunk).unwrap_or_default() {
            let new = (tail.of(row_of(place)), place);
            let best = self.best.entry(at).or_insert(new);
            // Rows equal in the whole order are equal in every value, so any one of them will do.
            if new.0 > best.0 {
                *best = new;
            }
        }
    }
}

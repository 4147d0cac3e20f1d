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
//! Only event and known times are compared here. Where rows of several files tie in both, they are put down as [`Tie`]s, and arrival, source and position
//! are read for those alone, at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Knowledge;
use super::entities::{Groups, Run};
use super::keys::{ChunkKeys, Tail};
use super::plan::ViewPlan;
use super::rows::ChunkInfo;

/// Where a row lies: its chunk in the upper half, its row there in the lower.
pub(super) type Place = u64;

/// No row.
const NOWHERE: Place = Place::MAX;

fn place(chunk: u32, row: u32) -> Place {
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
pub(super) struct Matching {
    plan: Arc<ViewPlan>,
    chunks: Vec<ChunkInfo>,
    place: Vec<Place>,
    event: Vec<i64>,
    /// None where known times are the event times.
    known: Option<Vec<i64>>,
    ties: Vec<Tie>,
    /// For each chunk the places of the timeline that it was the best for when it came by, with its rows.
    hits: Vec<Vec<Hit>>,
}

impl Matching {
    pub(super) fn new(plan: Arc<ViewPlan>, chunks: Vec<ChunkInfo>) -> Self {
        let rows = plan.timeline.times.len();
        let known = plan.has_known().then(|| vec![i64::MIN; rows]);
        let hits = chunks.iter().map(|_| Vec::new()).collect();
        Self { plan, chunks, place: vec![NOWHERE; rows], event: vec![i64::MIN; rows], known, ties: Vec::new(), hits }
    }

    /// Takes a chunk; the caller takes those of later event times first.
    pub(super) fn add(&mut self, chunk: u32, keys: &ChunkKeys) {
        let plan = Arc::clone(&self.plan);
        for run in &keys.runs {
            match (plan.options.knowledge, &keys.known) {
                (Knowledge::Any, _) | (Knowledge::Spine, None) => self.add_run(chunk, keys, *run, |_, _| true),
                (Knowledge::Spine, Some(known)) => self.add_run(chunk, keys, *run, |row, time| known[row] <= time),
                (Knowledge::At(at), _) => self.add_run(chunk, keys, *run, |row, _| keys.known_at(row) <= at.micros()),
            }
        }
    }

    /// Takes an entity's rows; `known` says whether one was known to a spine row of a time, and one known to a time is known to all later ones.
    fn add_run(&mut self, chunk: u32, keys: &ChunkKeys, run: Run, known: impl Fn(usize, i64) -> bool) {
        let plan = Arc::clone(&self.plan);
        let (first, mut end) = (run.start as usize, run.end as usize);
        let Some(last) = end.checked_sub(1).filter(|last| *last >= first).map(|last| keys.event[last]) else { return };
        let range = plan.timeline.rows.range(run.entity as usize);
        let open = self.event[range.clone()].partition_point(|event| *event <= last);
        let hits = self.hits[chunk as usize].len();
        for at in (range.start..range.start + open).rev() {
            let time = plan.timeline.times[at];
            // Strictly before a time is at or before the microsecond before it; nothing is before the first.
            let Some(until) = (if plan.options.strict { time.checked_sub(1) } else { Some(time) }) else { break };
            while end > first && !(keys.event[end - 1] <= until && known(end - 1, time)) {
                end -= 1;
            }
            if end == first {
                break;
            }
            self.challenge(at, chunk, keys, end - 1);
        }
        // Hits come by row, which is how features are read.
        self.hits[chunk as usize][hits..].reverse();
    }

    /// Holds a row against the best so far.
    fn challenge(&mut self, at: usize, chunk: u32, keys: &ChunkKeys, row: usize) {
        let (event, known) = (keys.event[row], keys.known_at(row));
        let new = place(chunk, keys.row(row));
        if self.place[at] != NOWHERE {
            let best = (self.event[at], self.known.as_ref().map_or(self.event[at], |known| known[at]));
            if best > (event, known) {
                return;
            }
            if best == (event, known) {
                let (of_best, of_new) = (self.chunks[chunk_of(self.place[at]) as usize], self.chunks[chunk as usize]);
                if !(of_best.sorted && of_new.sorted && of_best.file == of_new.file) {
                    self.ties.push(Tie { at: at as u32, event, known, place: new });
                    return;
                }
                if self.place[at] > new {
                    return;
                }
            }
        }
        (self.place[at], self.event[at]) = (new, event);
        if let Some(all) = &mut self.known {
            all[at] = known;
        }
        self.hits[chunk as usize].push(Hit { row: row_of(new), out: at as u32 });
    }

    /// Whether so many ties wait that they should be resolved before more come.
    pub(super) fn is_crowded(&self) -> bool {
        self.ties.len() > self.place.len().max(1 << 20)
    }

    /// The chunks of rows that tie with the best of a spine row, the best's own among them.
    pub(super) fn tied_chunks(&mut self) -> Vec<u32> {
        let (event, known) = (&self.event, &self.known);
        self.ties.retain(|tie| {
            let at = tie.at as usize;
            (event[at], known.as_ref().map_or(event[at], |known| known[at])) == (tie.event, tie.known)
        });
        let mut chunks: Vec<u32> = self.ties.iter().flat_map(|tie| [chunk_of(tie.place), chunk_of(self.place[tie.at as usize])]).collect();
        chunks.sort_unstable();
        chunks.dedup();
        chunks
    }

    /// Begins to resolve the ties that [`Matching::tied_chunks`] left.
    pub(super) fn contest(&mut self) -> Contest {
        let mut rows: BTreeMap<u32, Vec<(u32, Place)>> = BTreeMap::new();
        let ties = std::mem::take(&mut self.ties);
        let mut spine: Vec<u32> = ties.iter().map(|tie| tie.at).collect();
        spine.sort_unstable();
        spine.dedup();
        let own = spine.iter().map(|at| (*at, self.place[*at as usize]));
        for (at, place) in own.chain(ties.iter().map(|tie| (tie.at, tie.place))) {
            rows.entry(chunk_of(place)).or_default().push((at, place));
        }
        Contest { rows, best: BTreeMap::new() }
    }

    /// Takes what the contest decided; gives how many spine rows it was about.
    pub(super) fn settle(&mut self, contest: Contest) -> u64 {
        let decided = contest.best.len() as u64;
        for (at, (_, place)) in contest.best {
            if self.place[at as usize] != place {
                self.place[at as usize] = place;
                self.hits[chunk_of(place) as usize].push(Hit { row: row_of(place), out: at });
            }
        }
        decided
    }

    /// The matches by chunk, in the order of its rows, with the spine's own row numbers.
    pub(super) fn finish(self) -> Vec<Vec<Hit>> {
        let timeline = &self.plan.timeline;
        let reach = |at: usize| {
            self.plan.scan.layout.view().lookback.is_none_or(|lookback| self.event[at] >= timeline.times[at].saturating_sub(lookback.micros()))
        };
        let mut all = self.hits;
        for (chunk, hits) in all.iter_mut().enumerate() {
            hits.retain_mut(|hit| {
                let at = hit.out as usize;
                let matched = self.place[at] == place(chunk as u32, hit.row) && reach(at);
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

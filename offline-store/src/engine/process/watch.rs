//! The scheduler's watch over its jobs: what Ballista's own scheduler leaves lying, it picks up.
//!
//! Ballista resets the parts of an executor that it has lost, but offers them to nobody: parts are offered when a job comes, a part ends or an executor
//! comes. Where the others had nothing left to do by then, the job waited for ever. And a part that was bound to an executor in the moment in which that
//! was removed is reset by nobody. So the watch looks at all jobs once a second, as a state machine of each:
//!
//! ```text
//!               ┌──────────────────┐ parts wait and executors are there: offer them
//!               ▼                  │ a part runs where no executor is: reset it
//! job comes ─► under way ──────────┘
//!               │ no executor for `executor_wait`; no part done for `part_timeout`; its own failure; cancelled
//!               ▼
//!              failed ─► gone       its server takes it back, or does not within FORGOTTEN_AFTER; its results are swept
//! ```
//!
//! | what dies | seen by | then |
//! | -- | -- | -- |
//! | an executor, its connections with it | the next part that is sent there | Ballista resets its parts, the watch offers them |
//! | an executor that hangs, or its machine | its silence for `executor_timeout` | the same |
//! | an executor that lives and does not get on with a part | the same parts running for `part_timeout` | the job fails as [`Verdict::Stuck`] and is done again |
//! | a report of a finished part | the same | the same |
//! | every part, again and again: no executor can read the plan | no part of any job done for `part_timeout` | the same |
//! | all executors | none for `executor_wait` | the job fails as [`Verdict::Nobody`] |
//! | the scheduler | the server's next question | the server says so; nothing of the scheduler outlives it |
//!
//! The order in which an executor is told to stop a part and to remove the job's results is open, so results of a failed job are removed several times.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// For how many looks a failed job is kept whose server does not take it back.
const FORGOTTEN_AFTER: u64 = 60;
/// How many looks in a row remove the results of a job that failed.
const SWEEPS: u64 = 5;

/// Why the watch ends a job; it travels as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Verdict {
    /// There was no executor for so many seconds.
    Nobody(u64),
    /// No part was done for so many seconds.
    Stuck(u64),
}

const NOBODY: &str = "no executor for ";
const STUCK: &str = "no part done for ";
const SECONDS: &str = " s";

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(seconds) => write!(f, "{NOBODY}{seconds}{SECONDS}"),
            Self::Stuck(seconds) => write!(f, "{STUCK}{seconds}{SECONDS}"),
        }
    }
}

impl Verdict {
    /// The verdict that a job's failure is, where it is one.
    pub(in crate::engine) fn of(text: &str) -> Option<Self> {
        let seconds = |prefix| text.strip_prefix(prefix)?.strip_suffix(SECONDS)?.parse().ok();
        seconds(NOBODY).map(Self::Nobody).or_else(|| seconds(STUCK).map(Self::Stuck))
    }
}

/// The patience of a watch, in looks, of which there is one a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) executor_wait: u64,
    pub(super) part_timeout: u64,
}

/// A cluster at one look.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) executors: BTreeSet<String>,
    pub(super) jobs: BTreeMap<String, Job>,
    /// Jobs that failed or were cancelled since the last look.
    pub(super) ended: Vec<String>,
}

/// A job that the scheduler still holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Job {
    /// How many parts nobody does.
    pub(super) waiting: usize,
    /// The parts under way, each by a number that no other attempt has, and their executors.
    pub(super) running: BTreeMap<usize, String>,
    /// How many parts are done.
    pub(super) done: usize,
    pub(super) failed: bool,
}

/// What is to be done after a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// Reset the parts of an executor that is not there.
    Release(String),
    /// Offer waiting parts to the executors.
    Offer,
    /// End a job.
    Fail(String, Verdict),
    /// Let go of a failed job.
    Forget(String),
    /// Remove a job's results wherever they lie.
    Sweep(String),
}

/// What a watch remembers.
#[derive(Debug)]
pub(super) struct Watch {
    patience: Patience,
    jobs: BTreeMap<String, Seen>,
    /// How many parts of each job were done, and for how many looks that has not changed.
    done: (BTreeMap<String, usize>, u64),
    /// The jobs whose results are being removed, and how often they still will be.
    sweeps: BTreeMap<String, u64>,
}

/// What is remembered of a job: for how many looks something has been so.
#[derive(Debug, Default)]
struct Seen {
    alone: u64,
    failed: u64,
    running: BTreeSet<usize>,
    unchanged: u64,
}

impl Watch {
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, jobs: BTreeMap::new(), done: Default::default(), sweeps: BTreeMap::new() }
    }

    /// Judges what was seen.
    pub(super) fn judge(&mut self, look: Look) -> Vec<Deed> {
        let mut deeds = Vec::new();
        self.jobs.retain(|name, _| look.jobs.contains_key(name));
        let live = || look.jobs.iter().filter(|(_, job)| !job.failed);
        let done: BTreeMap<_, _> = live().map(|(name, job)| (name.clone(), job.done)).collect();
        if done == self.done.0 && !look.executors.is_empty() {
            self.done.1 += 1;
        } else {
            self.done = (done, 0);
        }
        let lost: BTreeSet<_> = live().flat_map(|(_, job)| job.running.values()).filter(|executor| !look.executors.contains(*executor)).collect();
        deeds.extend(lost.into_iter().cloned().map(Deed::Release));
        let idle = self.done.1;
        for (name, job) in &look.jobs {
            let seen = self.jobs.entry(name.clone()).or_default();
            if job.failed {
                seen.failed += 1;
                if seen.failed == FORGOTTEN_AFTER {
                    deeds.push(Deed::Forget(name.clone()));
                }
            } else if let Some(verdict) = seen.judge(job, !look.executors.is_empty(), idle, self.patience) {
                deeds.push(Deed::Fail(name.clone(), verdict));
            }
        }
        if !look.executors.is_empty() && live().any(|(_, job)| job.waiting > 0) {
            deeds.push(Deed::Offer);
        }
        self.sweeps.extend(look.ended.into_iter().map(|name| (name, SWEEPS)));
        self.sweeps.retain(|name, left| {
            deeds.push(Deed::Sweep(name.clone()));
            *left -= 1;
            *left > 0
        });
        deeds
    }
}

impl Seen {
    fn judge(&mut self, job: &Job, executors: bool, idle: u64, patience: Patience) -> Option<Verdict> {
        self.alone = if executors { 0 } else { self.alone + 1 };
        let running: BTreeSet<_> = job.running.keys().copied().collect();
        self.unchanged = if !running.is_empty() && running == self.running { self.unchanged + 1 } else { 0 };
        self.running = running;
        if self.alone >= patience.executor_wait {
            return Some(Verdict::Nobody(patience.executor_wait));
        }
        (self.unchanged.max(idle) >= patience.part_timeout).then_some(Verdict::Stuck(patience.part_timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { executor_wait: 3, part_timeout: 5 };

    fn job(waiting: usize, running: &[(usize, &str)], done: usize) -> Job {
        let running = running.iter().map(|(number, executor)| (*number, (*executor).to_owned())).collect();
        Job { waiting, running, done, failed: false }
    }

    fn look(executors: &[&str], jobs: &[(&str, Job)]) -> Look {
        let jobs = jobs.iter().map(|(name, job)| ((*name).to_owned(), job.clone())).collect();
        Look { executors: executors.iter().map(|name| (*name).to_owned()).collect(), jobs, ended: Vec::new() }
    }

    #[test]
    fn parts_that_wait_are_offered_at_every_look() {
        let mut watch = Watch::new(PATIENCE);
        for done in 0..20 {
            assert_eq!(watch.judge(look(&["a"], &[("j", job(2, &[(done, "a")], done))])), [Deed::Offer]);
        }
        assert!(watch.judge(look(&["a"], &[("j", job(0, &[(99, "a")], 50))])).is_empty());
        assert!(watch.judge(look(&[], &[("j", job(2, &[], 50))])).is_empty());
        assert!(watch.judge(look(&["a"], &[])).is_empty());
    }

    #[test]
    fn a_part_that_runs_where_no_executor_is_is_released() {
        let mut watch = Watch::new(PATIENCE);
        let seen = watch.judge(look(&["a"], &[("j", job(0, &[(1, "a"), (2, "b"), (3, "b")], 0)), ("k", job(0, &[(1, "b")], 0))]));
        assert_eq!(seen, [Deed::Release("b".to_owned())]);
    }

    #[test]
    fn a_join_waits_for_an_executor_and_not_for_ever() {
        let mut watch = Watch::new(PATIENCE);
        for _ in 0..20 {
            watch.judge(look(&[], &[]));
        }
        let alone = || look(&[], &[("j", job(2, &[], 0))]);
        assert!(watch.judge(alone()).is_empty() && watch.judge(alone()).is_empty());
        assert_eq!(watch.judge(look(&["a"], &[("j", job(2, &[], 0))])), [Deed::Offer]);
        assert!(watch.judge(alone()).is_empty() && watch.judge(alone()).is_empty());
        assert_eq!(watch.judge(alone()), [Deed::Fail("j".to_owned(), Verdict::Nobody(3))]);
    }

    #[test]
    fn a_job_that_does_not_get_on_is_ended_and_others_are_not() {
        let mut watch = Watch::new(PATIENCE);
        let stuck = [Deed::Fail("j".to_owned(), Verdict::Stuck(5))];
        for done in 0..5 {
            // `k` waits for its turn all the while.
            let seen = watch.judge(look(&["a", "b"], &[("i", job(0, &[(done, "b")], done)), ("j", job(0, &[(7, "a")], 0)), ("k", job(4, &[], 0))]));
            assert_eq!(seen, [Deed::Offer], "{done}");
        }
        let seen = watch.judge(look(&["a", "b"], &[("i", job(0, &[(9, "b")], 9)), ("j", job(0, &[(7, "a")], 0)), ("k", job(4, &[], 0))]));
        assert_eq!(seen, [&stuck[..], &[Deed::Offer]].concat());
    }

    #[test]
    fn parts_that_are_begun_for_ever_and_never_done_end_their_job() {
        let mut watch = Watch::new(PATIENCE);
        for number in 0..5 {
            assert_eq!(watch.judge(look(&["a"], &[("j", job(3, &[(number, "a")], 1))])), [Deed::Offer], "{number}");
        }
        let seen = watch.judge(look(&["a"], &[("j", job(3, &[(8, "a")], 1))]));
        assert_eq!(seen, [Deed::Fail("j".to_owned(), Verdict::Stuck(5)), Deed::Offer]);
    }

    #[test]
    fn what_failed_is_let_go_of_and_swept() {
        let mut watch = Watch::new(PATIENCE);
        let failed = || look(&["a"], &[("j", Job { failed: true, ..job(1, &[(1, "gone")], 0) })]);
        let deeds: Vec<_> = (0..2 * FORGOTTEN_AFTER).flat_map(|_| watch.judge(failed())).collect();
        assert_eq!(deeds, [Deed::Forget("j".to_owned())]);
        let ended = Look { ended: vec!["j".to_owned()], ..look(&["a"], &[]) };
        let first = watch.judge(ended);
        let swept: Vec<_> = (1..2 * SWEEPS).flat_map(|_| watch.judge(look(&["a"], &[]))).chain(first).collect();
        assert_eq!(swept, vec![Deed::Sweep("j".to_owned()); SWEEPS as usize]);
    }

    #[test]
    fn a_verdict_survives_its_way() {
        for verdict in [Verdict::Nobody(60), Verdict::Stuck(0)] {
            assert_eq!(Verdict::of(&verdict.to_string()), Some(verdict));
        }
        assert_eq!(Verdict::of("no executor for x s"), None);
        assert_eq!(Verdict::of("task failed: no part done for 3 s"), None);
    }
}

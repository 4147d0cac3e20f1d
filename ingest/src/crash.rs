//! Named crash points: the instants at which a process may die between two steps that are not one.
//!
//! Production reaches them with [`NoCrash`], which does nothing. Tests inject one that kills the process, and start it again.

use std::fmt;

/// An instant between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrashPoint {
    /// The push is durable in the log and not yet acknowledged.
    Appended,
    /// Rows are judged and not yet online.
    Judged,
    /// Rows are online, perhaps not durably, and in no commit.
    Online,
    /// Rows are durable online and in no commit.
    OnlineSynced,
    /// The commit is made, and nobody was told.
    Committed,
    /// The generations answer for the commit; the log still has its rows.
    Advanced,
    /// The log is cut.
    Truncated,
    /// The source of a load has its id, and no row is committed.
    SourceGiven,
    /// Rows of a load are committed and not yet online.
    LoadCommitted,
    /// Rows of added files are online and their generations do not yet answer for them.
    FilesPublished,
    /// Another generation is recorded, and no writer knows of it.
    GenerationRecorded,
    /// The other generation is settled: it goes on after a crash.
    GenerationSettled,
    /// A part of a fill is durable and noted.
    FillMarked,
    /// Another generation answers, and the one before is not dropped.
    GenerationSwitched,
    /// The pipeline rests for an apply or a merge.
    Paused,
    /// Definitions are applied, and the pipeline rests still.
    Applied,
    /// A branch is merged, and the pipeline rests still.
    Merged,
}

impl CrashPoint {
    /// Every point.
    pub const ALL: [Self; 17] = [
        Self::Appended,
        Self::Judged,
        Self::Online,
        Self::OnlineSynced,
        Self::Committed,
        Self::Advanced,
        Self::Truncated,
        Self::SourceGiven,
        Self::LoadCommitted,
        Self::FilesPublished,
        Self::GenerationRecorded,
        Self::GenerationSettled,
        Self::FillMarked,
        Self::GenerationSwitched,
        Self::Paused,
        Self::Applied,
        Self::Merged,
    ];
}

/// What happens at crash points.
pub trait CrashPoints: Send + Sync + fmt::Debug + 'static {
    /// A point is reached.
    fn reach(&self, point: CrashPoint);
}

/// Nothing happens.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCrash;

impl CrashPoints for NoCrash {
    fn reach(&self, _: CrashPoint) {}
}

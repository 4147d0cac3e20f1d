//! Moving what is online to another store, without a pause.
//!
//! 1. From now on every row is written to both stores. Writers that began before are waited for.
//! 2. Every generation that answers lookups is copied, and compared; what differs is copied again.
//! 3. With publishers and writers kept away, what differed is looked at once more. Where all is the same, the other store's generations answer for the same
//!    commits, and it is served.
//!
//! A writer holds its rows under the incarnation of the store of before, finds another one when it commits, and writes them again, which changes nothing. A crash
//! before (3) leaves all as it was. After it, a server that is started with the settings of before finds the old store at the commits that it answered for
//! then, and brings it up to the head before it serves it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::{EntityKey, Generation};
use anabranch_online_store::{MovingStore, OnlineStore};

use super::{Line, Publisher, Served, online};
use crate::{Error, Result};

/// Tries before it is said that generations change all the time.
const TRIES: usize = 5;

/// What came of a move.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// Rows copied.
    pub copied: u64,
    /// Rows that were compared and differed at first, because they were written meanwhile.
    pub again: u64,
    /// Whether the other store is served now.
    pub moved: bool,
}

impl Publisher {
    /// Moves to the other store; or, without `cut_over`, does all but that.
    pub(crate) async fn move_online(&self, moving: &MovingStore, cut_over: bool) -> Result<Moved> {
        let mut report = Moved::default();
        moving.follow();
        drop(self.gate.write().await);
        for _ in 0..TRIES {
            let mut suspects = BTreeMap::new();
            for generation in self.answering()? {
                report.copied += moving.copy(generation).await.map_err(online)?;
                let differing = moving.differing(generation).await.map_err(online)?;
                report.again += differing.len() as u64;
                moving.copy_keys(generation, &differing).await.map_err(online)?;
                suspects.insert(generation, differing);
            }
            if self.meet(moving, &suspects, cut_over).await? {
                report.moved = cut_over;
                return Ok(report);
            }
        }
        Err(Error::invalid("move", "what is served changes all the time: try again when no rebuild is under way"))
    }

    /// The generations that answer lookups.
    fn answering(&self) -> Result<Vec<Generation>> {
        let mut generations = Vec::new();
        for line in self.lines() {
            let served = line.served().ok_or(Error::Refilling)?;
            generations.extend(served.views.values().map(|view| view.generation));
        }
        generations.sort_unstable();
        Ok(generations)
    }

    /// Looks at what differed once more with everybody kept away, and cuts over; false where other generations answer by now.
    async fn meet(&self, moving: &MovingStore, suspects: &BTreeMap<Generation, Vec<EntityKey>>, cut_over: bool) -> Result<bool> {
        let mut lines = self.lines();
        // Always in one order, lest two moves wait for each other.
        lines.sort_by_key(|line| line.branch);
        let mut turns = Vec::new();
        for line in &lines {
            turns.push(line.turn.lock().await);
        }
        let _gate = self.gate.write().await;
        if !self.answering()?.iter().eq(suspects.keys()) {
            return Ok(false);
        }
        moving.sync().await.map_err(online)?;
        let mut differing = 0;
        for (generation, keys) in suspects {
            differing += moving.copy_keys(*generation, keys).await.map_err(online)?;
        }
        moving.other().sync().await.map_err(online)?;
        if differing > 0 {
            let reason = format!("{differing} entities are not the same in both stores, because the other one holds later rows: empty it first");
            return Err(Error::invalid("move", reason));
        }
        if !moving.is_following() {
            return Err(moving.fell_behind().map_or_else(|| Error::invalid("move", "the other store fell behind: try again"), online));
        }
        if cut_over {
            self.cut_over(moving, &lines).await?;
        }
        Ok(true)
    }

    async fn cut_over(&self, moving: &MovingStore, lines: &[Arc<Line>]) -> Result<()> {
        let incarnation = moving.other().incarnation().await.map_err(online)?;
        let mut all = Vec::new();
        for line in lines {
            let served = line.served().ok_or(Error::Refilling)?;
            for view in served.views.values() {
                moving.other().advance(view.generation, served.commit.as_bytes(), incarnation).await.map_err(online)?;
            }
            all.push(served);
        }
        moving.other().sync().await.map_err(online)?;
        moving.swap();
        for (line, served) in lines.iter().zip(all) {
            line.set_served(Served { incarnation, ..served });
        }
        Ok(())
    }
}

//! What a join and its spine may use of an engine's memory and disk.
//!
//! A spine stays in memory while it takes less than its share of the limit and the pool has that; then it goes to disk as it comes. A join reserves what it will hold before it reads anything: all that it needs at once where the pool has it, else half of that, and so on down to the
//! least that it can be done with; then it is done in parts whose rows are spilled. The reservation goes with the answer.

use std::any::Any;
use std::io;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;

use super::Engine;
use crate::dataset::statistics::KeyRoom;
use crate::join::{Divided, JoinLimits, JoinPlan, Joined, Reserve, SpillFiles, Spool, SpoolLimits, ViewRows, join_within};
use crate::{Error, Result};

impl Engine {
    /// Takes the rows of a spine as they come, at most so many bytes: in memory as far as the engine has room for them, then on disk.
    pub fn spool(&self, schema: SchemaRef, total_bytes: u64) -> Spool {
        spool(&self.runtime, schema, total_bytes)
    }
}

impl Engine {
    /// How many of so many rows a refresh may look at together, with what gives their memory back when it is dropped.
    pub fn rows_at_once(&self, rows: usize) -> (usize, Arc<dyn Any + Send + Sync>) {
        self.at_once("refresh", rows, LOOKED_AT_BYTES)
    }

    /// Room for the keys of a column of so many rows, with what gives the memory back when it is dropped.
    pub fn key_room(&self, rows: usize) -> (KeyRoom, Arc<dyn Any + Send + Sync>) {
        let (keys, held) = self.at_once("statistics", rows, size_of::<u64>());
        (KeyRoom { keys, files: files(&self.runtime) }, held)
    }

    /// As many things of so many bytes as there is memory for.
    fn at_once(&self, consumer: &str, things: usize, bytes: usize) -> (usize, Arc<dyn Any + Send + Sync>) {
        let reservation = MemoryConsumer::new(consumer).register(&self.runtime.memory_pool);
        let mut at_once = things.max(LEAST_AT_ONCE);
        // The least is not asked for: it is little.
        while at_once > LEAST_AT_ONCE && reservation.try_grow(at_once.saturating_mul(bytes)).is_err() {
            at_once = (at_once / 2).max(LEAST_AT_ONCE);
        }
        (at_once, Arc::new(reservation))
    }
}

/// About what a refresh holds of a row whose changes it looks for: its key, its time and its place.
const LOOKED_AT_BYTES: usize = 128;

/// The fewest rows that are looked at together.
const LEAST_AT_ONCE: usize = 1 << 16;

/// As [`Engine::spool`].
pub(super) fn spool(runtime: &Arc<RuntimeEnv>, schema: SchemaRef, total_bytes: u64) -> Spool {
    let (memory_bytes, reserve) = room(runtime);
    Spool::new(schema, SpoolLimits { memory_bytes, total_bytes, reserve: Some(reserve), files: files(runtime) })
}

/// How much memory rows that are put aside may take, and how it is had.
pub(super) fn room(runtime: &RuntimeEnv) -> (usize, Reserve) {
    let share = match runtime.memory_pool.memory_limit() {
        MemoryLimit::Finite(bytes) => JoinLimits::spine_share(bytes),
        MemoryLimit::Infinite | MemoryLimit::Unknown => usize::MAX,
    };
    let reservation = MemoryConsumer::new("rows put aside").register(&runtime.memory_pool);
    (share, Box::new(move |bytes| reservation.try_grow(bytes).is_ok()))
}

/// Files without names in the engine's folder.
fn files(runtime: &RuntimeEnv) -> SpillFiles {
    let disk = Arc::clone(&runtime.disk_manager);
    // A file loses its name at once, and lives as long as its handle.
    Arc::new(move || disk.create_tmp_file("a point-in-time join").map_err(io::Error::other)?.inner().reopen())
}

/// Does a join with what the pool has left.
///
/// # Errors
/// As [`join_within`]; [`Error::Limit`] where the pool has not even the least that the join can be done with.
pub(super) async fn join_in(runtime: &Arc<RuntimeEnv>, plan: Arc<JoinPlan>, rows: Arc<dyn ViewRows>) -> Result<Joined> {
    let (reservation, memory_bytes) = reserve(runtime, &plan)?;
    let mut joined = join_within(plan, rows, &JoinLimits { memory_bytes, part_rows: usize::MAX, spill: files(runtime) }).await?;
    joined.rows = joined.rows.holding(Arc::new(reservation));
    Ok(joined)
}

/// Divides a join into so many parts, or more where the pool has too little for one; the reservation is for as long as parts are taken.
///
/// # Errors
/// As [`Divided::new`], and as [`join_in`].
pub(super) async fn divide(runtime: &Arc<RuntimeEnv>, plan: &Arc<JoinPlan>, parts: usize) -> Result<(Divided, MemoryReservation)> {
    let (reservation, memory_bytes) = reserve(runtime, plan)?;
    let limits = JoinLimits { memory_bytes, part_rows: usize::MAX, spill: files(runtime) };
    Ok((Divided::new(Arc::clone(plan), parts, &limits).await?, reservation))
}

/// Reserves what a join may use beside what its spine has; gives all of it.
fn reserve(runtime: &RuntimeEnv, plan: &JoinPlan) -> Result<(MemoryReservation, usize)> {
    let reservation = MemoryConsumer::new("point-in-time join").register(&runtime.memory_pool);
    let (least, of_spine) = (plan.least_memory_bytes(), plan.spine().put_aside().reserved_bytes());
    let mut wanted = plan.memory_bytes().max(least);
    loop {
        match reservation.try_grow(wanted.saturating_sub(of_spine)) {
            Ok(()) => return Ok((reservation, wanted)),
            Err(_) if wanted > least => wanted = (wanted / 2).max(least),
            Err(_) => {
                let rows = plan.spine().rows();
                let reason =
                    format!("a join of {rows} spine rows needs at least {least} bytes of memory, and fewer are free; raise engine.memory_bytes");
                return Err(Error::Limit { reason });
            }
        }
    }
}

//! What a join may use of an engine's memory and disk.
//!
//! A join reserves what it will hold before it reads anything: all that it needs at once where the pool has it, else half of that, and so on down to the
//! least that it can be done with; then it is done in parts whose rows are spilled. The reservation goes with the answer.

use std::io;
use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;

use crate::join::{JoinLimits, JoinPlan, Joined, ViewRows, join_within};
use crate::{Error, Result};

/// Does a join with what the pool has left.
///
/// # Errors
/// As [`join_within`]; [`Error::Limit`] where the pool has not even the least that the join can be done with.
pub(super) async fn join_in(runtime: &Arc<RuntimeEnv>, plan: Arc<JoinPlan>, rows: Arc<dyn ViewRows>) -> Result<Joined> {
    let (reservation, memory_bytes) = reserve(runtime, &plan)?;
    let disk = Arc::clone(&runtime.disk_manager);
    // The file loses its name at once, and lives as long as its handle.
    let spill = move || disk.create_tmp_file("a point-in-time join").map_err(io::Error::other)?.inner().reopen();
    let mut joined = join_within(plan, rows, &JoinLimits { memory_bytes, part_rows: usize::MAX, spill: Arc::new(spill) }).await?;
    joined.rows = joined.rows.holding(Arc::new(reservation));
    Ok(joined)
}

fn reserve(runtime: &RuntimeEnv, plan: &JoinPlan) -> Result<(MemoryReservation, usize)> {
    let reservation = MemoryConsumer::new("point-in-time join").register(&runtime.memory_pool);
    let least = plan.least_memory_bytes();
    let mut wanted = plan.memory_bytes().max(least);
    loop {
        match reservation.try_grow(wanted) {
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

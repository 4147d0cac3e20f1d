//! Work that takes long, off the async runtime, and no more of it at a time than there are cores.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::JoinError;

/// The cores that one join uses.
#[derive(Debug, Clone)]
pub(super) struct Cores(Arc<Semaphore>);

impl Cores {
    pub(super) fn all() -> Self {
        Self(Arc::new(Semaphore::new(Self::count())))
    }

    pub(super) fn count() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Waits for a core and does the work there. Work that has begun is done to its end, also where nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        // The semaphore is never closed, so a permit always comes.
        let permit = Arc::clone(&self.0).acquire_owned().await.ok();
        let done = spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        Ok(done.await?)
    }
}

//! Work that takes long, off the async runtime, and no more of it at a time than there are cores.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};

use super::JoinError;

/// The cores that one join uses, and how many columns it gathers at a time.
#[derive(Debug, Clone)]
pub(super) struct Cores {
    cores: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Cores {
    pub(super) fn all() -> Self {
        // One more column than cores: its next part is fetched while theirs are decoded.
        Self { cores: Arc::new(Semaphore::new(Self::count())), turns: Arc::new(Semaphore::new(Self::count() + 1)) }
    }

    pub(super) fn count() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Waits for a turn, which ends with what is given.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }

    /// Waits for a core and does the work there. Work that has begun is done to its end, also where nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        // The semaphore is never closed, so a permit always comes.
        let permit = Arc::clone(&self.cores).acquire_owned().await.ok();
        let done = spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        Ok(done.await?)
    }
}

/// Work that goes on while nobody polls for it, so that a core it was given is never held idle; it ends with whoever waits for it.
#[derive(Debug)]
pub(super) struct Ahead<T>(JoinHandle<Result<T, JoinError>>);

impl<T: Send + 'static> Ahead<T> {
    pub(super) fn start(work: impl Future<Output = Result<T, JoinError>> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl<T> Future for Ahead<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|done| done?)
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

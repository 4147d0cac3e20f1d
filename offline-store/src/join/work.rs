//! Work that takes long: off the async runtime, on as many threads as there are cores, which all joins of the process share.
//!
//! The threads are few and stay, so that what one frees it uses again: memory that wanders between many threads is cleared by the system again and again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;

use super::JoinError;

type Job = Box<dyn FnOnce() + Send>;

/// Where jobs wait for a thread; the threads are started with the first.
static JOBS: LazyLock<Sender<Job>> = LazyLock::new(|| {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for number in 0..Cores::count() {
        let receiver = Arc::clone(&receiver);
        // With one fewer it is slower; with none, every job is refused for want of a receiver.
        let _ = std::thread::Builder::new().name(format!("join-{number}")).spawn(move || work(&receiver));
    }
    sender
});

/// Does one job after the other; one that panics leaves the thread to the next.
fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // What the job promised is dropped unsent, which is what its caller is told.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

/// The cores of this machine, and how many views and columns one join has under way.
#[derive(Debug, Clone)]
pub(super) struct Cores {
    views: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Cores {
    pub(super) fn all() -> Self {
        // More columns than cores: the next part of one is fetched while others are decoded.
        Self { views: Arc::new(Semaphore::new(Self::views_at_once())), turns: Arc::new(Semaphore::new(Self::count() + 2)) }
    }

    /// How many views are matched or gathered at a time: as one is gathered, others are matched.
    pub(super) fn views_at_once() -> usize {
        Self::count() + 2
    }

    /// Waits until another view may begin, which ends with what is given.
    pub(super) async fn view(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.views).acquire_owned().await.ok()
    }

    pub(super) fn count() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Waits for a turn, which ends with what is given.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }

    /// Waits for a core and does the work there. Work that has begun is done to its end, also where nobody waits for it any more; work that has not is left.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        let (answer, answered) = oneshot::channel();
        let job = move || {
            if !answer.is_closed() {
                let _ = answer.send(work());
            }
        };
        JOBS.send(Box::new(job)).map_err(|_| JoinError::NoThread)?;
        answered.await.map_err(|_| JoinError::NoThread)
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

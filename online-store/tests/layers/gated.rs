//! A store whose calls stand still before and behind what they do, so that a test says in which order things happen.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use anabranch_core::{Generation, RandomIds};
use async_trait::async_trait;
use bytes::Bytes;

use anabranch_online_store::{Cursor, Error, Incarnation, MemoryOnlineStore, OnlineStore, Page, ReadGroup, Result, Write};

/// The memory store, with a pause before and behind each read and write.
#[derive(Debug)]
pub(crate) struct Gated {
    pub(crate) medium: Arc<MemoryOnlineStore>,
    pub(crate) reads: AtomicUsize,
    /// Whether calls fail behind what they did.
    pub(crate) fails: AtomicBool,
}

impl Gated {
    pub(crate) fn new() -> Arc<Self> {
        let medium = Arc::new(MemoryOnlineStore::new(&RandomIds::seeded(1)));
        Arc::new(Self { medium, reads: AtomicUsize::new(0), fails: AtomicBool::new(false) })
    }

    fn outcome<T>(&self, done: T) -> Result<T> {
        if self.fails.load(Ordering::Relaxed) { Err(Error::Timeout { doing: "stand still", limit_ms: 0 }) } else { Ok(done) }
    }
}

/// A call that is polled by hand.
pub(crate) struct Stepped<'a, T>(Pin<Box<dyn Future<Output = T> + 'a>>);

impl<'a, T> Stepped<'a, T> {
    pub(crate) fn new(call: impl Future<Output = T> + 'a) -> Self {
        Self(Box::pin(call))
    }

    /// Goes on to the next pause; the outcome where there is none.
    pub(crate) fn step(&mut self) -> Option<T> {
        match self.0.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    /// Goes on to its end, which no other call may hold up.
    pub(crate) fn finish(mut self) -> T {
        (0..100).find_map(|_| self.step()).unwrap_or_else(|| panic!("the call waits for another"))
    }
}

/// Is not ready when it is polled first.
struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[async_trait]
impl OnlineStore for Gated {
    async fn write(&self, rows: &[Write]) -> Result<()> {
        Pause(false).await;
        self.medium.write(rows).await?;
        Pause(false).await;
        self.outcome(())
    }

    async fn read(&self, groups: &[ReadGroup<'_>]) -> Result<Vec<Option<Bytes>>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Pause(false).await;
        let rows = self.medium.read(groups).await?;
        Pause(false).await;
        self.outcome(rows)
    }

    async fn sync(&self) -> Result<()> {
        self.medium.sync().await
    }

    async fn published_to(&self, generation: Generation) -> Result<Option<Bytes>> {
        self.medium.published_to(generation).await
    }

    async fn advance(&self, generation: Generation, commit: &[u8], incarnation: Incarnation) -> Result<()> {
        self.medium.advance(generation, commit, incarnation).await
    }

    async fn incarnation(&self) -> Result<Incarnation> {
        self.medium.incarnation().await
    }

    async fn drop_generation(&self, generation: Generation) -> Result<()> {
        Pause(false).await;
        self.medium.drop_generation(generation).await?;
        Pause(false).await;
        self.outcome(())
    }

    async fn scan(&self, generation: Generation, after: Option<&Cursor>, limit: usize) -> Result<Page> {
        self.medium.scan(generation, after, limit).await
    }
}

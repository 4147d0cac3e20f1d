//! A branch that is served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use anabranch_core::BranchId;
use anabranch_online_store::OnlineStore;
use tokio::sync::{Mutex, Notify};

use super::Served;
use super::fill::Fills;
use super::kept::{KeptStore, Retired, ServedIncarnation};

/// What is known of a branch that is served.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) branch: BranchId,
    /// What the branch was called last.
    name: RwLock<String>,
    /// Held by whoever publishes: one at a time advances.
    pub(super) turn: Mutex<()>,
    served: RwLock<Option<Served>>,
    incarnation: ServedIncarnation,
    pub(super) store: Arc<dyn OnlineStore>,
    pub(super) fills: Fills,
    /// The head went on in another way than by a commit of the pipeline.
    behind: Notify,
    /// Writers write online, and what they wrote before they did is committed.
    heard: AtomicBool,
}

impl Line {
    pub(super) fn new(branch: BranchId, name: String, online: &Arc<dyn OnlineStore>, retired: &Arc<Retired>, heard: bool) -> Self {
        let incarnation = ServedIncarnation::default();
        let store = KeptStore { online: Arc::clone(online), served: Arc::clone(&incarnation), retired: Arc::clone(retired) };
        Self {
            branch,
            name: RwLock::new(name),
            turn: Mutex::new(()),
            served: RwLock::new(None),
            incarnation,
            store: Arc::new(store),
            fills: Fills::default(),
            behind: Notify::new(),
            heard: AtomicBool::new(heard),
        }
    }

    pub(crate) fn name(&self) -> String {
        self.name.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn rename(&self, name: &str) {
        name.clone_into(&mut self.name.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// What is served; `None` until everything committed was published once.
    pub(crate) fn served(&self) -> Option<Served> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_served(&self, served: Served) {
        if self.is_ended() {
            return;
        }
        *self.incarnation.write().unwrap_or_else(PoisonError::into_inner) = Some(served.incarnation);
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = Some(served);
    }

    /// Has whoever looks after the branch publish.
    pub(crate) fn fall_behind(&self) {
        self.behind.notify_one();
    }

    /// Waits until there is something to publish that nobody else publishes.
    pub(crate) async fn behind(&self) {
        self.behind.notified().await;
    }

    /// Nothing is served any more, and who fills gives up.
    pub(super) fn end(&self) {
        self.fills.end_all();
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether the branch is served no longer.
    pub(crate) fn is_ended(&self) -> bool {
        self.fills.is_ended()
    }

    pub(super) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }

    pub(super) fn set_heard(&self) {
        self.heard.store(true, Ordering::Release);
    }
}

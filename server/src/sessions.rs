//! The users of a private server: each holds a session open, and the server ends with the last.
//!
//! ```text
//! waiting for the first user --none within startup_grace--> end
//!        | one comes
//!        v
//!       in use --the last goes--> idle --none within idle_after--> end
//!          ^                        | one comes
//!          +------------------------+
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::PrivateConfig;

/// Counts the sessions that are open.
#[derive(Debug, Clone)]
pub(crate) struct Sessions(Arc<watch::Sender<usize>>);

/// One open session; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Session(Arc<watch::Sender<usize>>);

impl Default for Sessions {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Sessions {
    /// Opens a session.
    pub(crate) fn open(&self) -> Session {
        self.0.send_modify(|count| *count += 1);
        Session(Arc::clone(&self.0))
    }

    /// How many are open.
    #[cfg(test)]
    fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Returns once a private server has no more users.
    pub(crate) async fn until_unused(&self, config: &PrivateConfig) {
        let mut count = self.0.subscribe();
        let mut patience = config.startup_grace;
        loop {
            let patient = Duration::from_micros(u64::try_from(patience.micros()).unwrap_or_default());
            if tokio::time::timeout(patient, count.wait_for(|count| *count > 0)).await.is_err() {
                return;
            }
            // The sender lives as long as `self`, so waiting cannot fail.
            let _ = count.wait_for(|count| *count == 0).await;
            patience = config.idle_after;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::Span;

    use super::*;

    const CONFIG: PrivateConfig = PrivateConfig { enabled: true, idle_after: Span::seconds(2), startup_grace: Span::seconds(30) };

    async fn ended_after(sessions: &Sessions) -> Duration {
        let start = tokio::time::Instant::now();
        sessions.until_unused(&CONFIG).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_server_ends_after_the_grace() {
        assert_eq!(ended_after(&Sessions::default()).await.as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_ends_shortly_after_its_last_user_and_outlives_a_change_of_users() {
        let sessions = Sessions::default();
        let (first, second) = (sessions.open(), sessions.open());
        let users = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(first);
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(second);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let third = sessions.open();
            tokio::time::sleep(Duration::from_secs(99)).await;
            drop(third);
        };
        let (ended, ()) = tokio::join!(ended_after(&sessions), users);
        assert_eq!(ended.as_secs(), 302);
        assert_eq!(sessions.count(), 0);
    }
}

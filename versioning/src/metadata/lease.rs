//! Leases: which of several servers may work on something, as the metadata database sees it.
//!
//! ```text
//!                 take                     renew: beat + 1
//!   free ────────────────────────▶ held by A ◀──────┐
//!    ▲   token + 1, beat 0            │  └──────────┘
//!    │                                │  B takes: B joins those waiting, nothing else
//!    │ A releases, nobody waits       ├──────────────▶ held by B, token + 1, beat 0     A releases while B waits first
//!    └────────────────────────────────┴──────────────▶ held by B, token + 1, beat 0     B saw (token, beat) unmoved for too long
//! ```
//!
//! No clock is read here. A holder shows that it lives by moving the beat; who waits watches `(token, beat)` with its own monotonic clock, and takes the
//! lease over by naming the pair that did not move. A pair that has moved meanwhile is refused, so a living holder loses nothing to a slow observer.
//! The token grows with every change of hands and is never reused: a [`Fence`] made of it lets a database refuse the holder of yesterday. A holder's name
//! belongs to one instance of one server and is not used again.

/// A lease as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseState {
    /// Grows each time the lease changes hands.
    pub token: u64,
    /// Grows while the holder lives; begins at 0 with each token.
    pub beat: u64,
    /// Who holds it; `None` where it is free.
    pub holder: Option<String>,
    /// Who wants it, in the order in which they came.
    pub waiting: Vec<String>,
}

/// What a publication must still hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The lease.
    pub lease: String,
    /// The token under which it was taken.
    pub token: u64,
}

impl LeaseState {
    /// Whether it is this instance's.
    pub fn is_held_by(&self, holder: &str) -> bool {
        self.holder.as_deref() == Some(holder)
    }

    /// Takes the lease if it is free or its holder was seen not to move from `dead`; otherwise joins those waiting.
    pub(crate) fn take(&mut self, holder: &str, dead: Option<(u64, u64)>) {
        if self.is_held_by(holder) {
            return;
        }
        if self.holder.is_none() || dead == Some((self.token, self.beat)) {
            self.pass_to(Some(holder.to_owned()));
        } else if !self.waiting.iter().any(|waiting| waiting == holder) {
            self.waiting.push(holder.to_owned());
        }
    }

    /// Hands the lease to who waits first, or leaves off waiting for it.
    pub(crate) fn release(&mut self, holder: &str) {
        self.waiting.retain(|waiting| waiting != holder);
        if self.is_held_by(holder) {
            let next = self.waiting.first().cloned();
            self.pass_to(next);
        }
    }

    /// Moves the beat, if the token is still the holder's.
    pub(crate) fn renew(&mut self, token: u64) -> bool {
        let current = self.token == token && self.holder.is_some();
        if current {
            self.beat += 1;
        }
        current
    }

    fn pass_to(&mut self, holder: Option<String>) {
        self.waiting.retain(|waiting| Some(waiting) != holder.as_ref());
        self.token += 1;
        self.beat = 0;
        self.holder = holder;
    }
}

/// Those waiting are kept a line each.
pub(super) fn check_holder(holder: &str) -> crate::Result<()> {
    match holder.is_empty() || holder.contains(char::is_control) {
        true => Err(crate::Error::invalid("lease", "the name of its holder is empty or has control characters")),
        false => Ok(()),
    }
}

/// The lease under which a branch is committed to.
pub(crate) fn branch_lease(branch: anabranch_core::BranchId) -> String {
    format!("branch/{branch}")
}

//! What is served online: branches, rebuilds and audits.

use anabranch_proto::v1;
use serde::Serialize;

use crate::client::{Retry, unary};
use crate::{Client, Error};

/// A branch that is served online.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServedBranch {
    /// Its name.
    pub branch: String,
    /// The commit that its views answer for; none as long as it is filled for the first time, or again after a loss.
    pub commit: Option<String>,
    /// Its views.
    pub views: Vec<ServedView>,
    /// Whether a fill is under way, or asked for.
    pub filling: bool,
}

/// A view that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServedView {
    /// Its name.
    pub view: String,
    /// The generation that answers; none as long as none does.
    pub generation: Option<u64>,
    /// The fill under way.
    pub fill: Option<FillProgress>,
}

/// How far a fill is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FillProgress {
    /// Rows of history that are done.
    pub rows_done: u64,
    /// Rows of history.
    pub rows: u64,
    /// At most so many a second; none for as fast as it goes.
    pub rows_per_second: Option<u64>,
}

/// What came of comparing what is online of a view with its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ViewAudit {
    /// The view.
    pub view: String,
    /// The commit that it was compared with.
    pub commit: String,
    /// Entities that history or the online store has.
    pub entities: u64,
    /// Entities whose row online was pushed and is in no commit yet.
    pub pending: u64,
    /// Entities that the online store lacks.
    pub missing: u64,
    /// Entities of which it has an older row.
    pub behind: u64,
    /// Entities of which it has a row that history does not have.
    pub unexplained: u64,
    /// Entities of which it has other values.
    pub different: u64,
    /// Rows that were written to mend it.
    pub repaired: u64,
    /// Whether the view is being rebuilt because rows could not be mended.
    pub rebuilding: bool,
    /// Some of the keys that differ, each with how.
    pub examples: Vec<String>,
}

/// What came of moving what is online to another store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OnlineMove {
    /// Rows copied.
    pub copied: u64,
    /// Rows that differed at first, because they were written meanwhile.
    pub again: u64,
    /// Whether the other store is served now.
    pub moved: bool,
}

impl ViewAudit {
    /// Entities that differ.
    pub const fn differing(&self) -> u64 {
        self.missing + self.behind + self.unexplained + self.different
    }
}

impl Client {
    /// How branches are served online, by name.
    ///
    /// # Errors
    /// `unavailable` where the server cannot be reached.
    pub async fn served_branches(&self) -> Result<Vec<ServedBranch>, Error> {
        let request = v1::ListServedRequest { repository: self.repository_name() };
        let reply = unary!(self, online.list_served(request), Retry::Safe).await?;
        Ok(reply.branches.into_iter().map(served).collect())
    }

    /// Serves a branch online from now on; the branch empty for the client's ref. It answers once it is filled, which [`Client::served_branches`] tells.
    ///
    /// # Errors
    /// `not_found` where there is no such branch.
    pub async fn serve_branch(&self, branch: &str) -> Result<ServedBranch, Error> {
        let request = v1::ServeBranchRequest { target: Some(self.target_of(branch)) };
        Ok(served(unary!(self, online.serve_branch(request), Retry::Safe).await?))
    }

    /// Serves a branch no longer, and frees what it has online.
    ///
    /// # Errors
    /// `failed_precondition` where it is not served, `invalid_argument` for `main`.
    pub async fn unserve_branch(&self, branch: &str) -> Result<(), Error> {
        let request = v1::UnserveBranchRequest { target: Some(self.target_of(branch)) };
        unary!(self, online.unserve_branch(request), Retry::Never).await?;
        Ok(())
    }

    /// Begins to rebuild what is online of views of a branch from its history, all of them where none is named, at most so many rows a second. Lookups are
    /// answered meanwhile; [`Client::served_branches`] tells how far it is.
    ///
    /// # Errors
    /// `failed_precondition` where the branch is not served, `invalid_argument` for a view that is not.
    pub async fn rebuild_online(&self, branch: &str, views: &[String], rows_per_second: Option<u64>) -> Result<ServedBranch, Error> {
        let (target, rows_per_second) = (Some(self.target_of(branch)), rows_per_second.unwrap_or(0));
        let request = v1::RebuildOnlineRequest { target, views: views.to_vec(), rows_per_second };
        Ok(served(unary!(self, online.rebuild_online(request), Retry::Safe).await?))
    }

    /// Compares what is online of views of a branch with its history, all of them where none is named, and mends it with `repair`. It takes as long as it
    /// takes.
    ///
    /// # Errors
    /// As [`Client::rebuild_online`].
    pub async fn audit(&self, branch: &str, views: &[String], repair: bool) -> Result<Vec<ViewAudit>, Error> {
        let request = v1::AuditRequest { target: Some(self.target_of(branch)), views: views.to_vec(), repair };
        let reply = self.online().audit(request).await.map_err(|status| self.error(&status))?;
        Ok(reply.into_inner().views.into_iter().map(audited).collect())
    }

    /// Moves what is online of every branch to the store that the server's settings name as the next one, without a pause; with `compare` it copies and
    /// compares only. It takes as long as it takes.
    ///
    /// # Errors
    /// `failed_precondition` where no next store is named, or it has moved already; `invalid_argument` where the next store holds rows that are not served.
    pub async fn move_online(&self, compare: bool) -> Result<OnlineMove, Error> {
        let request = v1::MoveOnlineRequest { repository: self.repository_name(), compare };
        let reply = self.online().move_online(request).await.map_err(|status| self.error(&status))?;
        let v1::MoveOnlineReply { copied, again, moved } = reply.into_inner();
        Ok(OnlineMove { copied, again, moved })
    }

    fn target_of(&self, branch: &str) -> v1::Target {
        v1::Target { repository: self.repository_name(), r#ref: self.or_own_ref(branch) }
    }
}

fn served(branch: v1::ServedBranch) -> ServedBranch {
    let fill = |fill: v1::FillProgress| FillProgress {
        rows_done: fill.rows_done,
        rows: fill.rows,
        rows_per_second: (fill.rows_per_second > 0).then_some(fill.rows_per_second),
    };
    let view = |view: v1::ServedView| ServedView {
        view: view.view,
        generation: (view.generation > 0).then_some(view.generation),
        fill: view.fill.map(fill),
    };
    let v1::ServedBranch { branch, commit, views, filling } = branch;
    ServedBranch { branch, commit: (!commit.is_empty()).then_some(commit), views: views.into_iter().map(view).collect(), filling }
}

fn audited(audit: v1::ViewAudit) -> ViewAudit {
    let v1::ViewAudit { view, commit, entities, pending, missing, behind, unexplained, different, repaired, rebuilding, examples } = audit;
    ViewAudit { view, commit, entities, pending, missing, behind, unexplained, different, repaired, rebuilding, examples }
}

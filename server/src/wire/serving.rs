//! What is served online.

use anabranch_ingest::{FillProgress, ServedBranch, ServedViewStatus, ViewAudit};
use anabranch_proto::v1;
use serde_json::{Value as Json, json};

pub(crate) fn served(branch: ServedBranch) -> v1::ServedBranch {
    let commit = branch.commit.map(|commit| commit.to_string()).unwrap_or_default();
    v1::ServedBranch { branch: branch.branch, commit, views: branch.views.into_iter().map(view).collect(), filling: branch.filling }
}

fn view(view: ServedViewStatus) -> v1::ServedView {
    let fill = |FillProgress { generation, rows_done, rows, rows_per_second, .. }| v1::FillProgress {
        generation: generation.0,
        rows_done,
        rows,
        rows_per_second: rows_per_second.unwrap_or(0),
    };
    v1::ServedView { view: view.view, generation: view.generation.map_or(0, |generation| generation.0), fill: view.fill.map(fill) }
}

pub(crate) fn served_json(served_branch: ServedBranch) -> Json {
    let v1::ServedBranch { branch, commit, views, filling } = served(served_branch);
    let fill = |fill: v1::FillProgress| json!({"rows_done": fill.rows_done, "rows": fill.rows, "rows_per_second": fill.rows_per_second});
    let view = |view: v1::ServedView| json!({"view": view.view, "generation": view.generation, "fill": view.fill.map(fill)});
    json!({"branch": branch, "commit": commit, "views": views.into_iter().map(view).collect::<Vec<_>>(), "filling": filling})
}

pub(crate) fn audited(audit: ViewAudit) -> v1::ViewAudit {
    v1::ViewAudit {
        view: audit.view,
        commit: audit.commit.map(|commit| commit.to_string()).unwrap_or_default(),
        entities: audit.entities,
        pending: audit.pending,
        missing: audit.missing,
        behind: audit.behind,
        unexplained: audit.unexplained,
        different: audit.different,
        repaired: audit.repaired,
        rebuilding: audit.rebuilding,
        examples: audit.examples,
    }
}

pub(crate) fn audited_json(audit: ViewAudit) -> Json {
    let v1::ViewAudit { view, commit, entities, pending, missing, behind, unexplained, different, repaired, rebuilding, examples } = audited(audit);
    json!({
        "view": view, "commit": commit, "entities": entities, "pending": pending, "missing": missing, "behind": behind, "unexplained": unexplained,
        "different": different, "repaired": repaired, "rebuilding": rebuilding, "examples": examples,
    })
}

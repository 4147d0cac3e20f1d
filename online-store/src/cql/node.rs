//! One node: which start of it this is, and whether what it acknowledges survives loss of power.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use scylla::client::session::Session;
use scylla::cluster::Node;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::Consistency;
use scylla::statement::unprepared::Statement;

/// A number that Cassandra and Scylla raise with each start.
const START: &str = "SELECT gossip_generation FROM system.local WHERE key = 'local'";
/// Where Cassandra, and where Scylla tells its settings.
const SETTINGS: [&str; 2] =
    ["SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'", "SELECT value FROM system.config WHERE name = 'commitlog_sync'"];

/// What a node is, as far as it concerns what may be lost with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// Another one after each start; empty where the node does not tell.
    pub(super) start: String,
    /// Whether every write is on disk before it is acknowledged.
    pub(super) durable: bool,
}

/// Which start of each node this is. A node that does not answer within the limit is left out.
pub(super) async fn starts(session: &Session, limit: Duration) -> HashMap<String, String> {
    let state = session.get_cluster_state();
    let asking = state.get_nodes_info().iter().filter(|node| node.is_connected()).map(async |node| {
        let start = tokio::time::timeout(limit, start(session, node)).await.ok()??;
        Some((node.host_id.to_string(), start))
    });
    join_all(asking).await.into_iter().flatten().collect()
}

/// Every node that answers within the limit.
pub(super) async fn identities(session: &Session, limit: Duration) -> HashMap<String, Identity> {
    let state = session.get_cluster_state();
    let asking = state.get_nodes_info().iter().filter(|node| node.is_connected()).map(async |node| {
        let identify = async {
            // The start is asked first: a node that begins anew between the two is found to be another one later.
            let start = start(session, node).await?;
            Some(Identity { start, durable: durable(session, node).await })
        };
        Some((node.host_id.to_string(), tokio::time::timeout(limit, identify).await.ok()??))
    });
    join_all(asking).await.into_iter().flatten().collect()
}

async fn start(session: &Session, node: &Arc<Node>) -> Option<String> {
    match one::<(Option<i32>,)>(session, node, START).await {
        Ok((Some(start),)) => Some(start.to_string()),
        Ok((None,)) | Err(Some(DbError::Invalid | DbError::Unauthorized)) => Some(String::new()),
        Err(_) => None,
    }
}

/// Where it may not be asked, it may not be relied on either.
async fn durable(session: &Session, node: &Arc<Node>) -> bool {
    for settings in SETTINGS {
        if let Ok((mode,)) = one::<(String,)>(session, node, settings).await {
            return matches!(mode.trim_matches('"'), "batch" | "group");
        }
    }
    false
}

/// The only row of an answer that this very node gives.
async fn one<T: for<'a> DeserializeRow<'a, 'a>>(session: &Session, node: &Arc<Node>, cql: &str) -> Result<T, Option<DbError>> {
    let mut statement = Statement::new(cql);
    statement.set_consistency(Consistency::One);
    statement.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(NodeIdentifier::Node(Arc::clone(node)), None)));
    let result = session.query_unpaged(statement, &[]).await.map_err(|error| match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => Some(error),
        _ => None,
    })?;
    result.into_rows_result().map_err(|_| None)?.first_row().map_err(|_| None)
}

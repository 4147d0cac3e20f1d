//! How long a branch keeps the content of its commits.

use std::path::Path;
use std::sync::Arc;

use anabranch_core::{RandomIds, Span, SystemClock};
use anabranch_versioning::{Repository, RepositoryOptions};

use super::Stores;
use crate::error::Result;
use crate::folder::RepositoryFolder;

/// Sets how long a branch keeps the content of its commits (`Some(None)`: for ever), or leaves it; answers what holds then. May run beside the server,
/// which looks hourly.
///
/// # Errors
/// Not found for a branch that is not there; invalid for a span that is not positive.
pub async fn history(data: &Path, repository: &str, branch: &str, keep: Option<Option<Span>>) -> Result<Option<Span>> {
    let stores = Stores::existing(&RepositoryFolder::of(data, repository)).await?;
    let (clock, ids) = (Arc::new(SystemClock), Arc::new(RandomIds::from_os()));
    let versions = Repository::open(stores.metadata, stores.objects, clock, ids, RepositoryOptions::default()).await?;
    if let Some(keep) = keep {
        versions.set_history(branch, keep).await?;
    }
    let holds = versions.history(branch).await?;
    versions.close().await;
    Ok(holds)
}

//! Definitions: reading them at a ref, and planning what an apply would do.
//!
//! What a commit holds never changes, so the definitions of the commits read last are kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_core::definition::{Definition, DefinitionKind, Definitions};
use anabranch_registry::{Parsed, Plan, PlanOptions, YamlFile};
use anabranch_versioning::{CommitId, Repository};
use bytes::Bytes;

use super::Scope;
use crate::error::{Error, Result};

const KEPT: usize = 64;

/// The definitions of the commits read last.
#[derive(Debug, Default)]
pub(crate) struct DefinitionsCache(Mutex<VecDeque<(CommitId, Arc<Definitions>)>>);

impl DefinitionsCache {
    pub(crate) async fn at(&self, repository: &Repository, commit: &CommitId) -> Result<Arc<Definitions>> {
        let known = |cache: &VecDeque<(CommitId, Arc<Definitions>)>| {
            cache.iter().find(|(kept, _)| kept == commit).map(|(_, definitions)| Arc::clone(definitions))
        };
        if let Some(definitions) = known(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(definitions);
        }
        let definitions = Arc::new(anabranch_registry::load(repository, commit).await?);
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.push_front((*commit, Arc::clone(&definitions)));
        cache.truncate(KEPT);
        Ok(definitions)
    }
}

/// What a caller proposes.
#[derive(Debug, Default)]
pub(crate) struct Proposal {
    /// Files as the engineer wrote them: name and text.
    pub(crate) files: Vec<(String, String)>,
    /// Canonical bytes, from an SDK.
    pub(crate) canonical: Vec<Bytes>,
    /// Kinds and names to be deleted.
    pub(crate) delete: Vec<(String, String)>,
}

impl Proposal {
    /// Reads what is proposed, with the places of the files for faults found later.
    pub(crate) fn parse(&self) -> Result<(Parsed, PlanOptions)> {
        let files: Vec<_> = self.files.iter().map(|(name, text)| YamlFile { name, text }).collect();
        let mut parsed = anabranch_registry::parse_yaml(&files)?;
        for bytes in &self.canonical {
            parsed.definitions.push(Definition::from_bytes(bytes)?);
        }
        let kind = |name: &str| {
            let kinds = DefinitionKind::ALL.map(DefinitionKind::name).join(", ");
            DefinitionKind::from_name(name).ok_or_else(|| Error::argument("delete.kind", format!("{name:?} is none of {kinds}")))
        };
        let delete = self.delete.iter().map(|(of, name)| Ok((kind(of)?, name.clone()))).collect::<Result<_>>()?;
        Ok((parsed, PlanOptions { prune: false, delete }))
    }
}

/// A plan and the commit that it was made against.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) commit: CommitId,
    pub(crate) plan: Plan,
}

impl Scope {
    /// The definitions at the scope's ref.
    pub(crate) async fn definitions(&self) -> Result<(CommitId, Arc<Definitions>)> {
        let commit = self.resolve().await?.commit;
        Ok((commit, self.repo.definitions(&commit).await?))
    }

    /// The definitions at the scope's ref of a kind and name; empty for all. A name that is not there is an error.
    pub(crate) async fn list_definitions(&self, kind: &str, name: &str) -> Result<(CommitId, Vec<Definition>)> {
        let (commit, definitions) = self.definitions().await?;
        let kinds = DefinitionKind::ALL.map(DefinitionKind::name).join(", ");
        let wanted = match kind {
            "" => None,
            kind => Some(DefinitionKind::from_name(kind).ok_or_else(|| Error::argument("kind", format!("{kind:?} is none of {kinds}")))?),
        };
        let fits = |definition: &&Definition| wanted.is_none_or(|kind| definition.kind() == kind) && (name.is_empty() || definition.name() == name);
        let found: Vec<_> = definitions.iter().filter(fits).cloned().collect();
        if found.is_empty() && !name.is_empty() {
            let hint = wanted.map_or_else(String::new, |kind| definitions.nearest(kind, name));
            return Err(Error::Missing(format!("no {} {name:?} at {:?}{hint}", if kind.is_empty() { "definition" } else { kind }, self.reference)));
        }
        Ok((commit, found))
    }

    /// What an apply would change and break.
    pub(crate) async fn plan(&self, proposal: &Proposal) -> Result<Planned> {
        let (commit, definitions) = self.definitions().await?;
        let (parsed, options) = proposal.parse()?;
        let plan = anabranch_registry::plan(&definitions, parsed.definitions, &options).map_err(|error| parsed.places.locate(error))?;
        Ok(Planned { commit, plan })
    }
}

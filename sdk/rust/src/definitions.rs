//! Planning and applying definitions, and listing them.

use anabranch_core::definition::{Definition, DefinitionKind};
use anabranch_proto::v1;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value as Json;

use crate::client::{Retry, unary};
use crate::{Client, Error};

/// What to define and what to delete, in one go.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    define: Vec<Definition>,
    files: Vec<(String, String)>,
    delete: Vec<(DefinitionKind, String)>,
}

impl Changes {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a definition.
    #[must_use]
    pub fn define(mut self, definition: Definition) -> Self {
        self.define.push(definition);
        self
    }

    /// Adds the text of a YAML file; errors name the file.
    #[must_use]
    pub fn yaml(mut self, file_name: impl Into<String>, text: impl Into<String>) -> Self {
        self.files.push((file_name.into(), text.into()));
        self
    }

    /// Deletes a definition.
    #[must_use]
    pub fn delete(mut self, kind: DefinitionKind, name: impl Into<String>) -> Self {
        self.delete.push((kind, name.into()));
        self
    }

    fn definitions(&self) -> Result<Vec<Bytes>, Error> {
        self.define.iter().map(|definition| Ok(definition.clone().normalized()?.to_bytes().into())).collect()
    }

    fn files(&self) -> Vec<v1::YamlFile> {
        self.files.iter().map(|(name, text)| v1::YamlFile { name: name.clone(), text: text.clone() }).collect()
    }

    fn deleted(&self) -> Vec<v1::DefinitionName> {
        self.delete.iter().map(|(kind, name)| v1::DefinitionName { kind: kind.name().to_owned(), name: name.clone() }).collect()
    }
}

/// What an apply would change and break.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The commit that it was made against.
    pub commit: String,
    /// For people.
    pub text: String,
    /// For programs.
    pub plan: Json,
    /// Whether anything would change.
    pub changes: bool,
    /// Whether anything would break.
    pub breaking: bool,
}

/// What an apply has done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Applied {
    /// The new commit, or the head where nothing changed.
    pub commit: String,
    /// What was changed.
    pub plan: Plan,
}

/// The definitions at a commit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DefinitionList {
    /// The commit.
    pub commit: String,
    /// By kind and name.
    pub definitions: Vec<RegisteredDefinition>,
}

/// One definition as it is registered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegisteredDefinition {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its fields, those at their default left out.
    pub spec: Json,
    /// The same as YAML.
    pub yaml: String,
    /// The definition itself.
    #[serde(skip)]
    pub definition: Definition,
}

impl Client {
    /// What an apply would change and break.
    ///
    /// # Errors
    /// `invalid_argument` for a definition that is wrong in itself or refers to what is not there, naming the place.
    pub async fn plan(&self, changes: &Changes) -> Result<Plan, Error> {
        let request =
            v1::PlanRequest { target: Some(self.target()), files: changes.files(), definitions: changes.definitions()?, delete: changes.deleted() };
        plan_of(unary!(self, registry.plan(request), Retry::Safe).await?)
    }

    /// Applies definitions in one commit; `message` may be empty.
    ///
    /// # Errors
    /// As [`Client::plan`]; `failed_precondition` where it would break something and `allow_breaking` is false.
    pub async fn apply(&self, changes: &Changes, allow_breaking: bool, message: &str) -> Result<Applied, Error> {
        let request = v1::ApplyRequest {
            target: Some(self.target()),
            files: changes.files(),
            definitions: changes.definitions()?,
            delete: changes.deleted(),
            allow_breaking,
            author: self.author(),
            message: message.to_owned(),
        };
        let reply = unary!(self, registry.apply(request), Retry::Never).await?;
        Ok(Applied { commit: reply.commit, plan: plan_of(reply.plan.unwrap_or_default())? })
    }

    /// The definitions at the client's ref, of one kind and name where these are given.
    ///
    /// # Errors
    /// `not_found` for an unknown ref.
    pub async fn definitions(&self, kind: Option<DefinitionKind>, name: Option<&str>) -> Result<DefinitionList, Error> {
        let request = v1::ListDefinitionsRequest {
            target: Some(self.target()),
            kind: kind.map(|kind| kind.name().to_owned()).unwrap_or_default(),
            name: name.unwrap_or_default().to_owned(),
        };
        let reply = unary!(self, registry.list_definitions(request), Retry::Safe).await?;
        let definitions = reply.definitions.into_iter().map(registered).collect::<Result<_, _>>()?;
        Ok(DefinitionList { commit: reply.commit, definitions })
    }
}

fn plan_of(reply: v1::PlanReply) -> Result<Plan, Error> {
    let v1::PlanReply { commit, text, json, changes, breaking } = reply;
    let plan = if json.is_empty() { Json::Null } else { serde_json::from_str(&json).map_err(|error| Error::Protocol(format!("plan: {error}")))? };
    Ok(Plan { commit, text, plan, changes, breaking })
}

fn registered(entry: v1::DefinitionEntry) -> Result<RegisteredDefinition, Error> {
    let v1::DefinitionEntry { kind, name, canonical, yaml } = entry;
    let definition = Definition::from_bytes(&canonical)?;
    Ok(RegisteredDefinition { kind, name, spec: definition.spec(), yaml, definition })
}

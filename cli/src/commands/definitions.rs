//! `plan`, `apply` and `definitions`.

use std::path::{Path, PathBuf};

use anabranch_client::{Changes, Client, DefinitionKind};
use clap::Args;
use serde_json::json;

use crate::error::Error;
use crate::output::{Output, cell, short};

/// What to define and delete.
#[derive(Debug, Args)]
struct ChangeArgs {
    /// YAML files, or folders of them
    #[arg(required_unless_present = "delete", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A definition to take out, such as feature_view/weather; may be given again
    #[arg(long, value_name = "KIND/NAME")]
    delete: Vec<String>,
}

/// Shows, field by field, what applying definitions would change and what it would break. Changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    changes: ChangeArgs,
}

/// Applies definitions in one commit: all of them, or none.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    changes: ChangeArgs,
    /// Apply also what breaks something that is there
    #[arg(long)]
    allow_breaking: bool,
    /// Why, for the log
    #[arg(long, short, default_value = "", hide_default_value = true)]
    message: String,
}

/// Lists definitions.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only of this kind: entity, source, feature_view, check or feature_service
    kind: Option<String>,
}

pub(crate) async fn plan(client: &Client, plan: Plan, output: &mut Output) -> Result<(), Error> {
    let plan = client.plan(&changes(&plan.changes)?).await?;
    output.value(&plan, |output| output.line(&plan.text))
}

pub(crate) async fn apply(client: &Client, apply: Apply, output: &mut Output) -> Result<(), Error> {
    let applied = client.apply(&changes(&apply.changes)?, apply.allow_breaking, &apply.message).await?;
    output.value(&applied, |output| {
        output.line(&applied.plan.text)?;
        output.note(&match applied.plan.changes {
            true => format!("applied in commit {}", short(&applied.commit)),
            false => format!("nothing to change: commit {} has it all", short(&applied.commit)),
        });
        Ok(())
    })
}

pub(crate) async fn list(client: &Client, list: List, output: &mut Output) -> Result<(), Error> {
    let kind = list.kind.as_deref().map(kind_of).transpose()?;
    let found = client.definitions(kind, None).await?;
    output.value(&found, |output| {
        let text = |spec: &serde_json::Value| spec.get("description").map(cell).unwrap_or_default();
        let rows: Vec<_> = found.definitions.iter().map(|d| vec![d.kind.clone(), d.name.clone(), text(&d.spec)]).collect();
        output.table(&["kind", "name", "description"], &rows)
    })
}

/// Shows one definition as YAML.
pub(crate) async fn show(client: &Client, kind: DefinitionKind, name: &str, output: &mut Output) -> Result<(), Error> {
    let found = client.definitions(Some(kind), Some(name)).await?;
    let Some(definition) = found.definitions.first() else {
        return Err(Error::Missing(format!("there is no {kind} {name:?}; `anabranch definitions {kind}` lists them")));
    };
    let json = json!({"kind": definition.kind, "name": definition.name, "spec": definition.spec});
    output.value(&json, |output| output.line(&definition.yaml))
}

fn changes(args: &ChangeArgs) -> Result<Changes, Error> {
    let mut changes = Changes::new();
    for path in &args.files {
        for file in yaml_files(path)? {
            let text = std::fs::read_to_string(&file).map_err(|error| Error::file(&file, error))?;
            changes = changes.yaml(file.display().to_string(), text);
        }
    }
    for definition in &args.delete {
        let (kind, name) = named(definition)?;
        changes = changes.delete(kind, name);
    }
    Ok(changes)
}

/// The file itself, or all YAML files below a folder in the order of their paths.
fn yaml_files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    gather(path, &mut files)?;
    files.sort();
    if files.is_empty() { Err(Error::file(path, "there is no YAML file in this folder")) } else { Ok(files) }
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let failed = |error| Error::file(folder, error);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            gather(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") {
            files.push(path);
        }
    }
    Ok(())
}

/// The kind and name that a text such as `feature_view/weather` has.
pub(crate) fn named(definition: &str) -> Result<(DefinitionKind, String), Error> {
    let (kind, name) =
        definition.split_once('/').ok_or_else(|| Error::Usage(format!("{definition:?} names no definition: write it as feature_view/weather")))?;
    Ok((kind_of(kind)?, name.to_owned()))
}

fn kind_of(name: &str) -> Result<DefinitionKind, Error> {
    let all = || DefinitionKind::ALL.map(DefinitionKind::name).join(", ");
    DefinitionKind::from_name(name).ok_or_else(|| Error::Usage(format!("{name:?} is no kind of definition; there are {}", all())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_give_their_yaml_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("views")).unwrap();
        for name in ["views/b.yaml", "a.yml", "notes.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let files = yaml_files(folder.path()).unwrap();
        assert_eq!(files, [folder.path().join("a.yml"), folder.path().join("views/b.yaml")]);
        std::fs::remove_file(&files[0]).unwrap();
        std::fs::remove_file(&files[1]).unwrap();
        assert!(yaml_files(folder.path()).is_err());
    }

    #[test]
    fn definitions_are_named_by_kind_and_name() {
        assert_eq!(named("entity/airport").unwrap(), (DefinitionKind::Entity, "airport".to_owned()));
        assert!(named("airport").is_err());
        assert!(named("view/airport").unwrap_err().to_string().contains("feature_view"));
    }
}

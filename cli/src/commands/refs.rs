//! `branch` and `tag`.

use anabranch_client::Client;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::Error;
use crate::output::{Output, short};

/// Lists, creates and deletes branches.
#[derive(Debug, Args)]
pub(crate) struct Branch {
    #[command(subcommand)]
    verb: BranchVerb,
}

#[derive(Debug, Subcommand)]
enum BranchVerb {
    /// List branches
    List {
        /// Only those whose names begin so
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Create a branch; nothing is copied
    Create {
        /// Its name
        name: String,
        /// The ref where it starts [default: main]
        #[arg(default_value = "", hide_default_value = true)]
        from: String,
    },
    /// Delete a branch; its commits stay
    Delete {
        /// Its name
        name: String,
    },
}

/// Lists, creates and deletes tags.
#[derive(Debug, Args)]
pub(crate) struct Tag {
    #[command(subcommand)]
    verb: TagVerb,
}

#[derive(Debug, Subcommand)]
enum TagVerb {
    /// List tags
    List {
        /// Only those whose names begin so
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Name the commit at a ref
    Create {
        /// Its name
        name: String,
        /// The ref [default: main]
        #[arg(value_name = "REF", default_value = "", hide_default_value = true)]
        at: String,
    },
    /// Delete a tag; its commit stays
    Delete {
        /// Its name
        name: String,
    },
}

pub(crate) async fn branch(client: &Client, branch: Branch, output: &mut Output) -> Result<(), Error> {
    match branch.verb {
        BranchVerb::List { prefix } => {
            let branches = client.branches(&prefix).await?;
            let rows: Vec<_> = branches.iter().map(|branch| vec![branch.name.clone(), short(&branch.commit)]).collect();
            output.value(&branches, |output| output.table(&["branch", "commit"], &rows))
        }
        BranchVerb::Create { name, from } => {
            let branch = client.create_branch(&name, &from).await?;
            output.value(&branch, |output| output.line(&format!("branch {} at {}", branch.name, short(&branch.commit))))
        }
        BranchVerb::Delete { name } => {
            client.delete_branch(&name).await?;
            output.value(&json!({"deleted": name}), |output| output.line(&format!("branch {name} deleted")))
        }
    }
}

pub(crate) async fn tag(client: &Client, tag: Tag, output: &mut Output) -> Result<(), Error> {
    match tag.verb {
        TagVerb::List { prefix } => {
            let tags = client.tags(&prefix).await?;
            let rows: Vec<_> = tags.iter().map(|tag| vec![tag.name.clone(), short(&tag.commit)]).collect();
            output.value(&tags, |output| output.table(&["tag", "commit"], &rows))
        }
        TagVerb::Create { name, at } => {
            let tag = client.create_tag(&name, &at).await?;
            output.value(&tag, |output| output.line(&format!("tag {} at {}", tag.name, short(&tag.commit))))
        }
        TagVerb::Delete { name } => {
            client.delete_tag(&name).await?;
            output.value(&json!({"deleted": name}), |output| output.line(&format!("tag {name} deleted")))
        }
    }
}

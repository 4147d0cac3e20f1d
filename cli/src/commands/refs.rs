//! `branch`, `reflog` and `tag`.

use anabranch_client::Client;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::Error;
use crate::output::{Output, short, subject};

/// Lists, creates, renames, protects and deletes branches.
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
    /// Show one branch
    Show {
        /// Its name [default: that of --ref]
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Give a branch another name; what was pushed to it goes along
    Rename {
        /// Its name
        name: String,
        /// Its name from then on
        new_name: String,
    },
    /// Protect a branch from being deleted, renamed and reset
    Protect {
        /// Its name
        name: String,
    },
    /// Protect a branch no longer
    Unprotect {
        /// Its name
        name: String,
    },
    /// Delete a branch; its commits stay
    Delete {
        /// Its name
        name: String,
    },
}

/// Shows where a branch's head has been, newest first.
#[derive(Debug, Args)]
pub(crate) struct Reflog {
    /// The branch [default: that of --ref]
    #[arg(default_value = "", hide_default_value = true)]
    branch: String,
    /// How many moves
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: u32,
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
            let protected = |branch: &anabranch_client::Branch| if branch.protected { "protected" } else { "" }.to_owned();
            let rows: Vec<_> = branches.iter().map(|branch| vec![branch.name.clone(), short(&branch.commit), protected(branch)]).collect();
            output.value(&branches, |output| output.table(&["branch", "commit", ""], &rows))
        }
        BranchVerb::Create { name, from } => {
            let branch = client.create_branch(&name, &from).await?;
            output.value(&branch, |output| output.line(&format!("branch {} at {}", branch.name, short(&branch.commit))))
        }
        BranchVerb::Show { name } => {
            let branch = client.branch(&name).await?;
            let head = client.at(format!("commit:{}", branch.commit)).commit().await?;
            let json = json!({"branch": branch, "head": head});
            output.value(&json, |output| {
                output.facts(&[
                    ("branch", branch.name.clone()),
                    ("id", branch.id.to_string()),
                    ("created", branch.created.to_string()),
                    ("protected", if branch.protected { "yes" } else { "no" }.to_owned()),
                    ("commit", head.id.clone()),
                    ("time", head.time.to_string()),
                    ("author", head.author.clone()),
                    ("message", subject(&head.message)),
                ])
            })
        }
        BranchVerb::Rename { name, new_name } => {
            let branch = client.rename_branch(&name, &new_name).await?;
            output.value(&branch, |output| output.line(&format!("branch {name} is {} now", branch.name)))
        }
        BranchVerb::Protect { name } => {
            let branch = client.protect_branch(&name, true).await?;
            output.value(&branch, |output| output.line(&format!("branch {name} is protected")))
        }
        BranchVerb::Unprotect { name } => {
            let branch = client.protect_branch(&name, false).await?;
            output.value(&branch, |output| output.line(&format!("branch {name} is protected no longer")))
        }
        BranchVerb::Delete { name } => {
            client.delete_branch(&name).await?;
            output.value(&json!({"deleted": name}), |output| output.line(&format!("branch {name} deleted")))
        }
    }
}

pub(crate) async fn reflog(client: &Client, reflog: Reflog, output: &mut Output) -> Result<(), Error> {
    let moves = client.reflog(&reflog.branch, reflog.limit).await?;
    let row =
        |step: &anabranch_client::HeadMove| vec![short(&step.to), short(&step.from), step.time.to_string(), step.author.clone(), step.action.clone()];
    let rows: Vec<_> = moves.iter().map(row).collect();
    output.value(&moves, |output| output.table(&["to", "from", "time", "author", "how"], &rows))
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

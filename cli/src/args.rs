//! What can be said on the command line: the options that every command takes, and the commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    dataset, definitions, engine, history, ingest, maintenance, merging, object, online, quarantine, refs, rows, serve, serving, sql, tables,
};

/// A feature store and data-versioning server.
#[derive(Debug, Parser)]
#[command(name = "anabranch", version, about, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Without --url and --data, ANABRANCH_URL and ANABRANCH_DATA are looked at, and then http://127.0.0.1:7420.\n\
    Exit status: 0 done, 1 failed, 2 misused, 75 unavailable, try again later.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The server to talk to, such as http://127.0.0.1:7420
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// A data folder: its server is joined, or a private one started for as long as the command runs
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,
    /// The repository [default: default]
    #[arg(long, global = true, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) repository: String,
    /// The branch, tag or commit to work on: a name, a commit's first letters, REF~1 [default: main]
    #[arg(long = "ref", global = true, value_name = "REF", default_value = "", hide_default_value = true)]
    pub(crate) reference: String,
    /// Who makes the commits [env: ANABRANCH_AUTHOR]
    // Not by clap's `env`: `log --author` must not be filtered by it.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) author: Option<String>,
    /// How long a call may take that moves no rows in bulk, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u64,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server
    Serve(serve::Serve),
    /// Show what applying definitions would change and break
    Plan(definitions::Plan),
    /// Apply definitions in one commit
    Apply(definitions::Apply),
    /// List definitions
    Definitions(definitions::List),
    /// Show a commit with what it changed, or a definition as YAML
    Show(history::Show),
    /// Take in files of rows: Parquet, CSV or JSON lines
    Ingest(ingest::Ingest),
    /// Push rows, one JSON object a line
    Push(rows::Push),
    /// Delete entities as of an event time, one JSON object of keys and times a line
    Delete(rows::Delete),
    /// Wait until all that was pushed is in a commit
    Flush,
    /// Show where the server and the pipeline of a branch stand
    Status,
    /// Look up the latest values of features
    GetOnline(online::GetOnline),
    Online(serving::Online),
    Audit(serving::Audit),
    /// Query the feature views at a ref with SQL
    Sql(sql::Sql),
    /// Build point-in-time datasets, and list those that were saved
    Dataset(dataset::Dataset),
    /// List, create, show, rename, protect and delete branches
    Branch(refs::Branch),
    /// Show where a branch's head has been
    Reflog(refs::Reflog),
    /// List, create and delete tags
    Tag(refs::Tag),
    /// Show the history of a ref
    Log(history::Log),
    /// Show what differs between two refs
    Diff(history::Diff),
    /// Show the youngest commit that two refs have in common
    MergeBase(history::MergeBase),
    /// Merge a ref into a branch
    Merge(merging::Merge),
    /// Take back what a commit changed
    Revert(merging::Revert),
    /// Make what a commit changed on another branch
    CherryPick(merging::CherryPick),
    /// Move a branch to any commit
    Reset(merging::Reset),
    /// List and show rows that were refused
    Quarantine(quarantine::Quarantine),
    /// Put, get, list, move and delete files under version control
    Object(object::Object),
    /// Rewrite the small files of tables as fewer and larger ones; no row changes
    Compact(tables::Compact),
    /// Show where a view's table lies, for readers without a server
    Table(tables::Table),
    /// Verify a data folder and name what is damaged
    Fsck(maintenance::Fsck),
    /// Back the metadata database of a data folder up
    Backup(maintenance::Backup),
    /// Restore a metadata database from a backup
    Restore(maintenance::Restore),
    /// Write refs and all that they reach as one file
    Export(maintenance::Export),
    /// Bring in what export wrote
    Import(maintenance::Import),
    /// Show or set how long a branch keeps the content of its commits
    History(maintenance::History),
    /// Run the scheduler or an executor of a cluster that does joins
    Engine(engine::Engine),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_author_of_a_log_is_whom_it_is_for() {
        let asked = |line: &[&str]| match Cli::try_parse_from(line).unwrap().command {
            Command::Log(log) => log.author,
            other => panic!("{other:?}"),
        };
        assert_eq!(asked(&["anabranch", "log", "--author", "ada"]).as_deref(), Some("ada"));
        assert_eq!(asked(&["anabranch", "log"]), None);
        let makes = Cli::try_parse_from(["anabranch", "merge", "x", "--author", "ada"]).unwrap().global.author;
        assert_eq!(makes.as_deref(), Some("ada"));
    }

    #[test]
    fn options_of_every_command_may_come_before_and_after_it() {
        for line in [["anabranch", "--json", "log"], ["anabranch", "log", "--json"]] {
            assert!(Cli::try_parse_from(line).unwrap().global.json);
        }
    }
}

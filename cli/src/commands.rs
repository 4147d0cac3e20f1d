//! The commands, by group; each file has its arguments and what they do.

pub(crate) mod dataset;
pub(crate) mod definitions;
pub(crate) mod engine;
pub(crate) mod history;
pub(crate) mod ingest;
pub(crate) mod maintenance;
pub(crate) mod merging;
pub(crate) mod object;
pub(crate) mod online;
pub(crate) mod quarantine;
pub(crate) mod refs;
pub(crate) mod rows;
pub(crate) mod serve;
pub(crate) mod serving;
pub(crate) mod sql;
pub(crate) mod tables;

use anabranch_client::Client;

use crate::args::Command;
use crate::error::Error;
use crate::output::Output;

/// Runs a command over a client.
pub(crate) async fn execute(command: Command, client: &Client, output: &mut Output) -> Result<(), Error> {
    match command {
        Command::Serve(_) | Command::Engine(_) => Err(Error::Usage("this needs no server".to_owned())),
        Command::Plan(plan) => definitions::plan(client, plan, output).await,
        Command::Apply(apply) => definitions::apply(client, apply, output).await,
        Command::Definitions(list) => definitions::list(client, list, output).await,
        Command::Show(show) => history::show(client, show, output).await,
        Command::Ingest(files) => ingest::ingest(client, files, output).await,
        Command::Push(push) => rows::push(client, push, output).await,
        Command::Delete(delete) => rows::delete(client, delete, output).await,
        Command::Flush => rows::flush(client, output).await,
        Command::Status => rows::status(client, output).await,
        Command::GetOnline(lookup) => online::get_online(client, lookup, output).await,
        Command::Online(online) => serving::online(client, online, output).await,
        Command::Audit(audit) => serving::audit(client, audit, output).await,
        Command::Sql(sql) => sql::sql(client, sql, output).await,
        Command::Dataset(dataset) => dataset::dataset(client, dataset, output).await,
        Command::Branch(branch) => refs::branch(client, branch, output).await,
        Command::Reflog(reflog) => refs::reflog(client, reflog, output).await,
        Command::Tag(tag) => refs::tag(client, tag, output).await,
        Command::Log(log) => history::log(client, log, output).await,
        Command::Diff(diff) => history::diff(client, diff, output).await,
        Command::MergeBase(pair) => history::merge_base(client, pair, output).await,
        Command::Merge(merge) => merging::merge(client, merge, output).await,
        Command::Revert(revert) => merging::revert(client, revert, output).await,
        Command::CherryPick(pick) => merging::cherry_pick(client, pick, output).await,
        Command::Reset(reset) => merging::reset(client, reset, output).await,
        Command::Quarantine(quarantine) => quarantine::quarantine(client, quarantine, output).await,
        Command::Object(object) => object::object(client, object, output).await,
        Command::Compact(compact) => tables::compact(client, compact, output).await,
        Command::Table(table) => tables::table(client, table, output).await,
        Command::Fsck(_) | Command::Backup(_) | Command::Restore(_) | Command::Export(_) | Command::Import(_) | Command::History(_) => {
            Err(Error::Usage("this works on a data folder and needs no server".to_owned()))
        }
    }
}

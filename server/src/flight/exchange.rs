//! `DoExchange`: the spine goes in, the dataset comes out.

use std::sync::Arc;

use anabranch_offline_store::join::JoinOptions;
use anabranch_proto::v1::HistoricalCommand;
use anabranch_proto::v1::dataset_spine::Source;
use anabranch_proto::v1::flight_command::Command;
use arrow_flight::FlightData;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::{Request, Status, Streaming};

use super::{Outgoing, streams, wrong};
use crate::App;
use crate::app::{Dataset, DatasetRequest, Scope, SpineRows};
use crate::auth::{Caller, Verb};
use crate::error::Error;
use crate::grpc::caller;
use crate::metrics::RepositoryLabels;
use crate::wire;

pub(super) async fn exchange(app: &Arc<App>, request: Request<Streaming<FlightData>>) -> Result<Outgoing<FlightData>, Status> {
    let caller = caller(&request);
    let limits = &app.config().limits;
    let incoming = streams::incoming(request.into_inner(), limits.push_bytes as u64).await?;
    let Command::Historical(command) = incoming.command else { return Err(wrong("DoExchange", "historical").into()) };
    let (repository, reference) = wire::target(command.target.as_ref());
    let scope = app.enter(&caller, Verb::ReadDataset, repository, reference).await?;
    if !command.save_as.is_empty() {
        app.enter(&caller, Verb::SaveDataset, repository, reference).await?;
    }
    let file = match command.spine.as_ref().and_then(|spine| spine.source.clone()) {
        None => None,
        Some(Source::File(file)) => Some(file),
        Some(_) => return Err(Error::argument("spine", "the server makes it: ask by DoGet, or by CreateDataset to save it").into()),
    };
    let (at_least, timeout_ms, without_rows) = (command.at_least.clone(), command.timeout_ms, command.without_rows);
    let wanted = wanted(command)?;
    let rows = streams::collect(incoming.batches, |schema| app.spine_spool(schema)).await?;
    scope.wait_committed(&at_least, timeout_ms).await?;
    let dataset = scope.dataset(wanted, SpineRows::Given { rows, file }).await?;
    Ok(sent(&scope, dataset, without_rows))
}

/// The dataset of a spine that the server makes.
pub(super) async fn of_server_spine(app: &Arc<App>, caller: &Caller, command: HistoricalCommand) -> Result<Outgoing<FlightData>, Status> {
    let without_rows = command.without_rows;
    let (scope, dataset) = made(app, caller, command).await?;
    Ok(sent(&scope, dataset, without_rows))
}

/// Joins, and saves where asked, with a spine that the server makes.
pub(crate) async fn made(app: &Arc<App>, caller: &Caller, mut command: HistoricalCommand) -> Result<(Scope, Dataset), Status> {
    let target = command.target.take();
    let (repository, reference) = wire::target(target.as_ref());
    let scope = app.enter(caller, Verb::ReadDataset, repository, reference).await?;
    // The spine is made of rows of tables.
    app.enter(caller, Verb::ReadRows, repository, reference).await?;
    if !command.save_as.is_empty() {
        app.enter(caller, Verb::SaveDataset, repository, reference).await?;
    }
    let spine = match command.spine.take().and_then(|spine| spine.source) {
        Some(Source::Sql(query)) => SpineRows::Sql(query),
        Some(Source::Events(view)) => SpineRows::Events(view),
        _ => return Err(Error::argument("spine", "give a query, or a view whose events it is; rows of your own go in by DoExchange").into()),
    };
    scope.wait_committed(&command.at_least, command.timeout_ms).await?;
    let dataset = scope.dataset(wanted(command)?, spine).await?;
    Ok((scope, dataset))
}

fn sent(scope: &Scope, dataset: Dataset, without_rows: bool) -> Outgoing<FlightData> {
    let footer = dataset.footer().to_string().into();
    let rows = dataset.rows;
    let (schema, joined) = dataset.into_rows();
    let batches = if without_rows { stream::empty().boxed() } else { joined.stream() };
    if !without_rows {
        let repository = RepositoryLabels { repository: scope.repo.name().to_owned() };
        scope.app.metrics().dataset_rows.get_or_create(&repository).inc_by(rows);
    }
    streams::outgoing(schema, batches.map_err(Error::from), Some(footer))
}

fn wanted(command: HistoricalCommand) -> Result<DatasetRequest, Status> {
    Ok(DatasetRequest {
        selection: wire::selection(command.selection)?,
        options: JoinOptions { knowledge: DatasetRequest::knowledge(&command.knowledge)?, strict: command.strict, full_names: command.full_names },
        time_column: DatasetRequest::time_column(&command.time_column),
        engine: DatasetRequest::engine(&command.engine)?,
        save_as: Some(command.save_as).filter(|name| !name.is_empty()),
        splits: DatasetRequest::splits(&command.splits, command.split_by, command.split_seed)?,
        author: command.author,
    })
}

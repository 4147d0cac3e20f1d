//! `DoGet`: rows of a view, of its quarantine, of a query or of a saved dataset at a ref, a dataset whose spine the server makes, or a rank's batches of a
//! saved one.

use std::sync::Arc;

use anabranch_proto::v1::flight_command::Command;
use anabranch_proto::v1::{DatasetCommand, QueryCommand, ReadCommand};
use arrow_flight::{FlightData, Ticket};
use futures::TryStreamExt;
use tonic::{Request, Status};

use super::{Outgoing, batches, command, exchange, streams, wrong};
use crate::App;
use crate::auth::{Caller, Verb};
use crate::error::Error;
use crate::grpc::caller;
use crate::metrics::RepositoryLabels;
use crate::wire;

pub(super) async fn get(app: &Arc<App>, request: Request<Ticket>) -> Result<Outgoing<FlightData>, Status> {
    let caller = caller(&request);
    match command(&request.get_ref().ticket)? {
        Command::Read(read) => self::read(app, &caller, read).await,
        Command::Dataset(dataset) => self::dataset(app, &caller, dataset).await,
        Command::Historical(historical) => exchange::of_server_spine(app, &caller, historical).await,
        Command::Query(query) => self::query(app, &caller, query).await,
        Command::DatasetRows(rows) => batches::rows(app, &caller, rows).await,
        Command::Batches(wanted) => batches::batches(app, &caller, wanted).await,
        Command::Bulk(_) => Err(wrong("DoGet", "read, query, dataset, historical, dataset rows or batches").into()),
    }
}

async fn query(app: &Arc<App>, caller: &Caller, query: QueryCommand) -> Result<Outgoing<FlightData>, Status> {
    let (repository, reference) = wire::target(query.target.as_ref());
    let scope = app.enter(caller, Verb::ReadRows, repository, reference).await?;
    let rows = scope.query(&query.sql).await?;
    Ok(streams::outgoing(rows.schema, rows.batches.map_err(Error::from), None))
}

async fn read(app: &Arc<App>, caller: &Caller, read: ReadCommand) -> Result<Outgoing<FlightData>, Status> {
    let (repository, reference) = wire::target(read.target.as_ref());
    let verb = if read.quarantine { Verb::ReadQuarantine } else { Verb::ReadRows };
    let scope = app.enter(caller, verb, repository, reference).await?;
    let rows = scope.rows(&read.view, &read.columns, read.quarantine).await?;
    Ok(streams::outgoing(rows.schema, rows.batches.map_err(Error::from), None))
}

async fn dataset(app: &Arc<App>, caller: &Caller, wanted: DatasetCommand) -> Result<Outgoing<FlightData>, Status> {
    let (repository, reference) = wire::target(wanted.target.as_ref());
    let scope = app.enter(caller, Verb::ReadDataset, repository, reference).await?;
    let (manifest, rows) = scope.dataset_rows(&wanted.name, &wanted.split).await?;
    let content = manifest.content_digest.to_string();
    if !wanted.content_digest.is_empty() && wanted.content_digest != content {
        let message = format!("dataset {:?} has content {content}, not {}", wanted.name, wanted.content_digest);
        return Err(Error::Precondition(message).into());
    }
    let place = |name: &String| {
        let known = || rows.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        rows.schema().index_of(name).map_err(|_| Error::argument("columns", format!("there is no {name:?}; there are {}", known())))
    };
    let columns = match wanted.columns.as_slice() {
        [] => None,
        names => Some(names.iter().map(place).collect::<Result<Vec<_>, Error>>()?),
    };
    let all = || (0..rows.schema().fields().len()).collect::<Vec<_>>();
    let schema = rows.schema().project(&columns.clone().unwrap_or_else(all)).map_err(|error| Error::argument("columns", error.to_string()))?;
    let repository = RepositoryLabels { repository: scope.repo.name().to_owned() };
    let sent = app.metrics().dataset_rows.get_or_create(&repository).clone();
    let batches = rows.stream(columns).map_err(Error::from).inspect_ok(move |batch| {
        sent.inc_by(batch.num_rows() as u64);
    });
    Ok(streams::outgoing(Arc::new(schema), batches, None))
}

//! `DoGet`: rows of a view, of its quarantine or of a query, at a ref.

use std::sync::Arc;

use anabranch_proto::v1::flight_command::Command;
use arrow_flight::{FlightData, Ticket};
use futures::TryStreamExt;
use tonic::{Request, Status};

use super::{Outgoing, command, streams, wrong};
use crate::App;
use crate::auth::Verb;
use crate::error::Error;
use crate::grpc::caller;
use crate::wire;

pub(super) async fn get(app: &Arc<App>, request: Request<Ticket>) -> Result<Outgoing<FlightData>, Status> {
    let read = match command(&request.get_ref().ticket)? {
        Command::Read(read) => read,
        Command::Query(query) => {
            let (repository, reference) = wire::target(query.target.as_ref());
            let scope = app.enter(&caller(&request), Verb::ReadRows, repository, reference).await?;
            let rows = scope.query(&query.sql).await?;
            return Ok(streams::outgoing(rows.schema, rows.batches.map_err(Error::from), None));
        }
        _ => return Err(wrong("DoGet", "read or query").into()),
    };
    let (repository, reference) = wire::target(read.target.as_ref());
    let verb = if read.quarantine { Verb::ReadQuarantine } else { Verb::ReadRows };
    let scope = app.enter(&caller(&request), verb, repository, reference).await?;
    let rows = scope.rows(&read.view, &read.columns, read.quarantine).await?;
    Ok(streams::outgoing(rows.schema, rows.batches.map_err(Error::from), None))
}

//! `DoGet`: rows of a view or of its quarantine at a ref, a stretch of a saved dataset, or a rank's batches of one.

use std::sync::Arc;

use anabranch_proto::v1::flight_command::Command;
use arrow_flight::{FlightData, Ticket};
use futures::TryStreamExt;
use tonic::{Request, Status};

use super::{Outgoing, batches, command, streams, wrong};
use crate::App;
use crate::auth::Verb;
use crate::error::Error;
use crate::grpc::caller;
use crate::wire;

pub(super) async fn get(app: &Arc<App>, request: Request<Ticket>) -> Result<Outgoing<FlightData>, Status> {
    let caller = caller(&request);
    let read = match command(&request.get_ref().ticket)? {
        Command::Read(read) => read,
        Command::DatasetRows(rows) => return batches::rows(app, &caller, rows).await,
        Command::Batches(wanted) => return batches::batches(app, &caller, wanted).await,
        _ => return Err(wrong("DoGet", "read, dataset rows or batches").into()),
    };
    let (repository, reference) = wire::target(read.target.as_ref());
    let verb = if read.quarantine { Verb::ReadQuarantine } else { Verb::ReadRows };
    let scope = app.enter(&caller, verb, repository, reference).await?;
    let rows = scope.rows(&read.view, &read.columns, read.quarantine).await?;
    Ok(streams::outgoing(rows.schema, rows.batches.map_err(Error::from), None))
}

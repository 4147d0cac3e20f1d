//! Arrow Flight: rows in and out. What a descriptor's `cmd` or a ticket holds is a `FlightCommand` of the contract.
//!
//! | method | command | goes in | comes out |
//! | -- | -- | -- | -- |
//! | `DoExchange` | historical | the spine | the dataset; its footer is the metadata of the last message |
//! | `DoPut` | bulk | rows of a view | one result whose metadata is a `BulkReply` |
//! | `DoGet` | read | – | rows of a view or of its quarantine |
//! | `DoGet` | dataset | – | rows of a saved dataset, or of one of its splits |
//! | `DoGet` | historical | – | the dataset of a spine that the server makes, with its footer |
//! | `DoGet` | query | – | rows of a query over the feature views |
//! | `GetFlightInfo` | dataset | – | a saved dataset's schema and endpoints; its metadata is a `DatasetInfo` |
//! | `DoGet` | dataset rows | – | the rows of one of these endpoints, in order |
//! | `DoGet` | batches | – | a rank's batches of an epoch; metadata: a `BatchesStart` with the schema, a `BatchesChunk` with each message of rows |
//!
//! The other methods of Flight do not exist here. A stream that breaks off or does not decode is refused as a whole.

mod batches;
pub(crate) mod exchange;
mod get;
mod info;
mod put;
mod streams;

use std::sync::Arc;

use anabranch_proto::v1;
use anabranch_proto::v1::flight_command::Command;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult,
    Ticket,
};
use futures::stream::BoxStream;
use prost::Message;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::App;
use crate::error::{Error, Result};
use crate::grpc::FRAMING_BYTES;

type Outgoing<T> = BoxStream<'static, Result<T, Status>>;

/// The Flight service.
#[derive(Debug, Clone)]
pub(crate) struct Flight(Arc<App>);

/// The Flight service, ready to be routed.
pub(crate) fn service(app: &Arc<App>) -> FlightServiceServer<Flight> {
    let limit = app.config().limits.push_bytes + FRAMING_BYTES;
    FlightServiceServer::new(Flight(Arc::clone(app))).max_decoding_message_size(limit).max_encoding_message_size(usize::MAX)
}

/// The command in the bytes of a descriptor or ticket.
fn command(bytes: &[u8]) -> Result<Command> {
    let command = v1::FlightCommand::decode(bytes).map_err(|error| Error::argument("command", format!("it is no FlightCommand: {error}")))?;
    command.command.ok_or_else(|| Error::argument("command", "it is empty"))
}

fn wrong(method: &str, wanted: &str) -> Error {
    Error::argument("command", format!("{method} takes a {wanted} command"))
}

fn absent<T>(method: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("there is no {method} here: use DoExchange, DoPut, DoGet or GetFlightInfo with a FlightCommand")))
}

#[async_trait]
impl FlightService for Flight {
    type HandshakeStream = Outgoing<HandshakeResponse>;
    type ListFlightsStream = Outgoing<FlightInfo>;
    type DoGetStream = Outgoing<FlightData>;
    type DoPutStream = Outgoing<PutResult>;
    type DoExchangeStream = Outgoing<FlightData>;
    type DoActionStream = Outgoing<arrow_flight::Result>;
    type ListActionsStream = Outgoing<ActionType>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        Ok(Response::new(get::get(&self.0, request).await?))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        Ok(Response::new(put::put(&self.0, request).await?))
    }

    async fn do_exchange(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Ok(Response::new(exchange::exchange(&self.0, request).await?))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Result<Response<Self::HandshakeStream>, Status> {
        absent("Handshake")
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        absent("ListFlights")
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        Ok(Response::new(info::info(&self.0, request).await?))
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        absent("PollFlightInfo")
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        absent("GetSchema")
    }

    async fn do_action(&self, _: Request<arrow_flight::Action>) -> Result<Response<Self::DoActionStream>, Status> {
        absent("DoAction")
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        absent("ListActions")
    }
}

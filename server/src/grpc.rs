//! gRPC: each service of the contract, thin over [`crate::App`].
//!
//! A handler reads the target, enters (which authorises), calls one method of the domain layer and translates the answer.

mod datasets;
mod ingest;
mod objects;
mod online;
mod registry;
mod server;
mod tables;
mod versioning;

use std::sync::Arc;

use anabranch_proto::v1::datasets_server::DatasetsServer;
use anabranch_proto::v1::ingest_server::IngestServer;
use anabranch_proto::v1::objects_server::ObjectsServer;
use anabranch_proto::v1::online_server::OnlineServer;
use anabranch_proto::v1::registry_server::RegistryServer;
use anabranch_proto::v1::server_server::ServerServer;
use anabranch_proto::v1::tables_server::TablesServer;
use anabranch_proto::v1::versioning_server::VersioningServer;
use tonic::service::Routes;

use crate::App;
use crate::auth::{Caller, Verb};
use crate::error::Result;

/// Room for a message's own framing beside the rows that the limit counts.
pub(crate) const FRAMING_BYTES: usize = 64 << 10;

/// The services.
#[derive(Debug, Clone)]
pub(crate) struct Grpc(Arc<App>);

/// The routes of all gRPC services.
pub(crate) fn routes(app: &Arc<App>) -> Routes {
    let grpc = Grpc(Arc::clone(app));
    let limit = app.config().limits.push_bytes + FRAMING_BYTES;
    let mut routes = Routes::builder();
    routes
        .add_service(RegistryServer::new(grpc.clone()).max_decoding_message_size(limit))
        .add_service(VersioningServer::new(grpc.clone()))
        .add_service(IngestServer::new(grpc.clone()).max_decoding_message_size(limit))
        .add_service(OnlineServer::new(grpc.clone()).max_decoding_message_size(limit))
        .add_service(DatasetsServer::new(grpc.clone()))
        .add_service(ObjectsServer::new(grpc.clone()).max_decoding_message_size(limit))
        .add_service(TablesServer::new(grpc.clone()))
        .add_service(ServerServer::new(grpc));
    routes.routes()
}

impl Grpc {
    /// Lets the caller of a request in.
    async fn enter<T>(&self, request: &tonic::Request<T>, verb: Verb, (repository, reference): (&str, &str)) -> Result<crate::app::Scope> {
        self.0.enter(&caller(request), verb, repository, reference).await
    }
}

/// Who sent a request; [`crate::boundary`] put it there.
pub(crate) fn caller<T>(request: &tonic::Request<T>) -> Caller {
    request.extensions().get::<Caller>().cloned().unwrap_or_default()
}

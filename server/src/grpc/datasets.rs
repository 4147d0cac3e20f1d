//! The service `Datasets`.

use anabranch_offline_store::dataset::DatasetManifest;
use anabranch_proto::v1;
use anabranch_proto::v1::datasets_server::Datasets;
use tonic::{Request, Response, Status, async_trait};

use super::Grpc;
use crate::auth::Verb;
use crate::wire;

#[async_trait]
impl Datasets for Grpc {
    async fn list_datasets(&self, request: Request<v1::ListDatasetsRequest>) -> Result<Response<v1::ListDatasetsReply>, Status> {
        let scope = self.enter(&request, Verb::ReadDataset, wire::target(request.get_ref().target.as_ref())).await?;
        let datasets = scope.datasets().await?.iter().map(dataset).collect();
        Ok(Response::new(v1::ListDatasetsReply { datasets }))
    }

    async fn describe_dataset(&self, request: Request<v1::DescribeDatasetRequest>) -> Result<Response<v1::Dataset>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadDataset, wire::target(m.target.as_ref())).await?;
        Ok(Response::new(dataset(&scope.described_dataset(&m.name).await?)))
    }
}

fn dataset(manifest: &DatasetManifest) -> v1::Dataset {
    v1::Dataset { name: manifest.name.clone(), manifest: String::from_utf8_lossy(&manifest.to_bytes()).into_owned() }
}

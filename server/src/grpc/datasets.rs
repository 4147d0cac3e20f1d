//! The service `Datasets`.

use anabranch_offline_store::dataset::DatasetManifest;
use anabranch_proto::v1;
use anabranch_proto::v1::datasets_server::Datasets;
use tonic::{Request, Response, Status, async_trait};

use super::{Grpc, caller};
use crate::app::RefreshRequest;
use crate::auth::Verb;
use crate::error::Error;
use crate::flight::exchange::made;
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

    async fn create_dataset(&self, request: Request<v1::CreateDatasetRequest>) -> Result<Response<v1::Dataset>, Status> {
        let target = request.get_ref().historical.as_ref().and_then(|historical| historical.target.as_ref());
        self.enter(&request, Verb::SaveDataset, wire::target(target)).await?;
        let caller = caller(&request);
        let historical = request.into_inner().historical.unwrap_or_default();
        if historical.save_as.is_empty() {
            return Err(Error::argument("save_as", "a dataset that is created needs a name").into());
        }
        let (_, made) = made(&self.0, &caller, historical).await?;
        Ok(Response::new(dataset(&made.manifest)))
    }

    async fn refresh_dataset(&self, request: Request<v1::RefreshDatasetRequest>) -> Result<Response<v1::Dataset>, Status> {
        let scope = self.enter(&request, Verb::SaveDataset, wire::target(request.get_ref().target.as_ref())).await?;
        let v1::RefreshDatasetRequest { name, save_as, from_ref, author, .. } = request.into_inner();
        Ok(Response::new(dataset(&scope.refresh_dataset(RefreshRequest { name, from_ref, save_as, author }).await?.manifest)))
    }

    async fn diff_datasets(&self, request: Request<v1::DiffDatasetsRequest>) -> Result<Response<v1::DiffDatasetsReply>, Status> {
        let m = request.get_ref();
        let scope = self.enter(&request, Verb::ReadDataset, wire::target(m.target.as_ref())).await?;
        let diff = scope.diff_datasets(&m.left, &m.left_ref, &m.right, &m.right_ref).await?.to_string();
        Ok(Response::new(v1::DiffDatasetsReply { diff }))
    }
}

fn dataset(manifest: &DatasetManifest) -> v1::Dataset {
    v1::Dataset { name: manifest.name.clone(), manifest: String::from_utf8_lossy(&manifest.to_bytes()).into_owned() }
}

//! A server for one scenario: in this process, on a free port of the loopback, over a folder that goes when the scenario ends.

use std::path::Path;

use anabranch_client::{Changes, Client, Definition, Entity, FeatureService, FeatureView, Projection};
use anabranch_core::{DataType, Scalar};
use anabranch_server::{Config, RunningServer, Server};
use tempfile::TempDir;

/// A running server and its folder.
pub(crate) struct Bed {
    pub(crate) server: RunningServer,
    pub(crate) client: Client,
    _folder: TempDir,
}

impl Bed {
    /// Starts a server with its defaults.
    pub(crate) async fn start(parent: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(parent)?;
        let folder = tempfile::tempdir_in(parent)?;
        let config = Config { data: folder.path().to_owned(), listen: "127.0.0.1:0".parse()?, ..Config::default() };
        let server = Server::start(config).await?;
        let client = Client::connect(&format!("http://{}", server.addr())).await?;
        Ok(Self { server, client, _folder: folder })
    }

    /// Registers the views of [`register`].
    pub(crate) async fn register(&self, views: usize, features: usize) -> anyhow::Result<()> {
        register(&self.client, views, features).await
    }

    /// Ends the server.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        Ok(self.server.shutdown().await?)
    }
}

/// Registers views `view0…` of f64 features `f0_0…` over one entity, and a service of all of them.
pub(crate) async fn register(client: &Client, views: usize, features: usize) -> anyhow::Result<()> {
    let mut changes = Changes::new().define(Definition::Entity(Entity::new("entity", "entity", Scalar::I64)));
    let mut service = FeatureService::new("all");
    for view in 0..views {
        let mut definition = FeatureView::new(format!("view{view}"), "at").entity("entity");
        for i in 0..features {
            definition = definition.field(format!("f{view}_{i}"), DataType::Scalar(Scalar::F64));
        }
        changes = changes.define(Definition::FeatureView(definition));
        service = service.with(Projection::all(format!("view{view}")));
    }
    client.apply(&changes.define(Definition::FeatureService(service)), false, "bench").await?;
    Ok(())
}

//! `redoubt.v1.Cluster` of a fake node.

use super::service::{Service, refusal};
use redoubt_proto::v1;
use redoubt_proto::v1::cluster_server::Cluster;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl Cluster for Service {
    type CheckStream = futures_util::stream::Empty<Result<v1::CheckResponse, Status>>;

    async fn check(&self, _: Request<v1::CheckRequest>) -> Result<Response<Self::CheckStream>, Status> {
        Err(Status::unimplemented("a fake holds nothing"))
    }

    async fn identify(
        &self,
        _: Request<v1::IdentifyRequest>,
    ) -> Result<Response<v1::IdentifyResponse>, Status> {
        self.silence().await;
        let disk = self.disk.lock().unwrap().clone();
        let address = self.shared.lock().unwrap().addresses[self.index].clone();
        Ok(Response::new(v1::IdentifyResponse {
            node_id: disk.node_id,
            name: format!("n{}", self.index),
            address,
            cluster_id: self.cluster(),
            version: "0".to_owned(),
            replid: disk.seed.as_ref().map(|s| s.replid.clone()),
            members: disk.seed.map(|s| s.members).unwrap_or_default(),
        }))
    }

    async fn bootstrap(
        &self,
        r: Request<v1::BootstrapRequest>,
    ) -> Result<Response<v1::BootstrapResponse>, Status> {
        self.called("bootstrap");
        self.silence().await;
        let (r, mut disk) = (r.into_inner(), self.disk.lock().unwrap());
        let refused = match &disk.seed {
            Some(seed) if *seed != r => {
                Some(refusal(v1::Reason::WrongCluster, "bootstrapped as another one"))
            }
            _ => None,
        };
        if refused.is_none() {
            disk.seed = Some(r);
        }
        Ok(Response::new(v1::BootstrapResponse { refused }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        self.silence().await;
        let identity = self
            .identify(Request::new(v1::IdentifyRequest {}))
            .await?
            .into_inner();
        let leads = self.shared.lock().unwrap().leader == Some(self.index);
        Ok(Response::new(v1::StatusResponse {
            identity: Some(identity),
            role: if leads { "leader" } else { "follower" }.to_owned(),
            leader: None,
            description: Some(self.description(true)),
            members: Vec::new(),
            replicas: Vec::new(),
            disk: None,
            fold: None,
        }))
    }
}

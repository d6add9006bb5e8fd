//! As much of a container runtime as a node daemon asks for: every pod it is asked about has one container, of this
//! name and with this process.

use std::convert::Infallible;
use std::path::Path;
use std::task::{Context, Poll};

use k8s_cri::v1 as cri;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::codegen::http::{Request, Response};

#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub(crate) container: String,
    pub(crate) pid: i32,
}

impl Runtime {
    /// Serves on this socket while the set lives.
    pub(crate) fn serve(self, socket: &Path) -> JoinSet<()> {
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).expect("a socket"));
        let server = tonic::transport::Server::builder().add_service(self);
        let mut serving = JoinSet::new();
        serving.spawn(async move { server.serve_with_incoming(incoming).await.expect("serves") });
        serving
    }

    fn info(&self) -> std::collections::HashMap<String, String> {
        [("info".to_owned(), format!("{{\"pid\": {}}}", self.pid))].into()
    }

    /// Of the pod that is asked for, whichever it is.
    fn sandboxes(asked: &cri::ListPodSandboxRequest) -> cri::ListPodSandboxResponse {
        let labels = asked.filter.as_ref().map(|filter| filter.label_selector.clone()).unwrap_or_default();
        let uid = labels.get("io.kubernetes.pod.uid").cloned().unwrap_or_default();
        let metadata = cri::PodSandboxMetadata { uid, ..Default::default() };
        let sandbox = cri::PodSandbox {
            id: "sandbox".to_owned(),
            metadata: Some(metadata),
            state: cri::PodSandboxState::SandboxReady.into(),
            ..Default::default()
        };
        cri::ListPodSandboxResponse { items: vec![sandbox] }
    }

    fn containers(&self) -> cri::ListContainersResponse {
        let metadata = cri::ContainerMetadata { name: self.container.clone(), ..Default::default() };
        let container = cri::Container {
            id: "container".to_owned(),
            metadata: Some(metadata),
            state: cri::ContainerState::ContainerRunning.into(),
            ..Default::default()
        };
        cri::ListContainersResponse { containers: vec![container] }
    }
}

/// One call: a message in, a message out.
async fn call<Q, R>(
    request: Request<Body>,
    answer: impl Fn(Q) -> R + Clone + Send + 'static,
) -> Response<Body>
where
    Q: prost::Message + Default + Send + 'static,
    R: prost::Message + Default + Send + 'static,
{
    let answer = tower::service_fn(move |request: tonic::Request<Q>| {
        let answer = answer(request.into_inner());
        async move { Ok::<_, tonic::Status>(tonic::Response::new(answer)) }
    });
    let codec = tonic_prost::ProstCodec::<R, Q>::default();
    tonic::server::Grpc::new(codec).unary(answer, request).await
}

impl tower::Service<Request<Body>> for Runtime {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match method.as_str() {
                "ListPodSandbox" => call(request, |asked| Self::sandboxes(&asked)).await,
                "PodSandboxStatus" => {
                    let answer = move |_: cri::PodSandboxStatusRequest| cri::PodSandboxStatusResponse {
                        info: this.info(),
                        ..Default::default()
                    };
                    call(request, answer).await
                }
                "ListContainers" => {
                    call(request, move |_: cri::ListContainersRequest| this.containers()).await
                }
                "ContainerStatus" => {
                    let answer = move |_: cri::ContainerStatusRequest| cri::ContainerStatusResponse {
                        info: this.info(),
                        ..Default::default()
                    };
                    call(request, answer).await
                }
                _ => call(request, |_: cri::VersionRequest| cri::VersionResponse::default()).await,
            })
        })
    }
}

impl tonic::server::NamedService for Runtime {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

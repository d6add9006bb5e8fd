//! Pods, by the container runtime of this node. One connection a question: the runtime may restart at
//! any time, and questions are few.

use std::path::PathBuf;

use async_trait::async_trait;
use proto::injection::TargetRef;

use super::{ContainerIdentity, Found, Identity, Resolve, devices, is_own, spoken, unfit};
use crate::engine::Unfit;
use crate::system::cri::{Error, PodHandles, Runtime, find_socket};
use crate::system::netns;
use crate::system::target::{NetnsRef, Roots, identify};

/// Asks the runtime.
#[derive(Debug)]
pub struct Cri {
    /// The configured socket; found where absent.
    pub socket: Option<PathBuf>,
    /// Where the node's file systems are.
    pub roots: Roots,
}

#[async_trait]
impl Resolve for Cri {
    async fn resolve(&self, target: &TargetRef, container: Option<&str>) -> Result<Found, Unfit> {
        let pod = async { self.runtime().await?.pod(&target.uid).await };
        self.look(pod.await, container).await
    }

    async fn resolve_sandbox(&self, target: &TargetRef) -> Result<Found, Unfit> {
        let pod = async { self.runtime().await?.sandbox(&target.uid).await };
        self.look(pod.await, None).await
    }
}

impl Cri {
    async fn runtime(&self) -> Result<Runtime, Error> {
        Runtime::connect(&find_socket(self.socket.as_deref(), std::path::Path::new("/"))?).await
    }

    async fn look(&self, pod: Result<PodHandles, Error>, container: Option<&str>) -> Result<Found, Unfit> {
        let pod = pod.map_err(|error| match &error {
            Error::NoSandbox { .. } => Unfit::TargetGone(error.to_string()),
            _ => Unfit::Refused(spoken(&error)),
        })?;
        let (roots, wanted) = (self.roots.clone(), container.map(str::to_owned));
        // Reads of /proc and a namespace visit.
        let found = tokio::task::spawn_blocking(move || found(&roots, &pod, wanted.as_deref()));
        found.await.unwrap_or_else(|error| Err(Unfit::Refused(format!("look at the pod: {error}"))))
    }
}

fn found(roots: &Roots, pod: &PodHandles, wanted: Option<&str>) -> Result<Found, Unfit> {
    let chosen = match wanted {
        Some(name) => pod.containers.get(name),
        None => pod.containers.values().next(),
    };
    let container = chosen.map(|handles| {
        let target = identify(roots, handles.pid).map_err(|error| unfit(&error))?;
        Ok(ContainerIdentity::new(handles.id.clone(), &target))
    });
    let netns = netns_of(roots, pod)?;
    Ok(Found {
        devices: devices(&netns)?,
        is_host_network: is_own(roots, &netns),
        identity: Identity { sandbox: pod.sandbox_id.clone(), netns, container: container.transpose()? },
    })
}

/// By the sandbox's own process, so that a container's restart does not look like the end of the pod.
fn netns_of(roots: &Roots, pod: &PodHandles) -> Result<NetnsRef, Unfit> {
    let by_pid = |pid: i32| roots.proc.join(pid.to_string()).join("ns/net");
    let path = pod
        .sandbox_pid
        .map(by_pid)
        .or_else(|| pod.netns_path.clone().filter(|path| path.exists()))
        .or_else(|| pod.netns_pid().map(by_pid))
        .ok_or_else(|| {
            Unfit::Refused("the runtime does not say where the pod's network namespace is".to_owned())
        })?;
    Ok(NetnsRef { cookie: netns::cookie(&path).map_err(|error| unfit(&error))?, path })
}

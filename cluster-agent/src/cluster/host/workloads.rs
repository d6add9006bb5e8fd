//! Declared workloads as the agent sees them: they stand for pods on a machine without Kubernetes.

use std::path::Path;

use proto::plan::Owner;
use proto::workloads::{Workload, WorkloadsFile};

use crate::cluster::{DECLARED, PodSeen};

/// Reads the file; no file is no workloads.
pub(super) async fn read(path: &Path) -> Result<WorkloadsFile, String> {
    let text = match tokio::fs::read_to_string(path).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(WorkloadsFile::default()),
        Err(error) => return Err(format!("read {}: {error}", path.display())),
    };
    WorkloadsFile::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A workload as a running pod of one container that bears its name.
pub(super) fn seen(workload: &Workload, node: &str) -> PodSeen {
    let uid = Workload::uid(&workload.namespace, &workload.name);
    PodSeen {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
        uid: uid.clone(),
        node: node.to_owned(),
        ips: workload.ips.clone(),
        labels: workload.labels.clone(),
        owner: Owner {
            kind: DECLARED.to_owned(),
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            uid,
        },
        containers: vec![workload.name.clone()],
        host_network: false,
        running: true,
        terminating: false,
    }
}

//! The text of the configuration files of a node's parts. Pure; called by
//! `node` when it prepares one.

use std::path::Path;

use super::layout::{ClusterPlan, NodePlan};
use super::pki::Pair;

/// The image that holds a pod's namespaces open.
pub const PAUSE_IMAGE: &str = "docker.io/faultline/pause:lab";

/// containerd: the standard root, state and socket, which each node has for
/// itself, and no need for CAP_SYS_RESOURCE.
pub fn containerd(cni_conf: &Path) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.native"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#,
        conf = cni_conf.display()
    )
}

/// The pod network: a bridge per node, routed by the machine, no masquerading.
pub fn cni(node: &NodePlan) -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "lab", "plugins": [
  {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {{"type": "host-local", "dataDir": "/run/cni", "ranges": [[{{"subnet": "{range}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
]}}
"#,
        range = node.pod_range
    )
}

/// The kubelet, for cgroup v1 or v2 and a machine without CAP_SYS_RESOURCE.
pub fn kubelet(
    cluster: &ClusterPlan,
    node: &NodePlan,
    client_ca: &Path,
    serving: &Pair,
    resolv: &Path,
) -> String {
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: "{ca}"}}}}
authorization: {{mode: Webhook}}
tlsCertFile: "{cert}"
tlsPrivateKeyFile: "{key}"
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
failCgroupV1: false
failSwapOn: false
featureGates: {{KubeletInUserNamespace: true}}
localStorageCapacityIsolation: false
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
oomScoreAdj: 0
volumePluginDir: /var/lib/kubelet/volume-plugins
resolvConf: "{resolv}"
clusterDNS: ["{dns}"]
clusterDomain: cluster.local
maxPods: 200
registryPullQPS: 0
imageGCHighThresholdPercent: 100
evictionHard: {{memory.available: "0%", nodefs.available: "0%", imagefs.available: "0%", nodefs.inodesFree: "0%"}}
"#,
        ca = client_ca.display(),
        cert = serving.cert.display(),
        key = serving.key.display(),
        cgroup = node.netns,
        resolv = resolv.display(),
        dns = cluster.dns_address(),
    )
}

/// kube-proxy in iptables mode; the connection table's limits belong to the machine.
pub fn kube_proxy(cluster: &ClusterPlan, node: &NodePlan, kubeconfig: &Path) -> String {
    format!(
        r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
hostnameOverride: {name}
bindAddress: 0.0.0.0
clusterCIDR: {range}
clientConnection: {{kubeconfig: "{kubeconfig}"}}
oomScoreAdj: 0
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"#,
        name = node.name,
        range = cluster.pod_range,
        kubeconfig = kubeconfig.display(),
    )
}

/// coredns on the first node's address; what is not the cluster's does not exist.
pub fn corefile(cluster: &ClusterPlan, kubeconfig: &Path) -> String {
    format!(
        "cluster.local in-addr.arpa ip6.arpa {{
    bind {address}
    errors
    ready {address}:8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 2
    }}
}}
. {{
    bind {address}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
",
        address = cluster.dns_address(),
        kubeconfig = kubeconfig.display(),
    )
}

//! An agent's door on an apiserver that a test plays.

use super::{Kube, LeaseTiming, Settings, from_config};

/// A door on the apiserver at this URL.
pub(super) fn agent(address: &str) -> Kube {
    let (client, host) = from_config(kube::Config::new(address.parse().unwrap())).unwrap();
    let named = |name: &str| name.to_owned();
    let settings = Settings {
        namespace: named("faultline"),
        pod_name: named("agent-0"),
        lease_name: named("lease"),
        identity_secret: named("identity"),
        node_ca_secret: named("node-ca"),
        node_bundle_configmap: named("bundle"),
        node_service_account: named("node"),
        lease: LeaseTiming::default(),
        api_faults_only: false,
    };
    Kube::new(client, host, settings)
}

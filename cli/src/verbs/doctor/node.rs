//! From a node daemon's place: the way to its agent, and what kernel and runtime lack.

use certs::client::{self, Expect, Trust};
use certs::{Protocol, Reloadable, ReloadableIdentity, TrustBundle};
use node_daemon::Config;
use proto::cluster::capability;

use super::reach::Way;
use super::{Report, State};

/// No service of ours: answered without looking at anything.
const NOWHERE: &str = "/faultline.doctor";

/// The way to the active agent.
pub(super) async fn link(report: &mut Report, config: &Config) {
    let Some(agent) = &config.agent else { return };
    match std::fs::read_to_string(&agent.token) {
        Ok(text) if !text.trim().is_empty() => report.ok("service-account-token", "is there"),
        Ok(_) => report.add("service-account-token", State::Failed, "is empty", "see the projected volume"),
        Err(error) => {
            let message = format!("{}: {error}", agent.token.display());
            report.add("service-account-token", State::Failed, message, "see the projected volume");
        }
    }
    let bundle = std::fs::read_to_string(&agent.bundle).map_err(|error| error.to_string());
    let bundle = bundle.and_then(|pem| TrustBundle::from_pem(&pem).map_err(|error| error.to_string()));
    let bundle = match bundle {
        Ok(bundle) => bundle,
        Err(error) => {
            let message = format!("{}: {error}", agent.bundle.display());
            let cure =
                "the active agent writes it to the ConfigMap once it is enrolled: look at the agent first";
            return report.add("agent-bundle", State::Failed, message, cure);
        }
    };
    report.ok("agent-bundle", "can be used");
    let trust = Trust::Bundle(Reloadable::new(bundle));
    let tls = client::config(&ReloadableIdentity::empty(), trust, Expect::Name, Protocol::Grpc);
    match tls {
        Ok(tls) => {
            let address = &agent.address;
            let way =
                Way { id: "agent", address, config: tls, server_name: None, proxy: None, path: NOWHERE };
            way.check(report).await;
        }
        Err(error) => report.add("agent.tls", State::Failed, error.to_string(), ""),
    }
}

/// What this node can do, as its daemon would say it.
pub(super) fn capabilities(report: &mut Report, config: &Config) {
    let found = node_daemon::probe(config);
    for (name, state) in &found.capabilities {
        let id = format!("capability.{name}");
        if state.present {
            report.about(&id, &config.node, State::Ok, state.detail.clone(), "");
        } else {
            report.about(&id, &config.node, State::Warning, state.detail.clone(), cure(name));
        }
    }
}

/// How a node comes by a capability.
pub(super) fn cure(name: &str) -> &'static str {
    match name {
        capability::NFT_SETS => "load nf_tables (modprobe nf_tables), and run the daemon privileged",
        capability::NFQUEUE => "load nfnetlink_queue and nft_queue or xt_NFQUEUE",
        capability::NETEM => {
            "load sch_netem and sch_prio; distributions ship them in kernel-modules-extra or linux-modules-extra"
        }
        capability::FREEZER => "mount the cgroup hierarchy of the node and point --cgroup-root at it",
        capability::CPU_CGROUP => "enable the cpu controller in the node's cgroup hierarchy",
        capability::CRI => "mount the runtime's socket into the daemon, or name it with --runtime-socket",
        capability::KEEPER => "run the daemon privileged, with the node's cgroup hierarchy writable",
        _ => "see `faultline faults` for what needs it",
    }
}

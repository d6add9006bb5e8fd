//! From an agent's place: can it enrol, can it hold its link, and for how long.

use certs::client::{self, Expect, Trust};
use certs::{Credential, JoinToken, Lifetime, Protocol, Reloadable, ReloadableIdentity, TrustBundle};
use cluster_agent::Config;
use cluster_agent::link::identity::{Enrolled, StoredIdentity};
use jiff::Timestamp;

use super::reach::Way;
use super::{Report, State};

/// No service of ours: answered without looking at anything.
const NOWHERE: &str = "/faultline.doctor";
const INVITE: &str =
    "run `faultline clusters invite NAME` and put the token where --join-token-file reads it";

pub(super) async fn look(
    report: &mut Report,
    config: &Config,
    stored: anyhow::Result<Option<StoredIdentity>>,
) {
    let token = token(report, config);
    let stored = match stored {
        Ok(stored) => stored,
        Err(error) => {
            let cure = "run this where the agent runs, with its service account";
            report.add("identity", State::Warning, format!("cannot be looked at: {error:#}"), cure);
            None
        }
    };
    if let Some(token) = &token {
        enrolment(report, config, token).await;
    }
    match &stored {
        Some(stored @ StoredIdentity { enrolled: Some(enrolled), cluster, .. }) => {
            report.ok("identity", format!("enrolled as {cluster}"));
            if lifetime(report, enrolled, stored, Timestamp::now()) {
                recovery(report, config, enrolled, stored).await;
            } else {
                let known = stored.centre.addresses(&enrolled.link_endpoints);
                link(report, config, enrolled, &stored.key_pem, &known).await;
            }
        }
        _ if token.is_some() => {
            report.add(
                "identity",
                State::Warning,
                "not enrolled yet",
                "start the agent: it has a join token",
            );
        }
        _ => report.add("identity", State::Failed, "neither enrolled nor a join token", INVITE),
    }
}

fn token(report: &mut Report, config: &Config) -> Option<JoinToken> {
    let file = config.join_token_file.as_ref()?;
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            let message = format!("{}: {error}", file.display());
            report.add("token", State::Failed, message, "let this user read it");
            return None;
        }
    };
    match text.parse::<JoinToken>() {
        Ok(token) => {
            report.ok("token", format!("for cluster {} at {}", token.cluster, token.addr));
            Some(token)
        }
        Err(error) => {
            report.add("token", State::Failed, error.to_string(), INVITE);
            None
        }
    }
}

async fn enrolment(report: &mut Report, config: &Config, token: &JoinToken) {
    let trust = Trust::Pin(token.pin);
    match client::config(&ReloadableIdentity::empty(), trust, Expect::Name, Protocol::Grpc) {
        Ok(tls) => {
            let way = Way {
                id: "enrol",
                address: &token.addr,
                config: tls,
                server_name: token.server_name.as_deref(),
                proxy: config.proxy.as_ref(),
                path: NOWHERE,
            };
            way.check(report).await;
        }
        Err(error) => report.add("enrol.tls", State::Failed, error.to_string(), ""),
    }
}

/// The link as the agent dials it, with its certificate; no session is opened.
async fn link(report: &mut Report, config: &Config, enrolled: &Enrolled, key_pem: &str, known: &[String]) {
    let credential = Credential { chain_pem: enrolled.chain_pem.clone(), key_pem: key_pem.to_owned() };
    let identity = ReloadableIdentity::new(&credential);
    let bundle = TrustBundle::from_pem(&enrolled.bundle_pem);
    let (identity, bundle) = match (identity, bundle) {
        (Ok(identity), Ok(bundle)) => (identity, Trust::Bundle(Reloadable::new(bundle))),
        (Err(error), _) => return report.add("identity", State::Failed, error.to_string(), INVITE),
        (_, Err(error)) => return report.add("identity", State::Failed, error.to_string(), INVITE),
    };
    let tls = match client::config(&identity, bundle, Expect::Name, Protocol::Grpc) {
        Ok(tls) => tls,
        Err(error) => return report.add("link.tls", State::Failed, error.to_string(), ""),
    };
    let endpoints = if config.link_endpoints.is_empty() { known } else { &config.link_endpoints };
    for address in endpoints {
        let way = Way {
            id: "link",
            address,
            config: tls.clone(),
            server_name: None,
            proxy: config.proxy.as_ref(),
            path: NOWHERE,
        };
        way.check(report).await;
    }
}

/// Whether the certificate expired.
fn lifetime(report: &mut Report, enrolled: &Enrolled, stored: &StoredIdentity, now: Timestamp) -> bool {
    let lifetime = match Lifetime::of_chain_pem(&enrolled.chain_pem) {
        Ok(lifetime) => lifetime,
        Err(error) => {
            report.add("certificate", State::Failed, error.to_string(), INVITE);
            return false;
        }
    };
    let left = lifetime.not_after.duration_since(now);
    let half = lifetime.not_after.duration_since(lifetime.not_before) / 2;
    let message = format!("valid until {}", lifetime.not_after);
    if left.is_negative() {
        let expired = format!("expired at {}", lifetime.not_after);
        let replace = "run `faultline clusters replace NAME` and give the agent the new token";
        if stored.identity_key_pem.is_none() || stored.enrol_endpoints().is_empty() {
            let why = "and it cannot recover: no identity key, or no place to enrol, was kept by the version that enrolled";
            report.add("certificate", State::Failed, format!("{expired}, {why}"), replace);
        } else {
            let message = format!("{expired}; the agent recovers by its identity key when it runs");
            let cure = "see the checks of recover; where the control plane refuses, the agent's log says why";
            report.add("certificate", State::Warning, message, cure);
            return true;
        }
    } else if left < half / 2 {
        let cure = "it is renewed at half its life over the link: see the checks of the link";
        report.add("certificate", State::Warning, message, cure);
    } else {
        report.ok("certificate", message);
    }
    false
}

/// The way that a recovery goes; nothing is asked for.
async fn recovery(report: &mut Report, config: &Config, enrolled: &Enrolled, stored: &StoredIdentity) {
    let bundle = match TrustBundle::from_pem(&enrolled.bundle_pem) {
        Ok(bundle) => Trust::Bundle(Reloadable::new(bundle)),
        Err(error) => return report.add("identity", State::Failed, error.to_string(), INVITE),
    };
    match client::config(&ReloadableIdentity::empty(), bundle, Expect::Name, Protocol::Grpc) {
        Ok(tls) => {
            for endpoint in stored.enrol_endpoints() {
                let way = Way {
                    id: "recover",
                    address: &endpoint.addr,
                    config: tls.clone(),
                    server_name: endpoint.server_name.as_deref(),
                    proxy: config.proxy.as_ref(),
                    path: NOWHERE,
                };
                way.check(report).await;
            }
        }
        Err(error) => report.add("recover.tls", State::Failed, error.to_string(), ""),
    }
}

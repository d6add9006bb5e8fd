//! From an operator's place: the way to the centre, who one is there, then the members.

use std::time::Duration;

use certs::client::{self, Expect, Trust};
use certs::{Protocol, Reloadable, ReloadableIdentity, TrustBundle};
use proto::rest::{ClusterView, WhoAmI};

use super::reach::Way;
use super::{Report, State, members};
use crate::args::Global;
use crate::client::Client;
use crate::context::Context;

pub(super) async fn look(report: &mut Report, global: &Global) {
    let context = match crate::context::choose(global.context.as_deref()) {
        Ok(context) => context,
        Err(error) => return report.add("context", State::Failed, format!("{error:#}"), "log in"),
    };
    report.ok("context", context.server.clone());
    let proxy = match crate::client::proxy() {
        Ok(proxy) => proxy,
        Err(error) => {
            return report.add("proxy", State::Failed, format!("{error:#}"), "correct the environment");
        }
    };
    let address = match crate::client::authority(&context.server) {
        Ok(address) if address.contains(':') => address,
        Ok(address) => format!("{address}:443"),
        Err(error) => return report.add("context", State::Failed, error.to_string(), "log in again"),
    };
    let tls = trust(&context).and_then(|trust| {
        let nobody = ReloadableIdentity::empty();
        Ok(client::config(&nobody, trust, Expect::Name, Protocol::Http)?)
    });
    let tls = match tls {
        Ok(tls) => tls,
        Err(error) => return report.add("rest.tls", State::Failed, format!("{error:#}"), "log in again"),
    };
    let proxy = proxy.as_ref();
    let way =
        Way { id: "rest", address: &address, config: tls, server_name: None, proxy, path: "/v1/whoami" };
    if !way.check(report).await {
        return;
    }
    if let Err(error) = ask(report, &context, global.request_timeout).await {
        report.add("rest", State::Failed, format!("{error:#}"), "see the message");
    }
}

fn trust(context: &Context) -> anyhow::Result<Trust> {
    Ok(match (&context.pin, &context.ca_pem) {
        (Some(pin), _) => Trust::Pin(pin.parse()?),
        (None, Some(pem)) => Trust::Bundle(Reloadable::new(TrustBundle::from_pem(pem)?)),
        (None, None) => anyhow::bail!("the context has neither pin nor CA bundle"),
    })
}

async fn ask(report: &mut Report, context: &Context, within: Duration) -> anyhow::Result<()> {
    let client = Client::new(context)?.within(within);
    match client.get::<WhoAmI>("/v1/whoami").await {
        Ok(who) => report.ok("role", format!("{} ({})", who.name, crate::output::word(&who.role))),
        Err(error) => {
            let cure = "log in again with a token that is in force";
            report.add("role", State::Failed, format!("{error:#}"), cure);
            return Ok(());
        }
    }
    let clusters: Vec<ClusterView> = client.list("/v1/clusters").await?;
    if clusters.is_empty() {
        report.add("clusters", State::Warning, "no member", "invite one: faultline clusters invite NAME");
    }
    for cluster in &clusters {
        members::look(report, cluster, jiff::Timestamp::now());
    }
    Ok(())
}

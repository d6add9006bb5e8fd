//! `faultline grant`: the centre's half of the authority.

use proto::grant::{GrantFrom, GrantSpec, GrantTo};
use proto::rest::GrantView;
use proto::selector::ClusterSelector;
use serde_json::{Value, json};

use crate::args::{Form, GrantArgs};
use crate::client::{Client, segment};
use crate::exit::{Exit, Misuse};
use crate::output;

/// The name and the checked spec.
pub(crate) fn request(args: GrantArgs) -> anyhow::Result<(String, Value)> {
    let named = |names: Vec<String>| ClusterSelector { names, label_selector: None, on_unavailable: None };
    let clusters = (!args.from_cluster.is_empty()).then(|| named(args.from_cluster));
    let spec = GrantSpec {
        from: GrantFrom { operators: args.operator, clusters, namespaces: args.from_namespace },
        to: GrantTo {
            clusters: named(args.to_cluster),
            namespaces: args.to_namespace,
            kinds: args.kind,
            max_targets: args.max_targets,
        },
    };
    let value = serde_json::to_value(&spec)?;
    if let Err(problems) = proto::validate::grant(&value) {
        return Err(Misuse(problems.to_string()).into());
    }
    Ok((args.name, value))
}

pub(crate) async fn run((name, spec): (String, Value), client: &Client, form: Form) -> anyhow::Result<Exit> {
    let view: GrantView =
        client.put(&format!("/v1/grants/{}", segment(&name)), &json!({ "spec": spec })).await?;
    output::done(form, "grant", &view.name, "stored")?;
    Ok(Exit::Ok)
}

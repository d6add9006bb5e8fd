//! `faultline get`: lists, and single things.

use proto::rest::{AuditRecord, ClusterView, ExperimentView, GrantView, RunView};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{Form, GetArgs, Noun};
use crate::client::{Client, segment};
use crate::exit::{Exit, Misuse};
use crate::output::{self, word};

pub(crate) async fn run(client: &Client, form: Form, args: &GetArgs) -> anyhow::Result<Exit> {
    let name = args.name.as_deref();
    match args.noun {
        Noun::Runs => {
            let head = ["NAME", "ID", "PHASE", "OUTCOME", "VERDICT", "RESIDUE", "CREATED"];
            show::<RunView>(client, form, "/v1/runs", name, &head, run_row).await
        }
        Noun::Experiments => {
            let head = ["NAME", "ORIGIN", "NAMESPACE", "HASH"];
            show::<ExperimentView>(client, form, "/v1/experiments", name, &head, |e| {
                vec![e.name.clone(), e.origin.clone(), e.namespace.clone(), e.hash.chars().take(12).collect()]
            })
            .await
        }
        Noun::Clusters => {
            let head = ["NAME", "ID", "STATE", "NODES", "DAEMONS", "PODS", "VERSION"];
            show::<ClusterView>(client, form, "/v1/clusters", name, &head, cluster_row).await
        }
        Noun::Grants => {
            let head = ["NAME", "FROM", "TO CLUSTERS", "NAMESPACES", "KINDS", "MAX TARGETS"];
            show::<GrantView>(client, form, "/v1/grants", name, &head, grant_row).await
        }
        Noun::Halts => super::halt::show(client, form, name).await,
        Noun::Audit => {
            if name.is_some() {
                return Err(Misuse("audit records have no name: leave it out".to_owned()).into());
            }
            let head = ["REPLICA", "SEQ", "AT", "BY", "ACTION", "SUBJECT", "RESULT"];
            show::<AuditRecord>(client, form, "/v1/audit", name, &head, |a| {
                let text = [&a.by, &a.action, &a.subject, &a.result].map(Clone::clone);
                let mut row = vec![a.replica.clone(), a.seq.to_string(), a.at.to_string()];
                row.extend(text);
                row
            })
            .await
        }
    }
}

async fn show<T: DeserializeOwned + Serialize>(
    client: &Client,
    form: Form,
    path: &str,
    name: Option<&str>,
    head: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> anyhow::Result<Exit> {
    if let Some(name) = name {
        let one: T = client.get(&format!("{path}/{}", segment(name))).await?;
        output::print(form, &one, head, || vec![row(&one)])?;
    } else {
        let items: Vec<T> = client.list(path).await?;
        output::print(form, &items, head, || items.iter().map(&row).collect())?;
    }
    Ok(Exit::Ok)
}

fn run_row(run: &RunView) -> Vec<String> {
    let summary = &run.summary;
    vec![
        run.record.name.clone(),
        run.record.id.to_string(),
        word(&summary.phase),
        summary.outcome.as_ref().map_or_else(|| "-".to_owned(), word),
        word(&summary.verdict),
        word(&summary.residue),
        run.record.created_at.to_string(),
    ]
}

pub(crate) fn cluster_row(cluster: &ClusterView) -> Vec<String> {
    let status = &cluster.status;
    // One that never enrolled said nothing, so nothing is known of it.
    let known = |text: String| if status.version.is_empty() { "-".to_owned() } else { text };
    vec![
        cluster.spec.name.clone(),
        cluster.spec.id.to_string(),
        word(&cluster.state),
        known(status.inventory.node_count.to_string()),
        known(status.inventory.daemons.to_string()),
        known(status.inventory.pods.to_string()),
        known(status.version.clone()),
    ]
}

fn grant_row(grant: &GrantView) -> Vec<String> {
    let (from, to) = (&grant.spec.from, &grant.spec.to);
    let who = if from.operators.is_empty() {
        let clusters = from.clusters.as_ref().map(|c| c.names.join(",")).unwrap_or_default();
        format!("{clusters}/{}", from.namespaces.join(","))
    } else {
        format!("operators {}", from.operators.join(","))
    };
    vec![
        grant.name.clone(),
        who,
        to.clusters.names.join(","),
        to.namespaces.join(","),
        to.kinds.join(","),
        to.max_targets.to_string(),
    ]
}

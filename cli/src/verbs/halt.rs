//! `faultline halt`: the latched stop.

use std::time::Duration;

use proto::cluster::ClusterState;
use proto::halt::{HaltLevel, HaltScope};
use proto::rest::{ClusterView, HaltView, SetHalt, Taken};
use proto::selector::{ClusterSelector, LabelSelector};

use crate::args::{Form, HaltCommand, HaltSetArgs, pairs};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{self, word};

pub(crate) async fn run(client: &Client, form: Form, command: HaltCommand) -> anyhow::Result<Exit> {
    match command {
        HaltCommand::Set(args) => set(client, form, args).await,
        HaltCommand::Status => show(client, form, None).await,
        HaltCommand::Release { id } => {
            client.delete(&format!("/v1/halts/{}", segment(&id))).await?;
            output::done(form, "halt", &id, "released")?;
            Ok(Exit::Ok)
        }
    }
}

async fn set(client: &Client, form: Form, args: HaltSetArgs) -> anyhow::Result<Exit> {
    let scope = scope(client, &args).await?;
    let request = SetHalt { id: args.id, scope, reason: args.reason };
    let taken: Taken<HaltView> = client.post("/v1/halts", &request).await?;
    not_persisted(&taken);
    let view = taken.view;
    let id = view.halt.id.clone();
    if args.no_wait {
        print(form, &[view])?;
        return Ok(Exit::Ok);
    }
    output::note(&format!(
        "halt {id} is set; waiting until every connected cluster is Clean (Ctrl-C does not lift it)"
    ));
    loop {
        let halts: Vec<HaltView> = client.list("/v1/halts").await?;
        let Some(view) = halts.into_iter().find(|h| h.halt.id == id) else {
            anyhow::bail!("halt {id} is not listed any more: was it released meanwhile?");
        };
        let clusters: Vec<ClusterView> = client.list("/v1/clusters").await?;
        let is_connected = |name: &String| {
            clusters.iter().any(|c| c.spec.name == *name && c.state == ClusterState::Connected)
        };
        let (here, away): (Vec<_>, Vec<_>) = view
            .clusters
            .iter()
            .filter(|(_, level)| **level != HaltLevel::Clean)
            .partition(|(name, _)| is_connected(name));
        if here.is_empty() {
            if !away.is_empty() {
                let names: Vec<_> = away.into_iter().map(|(name, _)| name.as_str()).collect();
                output::note(&format!("not connected, not known to be Clean: {}", names.join(", ")));
            }
            print(form, &[view])?;
            return Ok(Exit::Ok);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Says how far a stop or a halt came that the store does not have yet.
pub(super) fn not_persisted<T>(taken: &Taken<T>) {
    if taken.persisted {
        return;
    }
    let reached = taken.replicas.unwrap_or_default();
    output::note(&format!(
        "in force, but the store cannot be reached: {} of {} other replicas told their clusters so far; it is \
         written as soon as the store is back",
        reached.told, reached.known
    ));
}

async fn scope(client: &Client, args: &HaltSetArgs) -> anyhow::Result<HaltScope> {
    if args.fleet {
        return Ok(HaltScope::Fleet);
    }
    if let Some(name) = &args.cluster {
        let view: ClusterView = client.get(&format!("/v1/clusters/{}", segment(name))).await?;
        let cluster = view.spec.id;
        return Ok(match &args.namespace {
            Some(namespace) => HaltScope::Namespace { cluster, namespace: namespace.clone() },
            None => HaltScope::Cluster { cluster },
        });
    }
    let labels = LabelSelector { match_labels: pairs(&args.label)?, match_expressions: Vec::new() };
    let selector = ClusterSelector { names: Vec::new(), label_selector: Some(labels), on_unavailable: None };
    Ok(HaltScope::Clusters { selector })
}

/// Every halt, or the one of this id, and how far each cluster has come.
pub(crate) async fn show(client: &Client, form: Form, id: Option<&str>) -> anyhow::Result<Exit> {
    let mut halts: Vec<HaltView> = client.list("/v1/halts").await?;
    if let Some(id) = id {
        halts.retain(|view| view.halt.id.as_str() == id);
        anyhow::ensure!(!halts.is_empty(), "halt {id} is not in force");
    }
    print(form, &halts)?;
    Ok(Exit::Ok)
}

fn print(form: Form, halts: &[HaltView]) -> anyhow::Result<()> {
    output::print(form, &halts, &["ID", "SCOPE", "BY", "AT", "CLUSTERS", "REASON"], || {
        halts.iter().map(row).collect()
    })
}

fn row(view: &HaltView) -> Vec<String> {
    let halt = &view.halt;
    let scope = match &halt.scope {
        HaltScope::Fleet => "fleet".to_owned(),
        HaltScope::Clusters { .. } => "clusters".to_owned(),
        HaltScope::Cluster { cluster } => format!("cluster {cluster}"),
        HaltScope::Namespace { cluster, namespace } => format!("namespace {cluster}/{namespace}"),
    };
    let levels: Vec<String> =
        view.clusters.iter().map(|(name, level)| format!("{name}={}", word(level))).collect();
    vec![
        halt.id.to_string(),
        scope,
        halt.by.clone(),
        halt.at.to_string(),
        levels.join(" "),
        halt.reason.clone(),
    ]
}

//! `faultline describe`: everything known of one thing.

use proto::assignment::Observed;
use proto::cluster::ClusterState;
use proto::injection::InjectionStatus;
use proto::rest::{ClusterView, RunCluster, RunView};

use crate::args::{DescribeArgs, Described, Form};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{self, word};
use crate::verbs::watch::progress;

pub(crate) async fn run(client: &Client, form: Form, args: &DescribeArgs) -> anyhow::Result<Exit> {
    match args.noun {
        Described::Run => {
            let view: RunView = client.get(&format!("/v1/runs/{}", segment(&args.name))).await?;
            print_run(form, &view)?;
        }
        Described::Cluster => {
            let view: ClusterView = client.get(&format!("/v1/clusters/{}", segment(&args.name))).await?;
            print_cluster(form, &view)?;
        }
    }
    Ok(Exit::Ok)
}

/// A run in full, in the asked form.
pub(crate) fn print_run(form: Form, view: &RunView) -> anyhow::Result<()> {
    match form {
        Form::Json => output::data(&serde_json::to_string_pretty(view)?),
        Form::Yaml => output::data(&serde_saphyr::to_string(view)?),
        Form::Table => output::data(&run_text(view)),
    }
}

/// A run for people.
pub(crate) fn run_text(view: &RunView) -> String {
    let summary = &view.summary;
    let outcome = summary.outcome.as_ref().map_or_else(|| "-".to_owned(), word);
    let until = summary.residue_resolves_at.map_or_else(String::new, |t| format!(" until {t}"));
    let mut parts = vec![
        format!("Run      {} ({})", view.record.name, summary.id),
        format!("Phase    {}", word(&summary.phase)),
        format!("Outcome  {outcome} {}", summary.reason).trim_end().to_owned(),
        format!("Verdict  {}", word(&summary.verdict)),
        format!("Residue  {}{until}", word(&summary.residue)),
    ];
    if !summary.message.is_empty() {
        parts.push(format!("Message  {}", summary.message));
    }
    parts.extend(summary.refusals.iter().map(|refusal| {
        format!("  {}: {}; by the {}: {}", refusal.code, refusal.message, refusal.whose, refusal.cure)
    }));
    let tables = [
        (
            ["CLUSTER", "PHASE", "OUTCOME", "VERDICT", "RESIDUE", "INJECTED", "REVERTED", "REASON"]
                .as_slice(),
            view.clusters.iter().map(cluster_row).collect(),
        ),
        (&["CLUSTER", "PROBE", "STAGE", "GOOD", "BAD", "MEDIAN", "MAX"], probe_rows(view)),
        (
            &["CLUSTER", "INJECTION", "TARGET", "PHASE", "ENDED BY", "EFFECT", "BACKEND", "MESSAGE"],
            injection_rows(view),
        ),
    ];
    let filled = tables.into_iter().filter(|(_, rows): &(_, Vec<_>)| !rows.is_empty());
    // A message makes no lines of its own.
    let mut parts: Vec<String> = parts.iter().map(|part| output::line(part).into_owned()).collect();
    parts.extend(filled.map(|(head, rows)| output::table(head, rows)));
    parts.join("\n")
}

fn cluster_row(cluster: &RunCluster) -> Vec<String> {
    let Some(o) = &cluster.observed else {
        let silent = if cluster.connected { "Pending" } else { "Unknown" };
        return vec![
            cluster.name.clone(),
            silent.to_owned(),
            "-".into(),
            "-".into(),
            "-".into(),
            "-".into(),
            "-".into(),
            String::new(),
        ];
    };
    vec![
        cluster.name.clone(),
        word(&o.phase),
        o.outcome.as_ref().map_or_else(|| "-".to_owned(), word),
        word(&o.verdict),
        word(&o.residue),
        format!("{}/{}", o.counts.injected, o.counts.total),
        o.counts.reverted.to_string(),
        o.reason.clone(),
    ]
}

fn probe_rows(view: &RunView) -> Vec<Vec<String>> {
    let ms = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    let mut rows = Vec::new();
    for cluster in &view.clusters {
        for probe in cluster.observed.iter().flat_map(|o| &o.probes) {
            for (stage, report) in &probe.stages {
                rows.push(vec![
                    cluster.name.clone(),
                    probe.name.clone(),
                    word(stage),
                    report.good.to_string(),
                    report.bad.to_string(),
                    ms(report.median_ms),
                    ms(report.max_ms),
                ]);
            }
        }
    }
    rows
}

fn injection_rows(view: &RunView) -> Vec<Vec<String>> {
    let row = |cluster: &RunCluster, observed: &Observed, injection: &InjectionStatus| {
        vec![
            cluster.name.clone(),
            progress::short(injection.id.as_str()).to_owned(),
            progress::target(observed, injection),
            word(&injection.phase),
            injection.reason.as_ref().map_or_else(|| "-".to_owned(), word),
            injection.effect.as_ref().map_or_else(|| "-".to_owned(), word),
            injection.backend.clone(),
            injection.message.clone(),
        ]
    };
    let seen = view.clusters.iter().filter_map(|cluster| Some((cluster, cluster.observed.as_ref()?)));
    seen.flat_map(|(cluster, observed)| observed.injections.iter().map(move |i| row(cluster, observed, i)))
        .collect()
}

fn print_cluster(form: Form, view: &ClusterView) -> anyhow::Result<()> {
    match form {
        Form::Json => return output::data(&serde_json::to_string_pretty(view)?),
        Form::Yaml => return output::data(&serde_saphyr::to_string(view)?),
        Form::Table => {}
    }
    let inventory = &view.status.inventory;
    output::data(&format!("Cluster  {} ({})", view.spec.name, view.spec.id))?;
    output::data(&format!("State    {}", word(&view.state)))?;
    for (key, value) in &view.spec.labels {
        output::data(&format!("Label    {key}={value}"))?;
    }
    if view.status.version.is_empty() {
        return output::data("Nothing  is known of it: it never enrolled");
    }
    output::data(&format!("Version  {}", output::line(&view.status.version)))?;
    if view.state != ClusterState::Connected {
        let at = view.status.disconnected_at.map_or_else(String::new, |at| format!(" at {at}"));
        output::data(&format!("Below    what it said last, before it was gone{at}"))?;
    }
    if let Some(at) = view.status.clone_suspected_at {
        output::data(&format!(
            "Identity held by a second one since {at}: nobody recovers with it until it is replaced"
        ))?;
    }
    if let Some(at) = view.status.refused_as_old_at {
        output::data(&format!(
            "Refuses  this control plane, last at {at}: its store is an older copy of the one that the agent went over to"
        ))?;
    }
    output::data(&format!("Pods     {}", inventory.pods))?;
    output::data(&format!(
        "Ceiling  {}",
        if inventory.has_ceiling { "present" } else { "absent: nothing is allowed here" }
    ))?;
    if inventory.api_faults_only {
        output::data("Daemons  none installed: only faults on Kubernetes objects can be made here")?;
    }
    if inventory.skipped_pods > 0 {
        output::data(&format!("Skipped  {} pods that no daemon can reach into", inventory.skipped_pods))?;
    }
    let rows = inventory.nodes.iter().map(|n| {
        let daemon = match (n.daemon, n.skipped.as_str()) {
            (true, _) if n.draining => "draining: takes no new start".to_owned(),
            (true, _) => "connected".to_owned(),
            (false, "") => "absent".to_owned(),
            (false, why) => format!("skipped: the node {why}"),
        };
        vec![n.name.clone(), daemon, n.missing.join(", ")]
    });
    output::data(&output::table(&["NODE", "DAEMON", "MISSING"], rows.collect()))
}

//! `faultline describe`: everything known of one thing.

use proto::rest::{ClusterView, RunView};

use crate::args::{DescribeArgs, Described, Form};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output::{self, word};

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
        Form::Json => return output::data(&serde_json::to_string_pretty(view)?),
        Form::Yaml => return output::data(&serde_saphyr::to_string(view)?),
        Form::Table => {}
    }
    let summary = &view.summary;
    output::data(&format!("Run      {} ({})", view.record.name, summary.id))?;
    output::data(&format!("Phase    {}", word(&summary.phase)))?;
    let outcome = summary.outcome.as_ref().map_or_else(|| "-".to_owned(), word);
    output::data(&format!("Outcome  {outcome} {}", summary.reason))?;
    output::data(&format!("Verdict  {}", word(&summary.verdict)))?;
    let until = summary.residue_resolves_at.map_or_else(String::new, |t| format!(" until {t}"));
    output::data(&format!("Residue  {}{until}", word(&summary.residue)))?;
    if !summary.message.is_empty() {
        output::data(&format!("Message  {}", summary.message))?;
    }
    for refusal in &summary.refusals {
        output::data(&format!(
            "  {}: {}; by the {}: {}",
            refusal.code, refusal.message, refusal.whose, refusal.cure
        ))?;
    }
    let rows: Vec<_> = view.clusters.iter().map(cluster_row).collect();
    if !rows.is_empty() {
        let head = ["CLUSTER", "PHASE", "OUTCOME", "VERDICT", "RESIDUE", "INJECTED", "REVERTED", "REASON"];
        output::data(&output::table(&head, rows))?;
    }
    print_probes(view)?;
    print_injections(view)
}

fn cluster_row(cluster: &proto::rest::RunCluster) -> Vec<String> {
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

fn print_probes(view: &RunView) -> anyhow::Result<()> {
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
    if rows.is_empty() {
        return Ok(());
    }
    output::data(&output::table(&["CLUSTER", "PROBE", "STAGE", "GOOD", "BAD", "MEDIAN", "MAX"], rows))
}

fn print_injections(view: &RunView) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for cluster in &view.clusters {
        for injection in cluster.observed.iter().flat_map(|o| &o.injections) {
            rows.push(vec![
                cluster.name.clone(),
                injection.id.to_string(),
                word(&injection.phase),
                injection.reason.as_ref().map_or_else(|| "-".to_owned(), word),
                injection.effect.as_ref().map_or_else(|| "-".to_owned(), word),
                injection.backend.clone(),
                injection.message.clone(),
            ]);
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    output::data(&output::table(
        &["CLUSTER", "INJECTION", "PHASE", "ENDED BY", "EFFECT", "BACKEND", "MESSAGE"],
        rows,
    ))
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
    output::data(&format!("Version  {}", view.status.version))?;
    for (key, value) in &view.spec.labels {
        output::data(&format!("Label    {key}={value}"))?;
    }
    output::data(&format!("Pods     {}", inventory.pods))?;
    output::data(&format!(
        "Ceiling  {}",
        if inventory.has_ceiling { "present" } else { "absent: nothing is allowed here" }
    ))?;
    let rows = inventory.nodes.iter().map(|n| {
        let daemon = if n.daemon { "connected" } else { "absent" };
        vec![n.name.clone(), daemon.to_owned(), n.missing.join(", ")]
    });
    output::data(&output::table(&["NODE", "DAEMON", "MISSING"], rows.collect()))
}

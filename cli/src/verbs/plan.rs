//! `faultline plan`: exactly what would be hit, how it reverts, and which key
//! is missing. Nothing is started.

use proto::assignment::Outcome;
use proto::plan::{ClusterPlan, PLAN_TTL_MS};
use proto::quantity::Span;
use proto::rest::{CreateRun, RunView};

use crate::args::{DefinitionArgs, Form};
use crate::client::Client;
use crate::exit::Exit;
use crate::output;

/// What is asked for.
pub(crate) fn request(args: &DefinitionArgs) -> anyhow::Result<CreateRun> {
    super::run::definition(args, true)
}

pub(crate) async fn run(request: CreateRun, client: &Client, form: Form) -> anyhow::Result<Exit> {
    let created: RunView = client.post("/v1/runs", &request).await?;
    let view = super::watch::finished(client, created.record.id.as_str(), |_| ()).await?;
    match form {
        Form::Json => output::data(&serde_json::to_string_pretty(&view)?)?,
        Form::Yaml => output::data(&serde_saphyr::to_string(&view)?)?,
        Form::Table => show(&view)?,
    }
    let denied = view.summary.outcome == Some(Outcome::Denied) || !view.summary.refusals.is_empty();
    Ok(if denied { Exit::Denied } else { Exit::Ok })
}

fn show(view: &RunView) -> anyhow::Result<()> {
    for cluster in &view.clusters {
        output::data(&format!("CLUSTER {}", cluster.name))?;
        match &cluster.plan {
            Some(plan) => show_cluster(plan)?,
            None => output::data("  no answer")?,
        }
    }
    for refusal in &view.summary.refusals {
        output::data(&format!("IN THE WAY {}: {}", refusal.code, refusal.message))?;
        output::data(&format!("  to be given by the {}: {}", refusal.whose, refusal.cure))?;
    }
    match &view.summary.plan_hash {
        Some(hash) => {
            let ttl = Span::from_ms(PLAN_TTL_MS.unsigned_abs());
            output::data(&format!("PLAN {hash}, valid for {ttl}, nothing was started"))
        }
        None => output::data("NO PLAN, nothing was started"),
    }
}

fn show_cluster(plan: &ClusterPlan) -> anyhow::Result<()> {
    let rows = plan.faults.iter().map(|f| {
        let lasts = if f.for_ms == 0 { "once".to_owned() } else { Span::from_ms(f.for_ms).to_string() };
        vec![
            f.name.clone(),
            f.kind.clone(),
            f.target.clone(),
            f.count.to_string(),
            format!("{} +{lasts}", Span::from_ms(f.at_ms)),
            f.backend.clone(),
            f.revert_class.clone(),
            f.undo.clone(),
        ]
    });
    let head = ["FAULT", "KIND", "TARGET", "COUNT", "WHEN", "BACKEND", "REVERTS", "BY"];
    output::data(&indent(&output::table(&head, rows.collect())))?;
    for (target, pods) in &plan.sample {
        for pod in pods {
            output::data(&format!("  {target}: {}/{} on {}", pod.namespace, pod.pod, pod.node))?;
        }
    }
    for warning in &plan.warnings {
        output::data(&format!("  note: {warning}"))?;
    }
    for refusal in &plan.refusals {
        output::data(&format!("  in the way: {}: {}", refusal.code, refusal.message))?;
    }
    Ok(())
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

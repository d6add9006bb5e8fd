//! `faultline plan`: exactly what would be hit, how it reverts, and which key
//! is missing. Nothing is started.

use jiff::Timestamp;
use proto::assignment::Outcome;
use proto::plan::ClusterPlan;
use proto::quantity::Span;
use proto::rest::{CreateRun, RunView};
use proto::status::RunSummary;

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
    Ok(exit(&view.summary))
}

/// A plan that was made is success, whatever a run without measurements is worth.
fn exit(summary: &RunSummary) -> Exit {
    match summary.outcome {
        _ if !summary.refusals.is_empty() => Exit::Denied,
        Some(Outcome::Completed) if summary.plan_hash.is_some() => Exit::Ok,
        Some(Outcome::Completed) => Exit::Error,
        _ => Exit::of_run(summary),
    }
}

fn show(view: &RunView) -> anyhow::Result<()> {
    for cluster in &view.clusters {
        say(&format!("CLUSTER {}", cluster.name))?;
        match &cluster.plan {
            Some(plan) => show_cluster(plan)?,
            None => output::data("  no answer")?,
        }
    }
    for refusal in &view.summary.refusals {
        say(&format!("IN THE WAY {}: {}", refusal.code, refusal.message))?;
        say(&format!("  to be given by the {}: {}", refusal.whose, refusal.cure))?;
    }
    match &view.summary.plan_hash {
        Some(hash) => {
            let until = valid(view.summary.plan_expires, Timestamp::now());
            say(&format!("PLAN {hash}, {until}, nothing was started"))
        }
        None => output::data("NO PLAN, nothing was started"),
    }
}

/// Until when a plan may be started, as the control plane said it; what is left of it by this clock.
fn valid(expires: Option<Timestamp>, now: Timestamp) -> String {
    let Some(at) = expires else { return "without an expiry".to_owned() };
    // To the second: clocks differ by more than the rest.
    let left = at.duration_since(now).as_secs();
    match u64::try_from(left) {
        Ok(secs) if secs > 0 => format!("valid until {at} ({})", Span::from_ms(secs * 1000)),
        _ => format!("expired at {at}"),
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
            say(&format!("  {target}: {}/{} on {}", pod.namespace, pod.pod, pod.node))?;
        }
    }
    for warning in &plan.warnings {
        say(&format!("  note: {warning}"))?;
    }
    for refusal in &plan.refusals {
        say(&format!("  in the way: {}: {}", refusal.code, refusal.message))?;
    }
    Ok(())
}

/// A line: what it says makes no others.
fn say(text: &str) -> anyhow::Result<()> {
    output::data(&output::line(text))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::valid;

    #[test]
    fn a_plan_is_valid_as_long_as_the_control_plane_says() {
        let at = |text: &str| text.parse().expect("an instant");
        let expires = Some(at("2026-11-02T12:14:58.5Z"));
        for (now, said) in [
            ("2026-11-02T12:00:00Z", "valid until 2026-11-02T12:14:58.5Z (14m58s)"),
            ("2026-11-02T12:14:58Z", "expired at 2026-11-02T12:14:58.5Z"),
            ("2026-11-02T13:00:00Z", "expired at 2026-11-02T12:14:58.5Z"),
        ] {
            assert_eq!(valid(expires, at(now)), said);
        }
        assert_eq!(valid(None, at("2026-11-02T12:00:00Z")), "without an expiry");
    }
}

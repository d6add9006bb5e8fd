//! `faultline watch`: a run live on stderr, its end on stdout.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proto::problem::ErrorCode;
use proto::rest::{RunCluster, RunView};
use proto::status::RunPhase;

use crate::args::Form;
use crate::client::{Client, Refused, segment};
use crate::exit::Exit;
use crate::output::{self, word};

/// Between two looks at a run whose stream broke off.
const AGAIN_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) async fn run(client: &Client, form: Form, name: &str) -> anyhow::Result<Exit> {
    let view: RunView = client.get(&format!("/v1/runs/{}", segment(name))).await?;
    follow(client, form, view.record.id.as_str()).await
}

/// Follows a run to its end. A broken stream is opened again: the run does
/// not depend on who looks at it.
pub(crate) async fn follow(client: &Client, form: Form, id: &str) -> anyhow::Result<Exit> {
    let mut progress = Progress::default();
    let last = finished(client, id, |view| progress.show(view)).await?;
    super::describe::print_run(form, &last)?;
    Ok(Exit::of_run(&last.summary))
}

/// The run at its end, after each view on the way was shown.
pub(crate) async fn finished(
    client: &Client,
    id: &str,
    mut show: impl FnMut(&RunView),
) -> anyhow::Result<RunView> {
    loop {
        match until_finished(client, id, &mut show).await {
            Ok(Some(view)) => return Ok(view),
            Ok(None) => {}
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                output::note(&format!("connection lost ({error:#}); the run goes on, looking again"));
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Whether looking again would be told the same.
fn is_final(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.0.code != ErrorCode::Unavailable)
}

/// The finished run, or None when the stream ended before it.
async fn until_finished(
    client: &Client,
    id: &str,
    show: &mut impl FnMut(&RunView),
) -> anyhow::Result<Option<RunView>> {
    let mut stream = client.watch(id).await?;
    while let Some(view) = stream.next().await? {
        show(&view);
        if view.summary.phase == RunPhase::Finished {
            return Ok(Some(view));
        }
    }
    Ok(None)
}

/// Prints what changed since the last view.
#[derive(Default)]
pub(crate) struct Progress {
    phase: Option<RunPhase>,
    clusters: BTreeMap<String, String>,
    seen: BTreeMap<String, jiff::Timestamp>,
}

impl Progress {
    pub(crate) fn show(&mut self, view: &RunView) {
        if self.phase != Some(view.summary.phase) {
            self.phase = Some(view.summary.phase);
            output::note(&format!("{:<12} {}", word(&view.summary.phase), view.summary.message));
        }
        for cluster in &view.clusters {
            self.cluster(cluster);
        }
    }

    fn cluster(&mut self, cluster: &RunCluster) {
        let Some(observed) = &cluster.observed else { return };
        let counts = observed.counts;
        let mut line = format!("{:<10} {:<10}", cluster.name, word(&observed.phase));
        if counts.total > 0 {
            // Writing to a String cannot fail.
            let _ =
                write!(line, " injected {}/{}, reverted {}", counts.injected, counts.total, counts.reverted);
        }
        if !observed.message.is_empty() {
            let _ = write!(line, "  {}", observed.message);
        }
        if self.clusters.get(&cluster.name) != Some(&line) {
            output::note(&format!("  {line}"));
            self.clusters.insert(cluster.name.clone(), line);
        }
        let seen = self.seen.get(&cluster.name).copied().unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        for entry in observed.timeline.iter().filter(|e| e.at > seen) {
            let latency = entry.latency_ms.map_or_else(String::new, |ms| format!(" {ms} ms"));
            let bad = if entry.good == Some(false) { " BAD" } else { "" };
            output::note(&format!(
                "    {} {:<14} {}{latency}{bad} {}",
                clock(entry.at),
                entry.event,
                entry.subject,
                entry.detail
            ));
            self.seen.insert(cluster.name.clone(), entry.at);
        }
    }
}

/// Time of day, UTC, with milliseconds.
fn clock(at: jiff::Timestamp) -> String {
    at.strftime("%H:%M:%S%.3f").to_string()
}

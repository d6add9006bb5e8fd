//! `faultline centre`: where agents find the control plane, and telling them that it moves.

use std::time::Duration;

use clap::{Args, Subcommand};
use proto::cluster::ClusterState;
use proto::endpoints::{EndpointsView, PutEndpoints};
use proto::ids::ClusterId;
use proto::quantity::Span;
use proto::rest::ClusterView;
use serde::Serialize;

use crate::args::Form;
use crate::client::Client;
use crate::exit::{Exit, Misuse};
use crate::output;

const PATH: &str = "/v1/endpoints";
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The longest wait.
const MAX_WAIT_MS: u64 = 24 * 3_600_000;

#[derive(Debug, Subcommand)]
pub(crate) enum CentreCommand {
    /// Show where agents find the control plane, and which clusters keep that
    Endpoints,
    /// Tell every agent where the control plane is from now on. They keep it, go over as soon as it answers, and go
    /// back to what worked until then
    Move(MoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// Where agents open their links, the first one first
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    link: Vec<String>,
    /// Where clusters join; the first one goes into tokens
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    enrol: Vec<String>,
    /// Check it and show who would be told; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait up to so long for every connected cluster to keep it, as in 10m
    #[arg(long, value_name = "DURATION", value_parser = wait, conflicts_with = "dry_run")]
    wait: Option<Duration>,
}

fn wait(text: &str) -> Result<Duration, String> {
    let ms = Span::written(text).ms().map_err(|error| error.to_string())?;
    if ms <= MAX_WAIT_MS { Ok(Duration::from_millis(ms)) } else { Err("must be at most 24h".to_owned()) }
}

/// The list, and how far it has come.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(flatten)]
    endpoints: EndpointsView,
    clusters: Vec<Keeping>,
}

/// What one cluster's agent keeps.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Keeping {
    name: String,
    id: ClusterId,
    state: ClusterState,
    /// Absent: its agent is too old to say, or never was here.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_as_old_at: Option<jiff::Timestamp>,
}

pub(crate) async fn run(
    command: CentreCommand,
    client: impl FnOnce() -> anyhow::Result<Client>,
    form: Form,
) -> anyhow::Result<Exit> {
    match command {
        CentreCommand::Endpoints => {
            show(form, &look(&client()?).await?)?;
            Ok(Exit::Ok)
        }
        CentreCommand::Move(args) => relocate(wanted(&args)?, &args, &client()?, form).await,
    }
}

/// The list that is asked for, checked as the centre will.
fn wanted(args: &MoveArgs) -> anyhow::Result<PutEndpoints> {
    let wanted = PutEndpoints { link_endpoints: args.link.clone(), enrol_endpoints: args.enrol.clone() };
    match wanted.check() {
        Ok(()) => Ok(wanted),
        Err(problems) => Err(Misuse(problems.to_string()).into()),
    }
}

async fn relocate(
    wanted: PutEndpoints,
    args: &MoveArgs,
    client: &Client,
    form: Form,
) -> anyhow::Result<Exit> {
    let known: Option<(EndpointsView, String)> = client.tagged(PATH).await?;
    let Some((before, tag)) = known else {
        anyhow::bail!("this control plane is too old to move: upgrade it first");
    };
    if args.dry_run {
        let clusters = keeping(client).await?;
        let same = before.link_endpoints == wanted.link_endpoints
            && before.enrol_endpoints == wanted.enrol_endpoints;
        let sequence = before.sequence;
        let PutEndpoints { link_endpoints, enrol_endpoints } = wanted;
        let endpoints =
            EndpointsView { sequence, link_endpoints, enrol_endpoints, at: None, by: String::new() };
        show(form, &Shown { endpoints, clusters })?;
        output::note(if same && sequence > 0 {
            "this is the list in force: nothing would change"
        } else {
            "dry run: nothing was changed, nobody was told"
        });
        return Ok(Exit::Ok);
    }
    client.put_if(PATH, &wanted, Some(&tag)).await?;
    let mut shown = look(client).await?;
    let Some(patience) = args.wait else {
        show(form, &shown)?;
        return Ok(Exit::Ok);
    };
    let begun = std::time::Instant::now();
    while shown.behind().next().is_some() && begun.elapsed() < patience {
        tokio::time::sleep(LOOK_EVERY).await;
        shown = look(client).await?;
    }
    show(form, &shown)?;
    Ok(verdict(&shown))
}

/// Whether every connected cluster keeps the list.
fn verdict(shown: &Shown) -> Exit {
    let names = |list: Vec<&Keeping>| list.iter().map(|c| c.name.clone()).collect::<Vec<_>>().join(", ");
    let connected = |c: &&Keeping| c.state == ClusterState::Connected;
    let behind: Vec<&Keeping> = shown.behind().collect();
    let unable: Vec<&Keeping> =
        shown.clusters.iter().filter(connected).filter(|c| c.sequence.is_none()).collect();
    let exit = if behind.is_empty() && unable.is_empty() { Exit::Ok } else { Exit::Error };
    if !behind.is_empty() {
        output::note(&format!("do not keep it yet: {}", names(behind)));
    }
    if !unable.is_empty() {
        output::note(&format!("their agents are too old to be told, upgrade them: {}", names(unable)));
    }
    exit
}

async fn look(client: &Client) -> anyhow::Result<Shown> {
    Ok(Shown { endpoints: client.get(PATH).await?, clusters: keeping(client).await? })
}

async fn keeping(client: &Client) -> anyhow::Result<Vec<Keeping>> {
    let clusters: Vec<ClusterView> = client.list("/v1/clusters").await?;
    let keeping = |view: ClusterView| Keeping {
        name: view.spec.name,
        id: view.spec.id,
        state: view.state,
        sequence: view.status.endpoints_sequence,
        refused_as_old_at: view.status.refused_as_old_at,
    };
    Ok(clusters.into_iter().map(keeping).collect())
}

impl Shown {
    /// Connected clusters that will keep the list and do not yet.
    fn behind(&self) -> impl Iterator<Item = &Keeping> {
        let late = |c: &&Keeping| c.sequence.is_some_and(|sequence| sequence < self.endpoints.sequence);
        self.clusters.iter().filter(|c| c.state == ClusterState::Connected).filter(late)
    }

    fn word(&self, cluster: &Keeping) -> String {
        match cluster.sequence {
            _ if cluster.refused_as_old_at.is_some() => {
                "refuses this control plane: its store is an older copy".into()
            }
            None => "not known".to_owned(),
            Some(0) if self.endpoints.sequence == 0 => "what it enrolled with".to_owned(),
            Some(sequence) if sequence == self.endpoints.sequence => "this".to_owned(),
            Some(sequence) if sequence > self.endpoints.sequence => format!("a later one ({sequence})"),
            Some(0) => "what it enrolled with, not this yet".to_owned(),
            Some(sequence) => format!("an earlier one ({sequence})"),
        }
    }
}

fn show(form: Form, shown: &Shown) -> anyhow::Result<()> {
    if form != Form::Table {
        return output::print(form, shown, &[], Vec::new);
    }
    let list = &shown.endpoints;
    output::data(&format!("Links      {}", list.link_endpoints.join(", ")))?;
    output::data(&format!("Enrolment  {}", list.enrol_endpoints.join(", ")))?;
    output::data(&match list.at {
        Some(at) => format!("List       {} of {at}, by {}", list.sequence, list.by),
        None => format!(
            "List       {}",
            if list.sequence == 0 { "none was set".to_owned() } else { list.sequence.to_string() }
        ),
    })?;
    let row =
        |cluster: &Keeping| vec![cluster.name.clone(), output::word(&cluster.state), shown.word(cluster)];
    output::print(form, &(), &["CLUSTER", "STATE", "KEEPS"], || shown.clusters.iter().map(row).collect())
}

//! The demo told from beginning to end: start, join, grant, author, watch,
//! measure, and show that nothing is left.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use proto::cluster::ClusterState;
use proto::rest::{AuditRecord, ClusterView, GrantView, Invitation, InviteCluster, RunView};
use proto::status::RunPhase;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::chart::{self, Stage};
use super::client::{measure, median};
use super::report::{Latency, Report};
use super::scene::{self, Member};
use super::services::Service;
use crate::client::Client;
use crate::exit::Exit;
use crate::output::{self, word};

/// Bound of every wait.
const PATIENCE: Duration = Duration::from_mins(1);
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// Samples taken before the run is asked for.
const QUIET_SAMPLES: usize = 6;

/// Tells it, in a folder that is removed afterwards.
pub(crate) async fn tell(json: bool) -> anyhow::Result<Exit> {
    let folder = tempfile::Builder::new().prefix("faultline-demo-").tempdir().context("make a folder")?;
    let shutdown = CancellationToken::new();
    let mut roles = JoinSet::new();
    let mut cast = Cast { roles: &mut roles, shutdown: &shutdown };
    let told = tokio::select! {
        told = scenes(folder.path(), json, &mut cast) => told,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // Also after a failure: the daemons revert and the stores are closed.
    shutdown.cancel();
    let ended = tokio::time::timeout(PATIENCE, async {
        while let Some(role) = roles.join_next().await {
            role.context("a role panicked")??;
        }
        anyhow::Ok(())
    });
    let ended = ended.await.context("a role did not end")?;
    let exit = told?;
    ended?;
    Ok(exit)
}

/// Everybody who plays.
struct Cast<'a> {
    roles: &'a mut JoinSet<anyhow::Result<()>>,
    shutdown: &'a CancellationToken,
}

async fn scenes(folder: &Path, json: bool, cast: &mut Cast<'_>) -> anyhow::Result<Exit> {
    let begin = Instant::now();
    let say = |text: &str| output::note(&format!("{:5.1}s  {text}", begin.elapsed().as_secs_f64()));
    say("a control plane on the embedded store, and two clusters with a service each: east and west");
    let client = centre(folder, cast).await?;
    let (east_service, west_service) = (Service::start("east", 1).await?, Service::start("west", 2).await?);
    let east = join(folder, "east", &east_service, &client, cast).await?;
    let west = join(folder, "west", &west_service, &client, cast).await?;
    for member in [&east, &west] {
        connected(&client, member.name).await?;
        say(&format!("{} joined with a one-use token and is connected", member.name));
    }
    let grant = json!({ "spec": {
        "from": { "clusters": { "names": ["east"] }, "namespaces": ["shop"] },
        "to": { "clusters": { "names": ["west"] }, "namespaces": ["shop"], "kinds": ["network.delay"], "maxTargets": 1 },
    }});
    let _: GrantView = client.put("/v1/grants/east-to-west", &grant).await?;
    say(
        "the centre grants: namespace shop of east may delay packets in shop of west; west's own Ceiling agrees",
    );

    let mut samples = Samples::default();
    for _ in 0..QUIET_SAMPLES {
        samples.take(west_service.address, Stage::Before).await;
    }
    east.author(&scene::experiment(west_service.address))?;
    east.author(&scene::run())?;
    say("authored on east: Experiment slow-payments and a Run of it");
    let view = follow(&client, west_service.address, &mut samples).await?;
    for _ in 0..QUIET_SAMPLES {
        samples.take(west_service.address, Stage::After).await;
    }
    let audit: Vec<AuditRecord> = client.list("/v1/audit").await?;
    let report = report(&view, &samples, audit.len(), begin.elapsed());
    if json {
        output::data(&serde_json::to_string(&report)?)?;
    } else {
        conclude(&report)?;
    }
    Ok(Exit::of_run(&view.summary))
}

async fn centre(folder: &Path, cast: &mut Cast<'_>) -> anyhow::Result<Client> {
    let mut sockets = Vec::new();
    let mut ports = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 4];
    for port in &mut ports {
        let socket = tokio::net::TcpListener::bind(*port).await?;
        *port = socket.local_addr()?;
        sockets.push(socket);
    }
    let (config, context) = scene::centre(folder, ports)?;
    let mut sockets = sockets.into_iter();
    let mut next = || sockets.next().context("four sockets");
    let listeners =
        control_plane::Listeners { rest: next()?, link: next()?, enrol: next()?, health: next()? };
    let serving = control_plane::serve(config, listeners, cast.shutdown.clone());
    cast.roles.spawn(serving);
    let client = Client::new(&context)?;
    wait("the control plane to answer", cast.roles, async || {
        client.get::<proto::rest::WhoAmI>("/v1/whoami").await.map(drop)
    })
    .await?;
    Ok(client)
}

async fn join(
    folder: &Path,
    name: &'static str,
    service: &Service,
    client: &Client,
    cast: &mut Cast<'_>,
) -> anyhow::Result<Member> {
    let request = InviteCluster {
        name: name.to_owned(),
        labels: [("env".to_owned(), "demo".to_owned())].into(),
        auto_accept: true,
        ttl: None,
    };
    let invitation: Invitation = client.post("/v1/clusters", &request).await?;
    let member = Member::new(folder, name, service, &invitation.token)?;
    cast.roles.spawn(member.role().run(cast.shutdown.clone()));
    Ok(member)
}

async fn connected(client: &Client, name: &str) -> anyhow::Result<()> {
    let mut nobody = JoinSet::new();
    wait(&format!("{name} to be connected"), &mut nobody, async || {
        let view: ClusterView = client.get(&format!("/v1/clusters/{name}")).await?;
        let inventory = &view.status.inventory;
        let ready = view.state == ClusterState::Connected && inventory.daemons == 1 && inventory.has_ceiling;
        anyhow::ensure!(ready, "{:?}, {} daemons", view.state, inventory.daemons);
        Ok(())
    })
    .await
}

/// Waits until `probe` succeeds; a role that ends meanwhile ends the wait.
async fn wait(
    what: &str,
    roles: &mut JoinSet<anyhow::Result<()>>,
    probe: impl AsyncFn() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let Err(error) = probe().await else { return Ok(()) };
        if Instant::now() > end {
            return Err(error).with_context(|| format!("waited {PATIENCE:?} for {what}"));
        }
        if let Some(ended) = roles.try_join_next() {
            ended.context("a role panicked")??;
            bail!("a role ended while waiting for {what}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Follows the run to its end while the client measures.
async fn follow(client: &Client, address: SocketAddr, samples: &mut Samples) -> anyhow::Result<RunView> {
    let mut nobody = JoinSet::new();
    wait("the centre to know the run", &mut nobody, async || {
        let runs: Vec<RunView> = client.list("/v1/runs").await?;
        anyhow::ensure!(!runs.is_empty(), "no run yet");
        Ok(())
    })
    .await?;
    let runs: Vec<RunView> = client.list("/v1/runs").await?;
    let mut view = runs.into_iter().next().context("the run")?;
    let mut shown = String::new();
    let end = Instant::now() + PATIENCE;
    while view.summary.phase != RunPhase::Finished {
        anyhow::ensure!(Instant::now() < end, "the run did not finish: {:?}", view.summary);
        let before = Faults::of(&view);
        let sample = samples.measure(address).await;
        view = client.get(&format!("/v1/runs/{}", view.summary.id)).await?;
        let phase = phases(&view);
        if phase != shown {
            output::note(&format!("        {phase}"));
            shown = phase;
        }
        // A sample belongs to a stage only if it lies wholly within it.
        if before == Faults::of(&view) {
            samples.keep(before.stage(), sample);
        }
    }
    Ok(view)
}

/// The run's phase, and its phase on each cluster.
fn phases(view: &RunView) -> String {
    let clusters = view.clusters.iter().filter_map(|c| Some((&c.name, c.observed.as_ref()?)));
    let clusters: Vec<_> = clusters.map(|(name, o)| format!("{name}: {}", word(&o.phase))).collect();
    format!("{} {}", word(&view.summary.phase), clusters.join(", "))
}

/// How far the faults of a run have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Faults {
    None,
    Changing,
    Active,
    Gone,
}

impl Faults {
    fn of(view: &RunView) -> Self {
        let counts: Vec<_> =
            view.clusters.iter().filter_map(|c| c.observed.as_ref()).map(|o| o.counts).collect();
        let (total, active, reverted) =
            counts.iter().fold((0, 0, 0), |a, c| (a.0 + c.total, a.1 + c.active, a.2 + c.reverted));
        match () {
            () if total > 0 && active == total => Faults::Active,
            () if total > 0 && reverted == total => Faults::Gone,
            () if active == 0 && reverted == 0 => Faults::None,
            () => Faults::Changing,
        }
    }

    fn stage(self) -> Option<Stage> {
        match self {
            Faults::None => Some(Stage::Before),
            Faults::Active => Some(Stage::During),
            Faults::Gone => Some(Stage::After),
            Faults::Changing => None,
        }
    }
}

/// What the client outside measured.
#[derive(Debug, Default)]
struct Samples {
    before: Vec<f64>,
    during: Vec<f64>,
    after: Vec<f64>,
}

impl Samples {
    async fn take(&mut self, address: SocketAddr, stage: Stage) {
        let sample = self.measure(address).await;
        self.keep(Some(stage), sample);
    }

    /// One sample, and the rest of its interval.
    async fn measure(&self, address: SocketAddr) -> Option<f64> {
        let next = tokio::time::Instant::now() + SAMPLE_EVERY;
        let sample = measure(address).await.ok();
        tokio::time::sleep_until(next).await;
        sample
    }

    fn keep(&mut self, stage: Option<Stage>, sample: Option<f64>) {
        let Some(stage) = stage else { return };
        chart::sample(stage, sample);
        let Some(ms) = sample else { return };
        match stage {
            Stage::Before => self.before.push(ms),
            Stage::During => self.during.push(ms),
            Stage::After => self.after.push(ms),
        }
    }
}

fn report(view: &RunView, samples: &Samples, audit_records: usize, took: Duration) -> Report {
    let west = view.clusters.first();
    let plan = west.and_then(|c| c.plan.as_ref());
    let fault = plan.and_then(|p| p.faults.first());
    Report {
        authored_on: view.record.origin.cluster.clone().unwrap_or_default(),
        executed_on: view.clusters.iter().map(|c| c.name.clone()).collect(),
        fault: fault.map(|f| f.kind.clone()).unwrap_or_default(),
        backend: fault.map(|f| f.backend.clone()).unwrap_or_default(),
        latency_ms: Latency {
            before: median(&samples.before),
            during: median(&samples.during),
            after: median(&samples.after),
        },
        outcome: view.summary.outcome.as_ref().map(word).unwrap_or_default(),
        verdict: word(&view.summary.verdict),
        residue: word(&view.summary.residue),
        audit_records,
        seconds: (took.as_secs_f64() * 10.0).round() / 10.0,
    }
}

fn conclude(report: &Report) -> anyhow::Result<()> {
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v} ms"));
    output::data(&format!(
        "\nauthored on {}, executed on {}: {} by {}\nlatency  before {}, during {}, after {} (medians, from outside)\n\
         outcome  {}\nverdict  {}\nresidue  {}\naudit    {} records\n",
        report.authored_on,
        report.executed_on.join(", "),
        report.fault,
        report.backend,
        ms(report.latency_ms.before),
        ms(report.latency_ms.during),
        ms(report.latency_ms.after),
        report.outcome,
        in_words(&report.verdict),
        in_words(&report.residue),
        report.audit_records,
    ))
}

/// What a verdict or a residue means here. A word without a meaning of its own stands alone.
fn in_words(word: &str) -> String {
    let meaning = match word {
        "Held" => "payments answered within 1 s all the time",
        "Broken" => "payments did not answer within 1 s",
        "Clean" => "read back, nothing is left",
        "Dirty" => "something is left",
        "Unknown" => "not known whether anything is left",
        other => return other.to_owned(),
    };
    format!("{word}: {meaning}")
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn only_held_and_clean_are_good_news() {
        assert!(in_words("Held").contains("within 1 s all the time"));
        assert!(in_words("Clean").contains("nothing is left"));
        for word in ["Broken", "Inconclusive", "NotMeasured", "Dirty", "Unknown"] {
            let said = in_words(word);
            assert!(said.starts_with(word), "{said}");
            assert!(!said.contains("all the time") && !said.contains("nothing is left"), "{said}");
        }
    }
}

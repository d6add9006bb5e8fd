//! Replicas on one store, with members and grants, and a way to wait for what is to come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use certs::{Authority, TrustDomain};
use control_plane::centre::{Caller, Expected, Role};
use control_plane::driver::clock::Clock;
use control_plane::enrolment::Signer;
use control_plane::link::LinkConfig;
use control_plane::replica::{Replica, ReplicaConfig, Started};
use control_plane::store::Store;
use control_plane::store::memory::MemoryStore;
use proto::ids::ClusterId;
use proto::rest::{CreateRun, InviteCluster, RunView};
use proto::status::RunPhase;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::agent::Agent;

/// Longer than anything here should take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until `found` says so; fails with the last thing seen.
pub(crate) async fn eventually<T, S: std::fmt::Debug>(
    what: &str,
    mut look: impl FnMut() -> Result<T, S>,
) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if tokio::time::Instant::now() > deadline => panic!("{what}: last seen {seen:#?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

pub(crate) fn admin() -> Caller {
    Caller { name: "ann".to_owned(), role: Role::Admin }
}

pub(crate) struct Centre {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) signer: Arc<Signer>,
    pub(crate) replicas: Vec<Started>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: JoinSet<anyhow::Result<()>>,
    heartbeat: Duration,
}

impl Centre {
    pub(crate) async fn start(replicas: usize) -> Self {
        Self::on(Arc::new(MemoryStore::new()), replicas).await
    }

    pub(crate) async fn on(store: Arc<dyn Store>, replicas: usize) -> Self {
        Self::with(store, replicas, LinkConfig::default().heartbeat, |signer| signer).await
    }

    /// One whose certificates for agents are valid for so long.
    pub(crate) async fn with_agent_ttl(ttl: Duration) -> Self {
        let store = Arc::new(MemoryStore::new());
        Self::with(store, 1, LinkConfig::default().heartbeat, |signer| signer.with_agent_ttl(ttl)).await
    }

    /// One that soon gives up who is silent. Agents of these tests beat only while they wait for something.
    pub(crate) async fn with_heartbeat(heartbeat: Duration) -> Self {
        Self::with(Arc::new(MemoryStore::new()), 1, heartbeat, |signer| signer).await
    }

    async fn with(
        store: Arc<dyn Store>,
        replicas: usize,
        heartbeat: Duration,
        signing: impl FnOnce(Signer) -> Signer,
    ) -> Self {
        let clock = Clock::new();
        let authority = Authority::create(TrustDomain::new("test.local").unwrap(), clock.now()).unwrap();
        let mut centre = Self {
            store,
            signer: Arc::new(signing(Signer::new(authority, "r0"))),
            clock,
            replicas: Vec::new(),
            shutdown: CancellationToken::new(),
            tasks: JoinSet::new(),
            heartbeat,
        };
        for index in 0..replicas {
            let started = centre.replica_on(centre.store.clone(), &format!("r{index}")).await;
            centre.replicas.push(started);
        }
        eventually("a leader", || {
            let leading: i64 = centre.replicas.iter().map(|replica| replica.health.leading.get()).sum();
            if leading == 1 { Ok(()) } else { Err(leading) }
        })
        .await;
        centre
    }

    /// One more replica, on its own view of the store.
    pub(crate) async fn replica_on(&mut self, store: Arc<dyn Store>, name: &str) -> Started {
        let mut config = ReplicaConfig::new(name, "127.0.0.1:7445");
        config.link = LinkConfig { heartbeat: self.heartbeat, ..LinkConfig::default() };
        config.lease_ttl = Duration::from_secs(3);
        let replica = Replica::new(store, self.signer.clone(), self.clock.clone(), config).await.unwrap();
        let started = replica.start(&mut self.tasks, &self.shutdown);
        eventually("synced", || started.health.not_ready().map_or(Ok(()), Err)).await;
        started
    }

    pub(crate) fn api(&self) -> &control_plane::centre::Centre {
        &self.replicas[0].centre
    }

    /// Invites and accepts a member.
    pub(crate) async fn member(&self, name: &str) -> ClusterId {
        let labels = BTreeMap::from([("network".to_owned(), "flat".to_owned())]);
        let invite = InviteCluster { name: name.to_owned(), labels, auto_accept: false, ttl: None };
        let invitation = self.api().invite_cluster(&admin(), invite).await.unwrap();
        self.api().accept_cluster(&admin(), name, &Expected::Anything).await.unwrap();
        invitation.cluster
    }

    /// A member whose agent is connected to the first replica.
    pub(crate) async fn connected(&self, name: &str) -> Agent {
        let id = self.member(name).await;
        self.agent(0, &id).await
    }

    /// Connects an agent to one replica.
    pub(crate) async fn agent(&self, replica: usize, id: &ClusterId) -> Agent {
        eventually("the replica knows the member", || {
            self.replicas[replica]
                .centre
                .cluster(&admin(), id.as_str())
                .map(|_| ())
                .map_err(|e| e.to_string())
        })
        .await;
        Agent::connect(&self.replicas[replica], id, 1).await
    }

    pub(crate) async fn experiment(&self, name: &str, clusters: &[&str]) {
        self.api()
            .put_experiment(&admin(), name, experiment_spec(clusters), &Expected::Anything)
            .await
            .unwrap();
    }

    /// Lets operators aim at everything.
    pub(crate) async fn grant_all(&self) {
        let grant = json!({
            "from": { "operators": ["*"] },
            "to": {
                "clusters": { "labelSelector": { "matchExpressions": [{ "key": "network", "operator": "Exists" }] } },
                "namespaces": ["*"], "kinds": ["*"], "maxTargets": 100
            }
        });
        self.api().put_grant(&admin(), "all", grant, &Expected::Anything).await.unwrap();
    }

    pub(crate) async fn run(&self, name: &str, experiment: &str) -> RunView {
        self.api().create_run(&admin(), create(name, experiment, false), None).await.unwrap()
    }

    pub(crate) async fn until(&self, id: &str, what: &str, done: impl Fn(&RunView) -> bool) -> RunView {
        eventually(what, || {
            let view = self.api().run(&admin(), id).unwrap();
            if done(&view) { Ok(view) } else { Err(view) }
        })
        .await
    }

    pub(crate) async fn finished(&self, id: &str) -> RunView {
        self.until(id, "finished", |view| view.summary.phase == RunPhase::Finished).await
    }

    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        let page = control_plane::store::PageRequest::first(1000);
        let page = self.store.list(prefix, page).await.unwrap();
        page.entries.into_iter().map(|entry| entry.key).collect()
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = tokio::time::timeout(PATIENCE, self.tasks.join_next()).await.unwrap() {
            ended.unwrap().unwrap();
        }
    }
}

pub(crate) fn create(name: &str, experiment: &str, plan_only: bool) -> CreateRun {
    let spec = json!({ "experimentRef": { "name": experiment } });
    CreateRun {
        name: name.to_owned(),
        spec: serde_json::from_value(spec).unwrap(),
        plan_only,
        experiment: None,
    }
}

pub(crate) fn experiment_spec(clusters: &[&str]) -> Value {
    json!({
        "clusters": { "names": clusters },
        "targets": [{
            "name": "web",
            "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "web" } } },
            "atMost": { "perCluster": 5 }
        }],
        "faults": [{ "name": "late", "target": "web", "at": "0s", "for": "10s", "network": { "delay": { "latency": "200ms" } } }],
        "limits": { "clusterDeadline": "1m", "runDeadline": "10m", "startWithin": "1m" }
    })
}

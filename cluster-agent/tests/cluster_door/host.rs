//! The contract on host mode, with real files, and what is special about these files.

use async_trait::async_trait;
use cluster_agent::cluster::host::{Host, HostConfig};
use cluster_agent::cluster::{CeilingSeen, Doors};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::contract::{PATIENCE, Stage, all};

struct OnHost {
    folder: TempDir,
    host: Host,
    watching: JoinSet<()>,
}

fn config(folder: &TempDir) -> HostConfig {
    let path = |name: &str| folder.path().join(name);
    HostConfig {
        state_dir: path("state"),
        workloads: path("workloads.yaml"),
        ceiling: path("ceiling.yaml"),
        authored_dir: path("authored"),
        node_name: "east".into(),
        denied: vec![],
    }
}

impl OnHost {
    async fn open(folder: TempDir) -> Self {
        let host = Host::open(config(&folder)).await.unwrap();
        let mut watching = JoinSet::new();
        let watched = host.clone();
        watching.spawn(async move { watched.watch().await.unwrap() });
        Self { folder, host, watching }
    }

    async fn fresh() -> Self {
        Self::open(tempfile::tempdir().unwrap()).await
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join(name)).unwrap();
    }
}

#[async_trait]
impl Stage for OnHost {
    fn doors(&self) -> Doors {
        self.host.doors()
    }
    async fn reopen(self) -> Self {
        let Self { folder, host, mut watching } = self;
        assert!(Host::open(config(&folder)).await.is_err(), "two agents never share a state folder");
        watching.shutdown().await;
        drop(host);
        Self::open(folder).await
    }
    async fn halt(&self, name: &str, namespace: Option<&str>) {
        let text = namespace.map(|ns| format!("reason: test\nnamespace: {ns}\n")).unwrap_or_default();
        self.write(&format!("state/halts/{name}"), &text);
    }
    async fn lift(&self, name: &str) {
        self.remove(&format!("state/halts/{name}"));
    }
    async fn author(&self, name: &str) {
        let text = format!(
            "apiVersion: faultline.dev/v1alpha1\nkind: Run\nmetadata: {{ name: {name}, namespace: shop }}\n\
             spec: {{ experimentRef: {{ name: e }} }}\n"
        );
        self.write(&format!("authored/{name}.yaml"), &text);
    }
    async fn unauthor(&self, name: &str) {
        self.remove(&format!("authored/{name}.yaml"));
    }
    async fn status(&self, name: &str) -> Option<serde_json::Value> {
        let path = self.folder.path().join(format!("authored/{name}.run.status.json"));
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}

#[tokio::test]
async fn host_mode_keeps_the_contract() {
    all(OnHost::fresh).await;
}

#[tokio::test]
async fn workloads_and_the_ceiling_are_seen_as_they_change() {
    let stage = OnHost::fresh().await;
    let sight = stage.doors().sight;
    assert_eq!(*sight.ceiling().borrow(), CeilingSeen::Absent);
    stage.write(
        "workloads.yaml",
        "workloads:\n  - { name: web, namespace: shop, labels: { app: web }, netns: /run/netns/x, ips: [10.9.0.2] }\n",
    );
    stage.write("ceiling.yaml", "from: [ { central: true } ]\nnamespaces: [shop]\nkinds: [\"network.*\"]\n");
    let mut inventory = sight.inventory();
    let seen = inventory.wait_for(|i| i.as_ref().is_some_and(|i| i.pods.len() == 1));
    let seen = tokio::time::timeout(PATIENCE, seen).await.unwrap().unwrap().clone().unwrap();
    let pod = &seen.pods[&proto::workloads::Workload::uid("shop", "web")];
    assert_eq!((pod.node.as_str(), pod.ips.len(), pod.containers[0].as_str()), ("east", 1, "web"));
    let mut ceiling = sight.ceiling();
    let present = ceiling.wait_for(|c| matches!(c, CeilingSeen::Present(c) if c.namespaces == ["shop"]));
    tokio::time::timeout(PATIENCE, present).await.unwrap().unwrap();
    stage.write("ceiling.yaml", "from: [ {");
    let unknown = ceiling.wait_for(|c| *c == CeilingSeen::Unknown);
    tokio::time::timeout(PATIENCE, unknown).await.expect("an unreadable Ceiling denies").unwrap();
}

#[tokio::test]
async fn a_run_put_back_is_the_same_and_another_content_is_another() {
    let mut stage = OnHost::fresh().await;
    // Only this test looks: nothing older is shown over what it has seen.
    stage.watching.shutdown().await;
    let uid = async || {
        stage.host.look().await;
        let set = stage.doors().sight.authored().borrow().clone().unwrap();
        set.keys().next().map(|o| o.uid.clone())
    };
    stage.author("r1").await;
    let first = uid().await;
    assert!(first.is_some());
    stage.unauthor("r1").await;
    assert_eq!(uid().await, None);
    stage.author("r1").await;
    assert_eq!(uid().await, first);
    stage.write(
        "authored/r1.yaml",
        "apiVersion: faultline.dev/v1alpha1\nkind: Run\nmetadata: { name: r1, namespace: shop }\n\
         spec: { experimentRef: { name: other } }\n",
    );
    let other = uid().await;
    assert!(other.is_some() && other != first);
    stage.write("authored/bad.yaml", "kind: Run\n");
    uid().await;
    let told = std::fs::read_to_string(stage.folder.path().join("authored/bad.yaml.status.json")).unwrap();
    assert!(told.contains("\"False\""), "{told}");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_hides_no_other_and_keeps_its_run_from_starting() {
    let stage = OnHost::fresh().await;
    let kept: serde_json::Value = serde_json::from_str(include_str!("frozen/0.1.0.json")).unwrap();
    let record = |run: &str| {
        let mut record = kept["RunRecordHeld"].clone();
        record["desired"]["run"] = run.into();
        record
    };
    let mut later = record("r-later");
    later["state"] = "Suspended".into();
    stage.write("state/records/r-later.json", &later.to_string());
    stage.write("state/records/r-1.json", &record("r-1").to_string());
    let records = stage.doors().records;
    let runs: Vec<String> =
        records.list().await.unwrap().iter().map(|record| record.run().to_string()).collect();
    assert_eq!(runs, ["r-1"]);
    let start = |run: &str| serde_json::from_value(record(run)).unwrap();
    let put = records.put(&start("r-later")).await;
    assert!(put.as_ref().is_err_and(|error| !error.retryable()), "{put:?}");
    records.put(&start("r-1")).await.unwrap();
}

//! The sink: nothing is skipped over failures, restarts and changes of leader.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use control_plane::audit::SinkChoice;
use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::store::memory::MemoryStore;
use control_plane::store::{PageRequest, Store};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use proto::audit::AuditLine;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::fixture::{World, eventually};
use crate::server::EtcdServer;

/// Those that are complete: the last one may be written right now.
fn lines(path: &Path) -> Vec<AuditLine> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    complete.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(lines: &[AuditLine], replica: &str) -> Vec<u64> {
    let number = |line: &AuditLine| match line {
        AuditLine::Record(record) if record.replica == replica => Some(record.seq),
        _ => None,
    };
    lines.iter().filter_map(number).collect()
}

fn distinct(lines: &[AuditLine], replica: &str) -> usize {
    numbers(lines, replica).into_iter().collect::<BTreeSet<_>>().len()
}

/// A process ends, another goes on; what was noted with no sink at hand arrives too.
async fn goes_on_after_a_restart(store: Arc<dyn Store>, again: impl AsyncFnOnce() -> Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let mut world = World::new(store);
    world.audit.sink = Some(SinkChoice::Jsonl { path: path.clone() });
    let one = world.start("one").await;
    one.note(6).await;
    eventually("everything of one", async || (distinct(&lines(&path), "one") == 6).then_some(())).await;
    // The sink answers first, then the cursor moves.
    eventually("the cursor", async || {
        let page = world.store.list("audit-cursor/", PageRequest::first(1)).await.unwrap();
        let cursor: serde_json::Value = serde_json::from_slice(&page.entries.first()?.value).unwrap();
        (cursor["seq"] == 6).then_some(())
    })
    .await;
    one.stop().await;
    let sent = numbers(&lines(&path), "one").len();
    // Noted while no sink was configured.
    world.audit.sink = None;
    let two = world.start("two").await;
    two.note(5).await;
    two.stop().await;
    world.store = again().await;
    world.audit.sink = Some(SinkChoice::Jsonl { path: path.clone() });
    let three = world.start("three").await;
    three.note(2).await;
    eventually("everything of all", async || {
        let lines = lines(&path);
        let all = distinct(&lines, "two") == 5 && distinct(&lines, "three") == 2;
        let signed = world.verify(lines).iter().any(|chain| chain.replica == "one" && chain.signed_to == 6);
        (all && signed).then_some(())
    })
    .await;
    three.stop().await;
    let lines = lines(&path);
    assert_eq!(numbers(&lines, "one").len(), sent, "the cursor kept what was sent from being sent again");
    for chain in world.verify(lines) {
        assert_eq!(chain.flaws, [], "{}", chain.replica);
    }
}

#[tokio::test]
async fn another_process_goes_on_where_the_last_one_was() {
    let store = Arc::new(MemoryStore::new());
    goes_on_after_a_restart(store.clone(), async move || store as Arc<dyn Store>).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_does_on_an_etcd_that_was_restarted_too() {
    let Some(mut server) = EtcdServer::start().await else { return };
    let connect = async |endpoint: String| {
        let store: Arc<dyn Store> =
            Arc::new(EtcdStore::connect(EtcdConfig::new(vec![endpoint])).await.unwrap());
        store
    };
    let store = connect(server.endpoint()).await;
    goes_on_after_a_restart(store, async || {
        server.restart().await;
        connect(server.endpoint()).await
    })
    .await;
}

/// Whoever leads appends to its own file: one that does not know yet that it leads no more harms no other's lines.
#[tokio::test]
async fn in_a_folder_each_process_has_its_file_and_all_share_the_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("audit");
    let mut world = World::new(Arc::new(MemoryStore::new()));
    world.audit.sink = Some(format!("jsonl:{}/", folder.display()).parse().unwrap());
    let (first, second) = (folder.join("one.jsonl"), folder.join("two.jsonl"));
    let one = world.start("one").await;
    one.note(4).await;
    eventually("sent", async || (distinct(&lines(&first), "one") == 4).then_some(())).await;
    eventually("the cursor", async || {
        let page = world.store.list("audit-cursor/", PageRequest::first(1)).await.unwrap();
        let cursor: serde_json::Value = serde_json::from_slice(&page.entries.first()?.value).unwrap();
        (cursor["seq"] == 4).then_some(())
    })
    .await;
    one.stop().await;
    let two = world.start("two").await;
    two.note(3).await;
    eventually("sent too", async || (distinct(&lines(&second), "two") == 3).then_some(())).await;
    two.stop().await;
    assert_eq!(numbers(&lines(&first), "two"), Vec::<u64>::new());
    let all = [lines(&first), lines(&second)].concat();
    assert_eq!((distinct(&all, "one"), distinct(&all, "two")), (4, 3));
    assert!(numbers(&lines(&second), "one").len() < 4, "what was taken is not sent again");
    for chain in world.verify(all) {
        assert_eq!(chain.flaws, [], "{}", chain.replica);
    }
}

#[tokio::test]
async fn a_lost_cursor_means_twice_and_never_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let mut world = World::new(Arc::new(MemoryStore::new()));
    world.audit.sink = Some(SinkChoice::Jsonl { path: path.clone() });
    let one = world.start("one").await;
    one.note(4).await;
    eventually("sent", async || (distinct(&lines(&path), "one") == 4).then_some(())).await;
    one.kill().await;
    // As if it had died between the sink's answer and the cursor.
    let cursors = control_plane::store::Txn::new().delete_prefix("audit-cursor/");
    world.store.txn(cursors).await.unwrap().committed().unwrap();
    let two = world.start("two").await;
    eventually("sent again", async || (numbers(&lines(&path), "one").len() == 8).then_some(())).await;
    two.stop().await;
    assert_eq!(world.verify(lines(&path))[0].flaws, []);
}

#[tokio::test]
async fn a_sink_that_fails_raises_the_alarm_until_it_has_caught_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later/audit.jsonl");
    let mut world = World::new(Arc::new(MemoryStore::new()));
    world.audit.sink = Some(SinkChoice::Jsonl { path: path.clone() });
    world.audit.alarm_after = Duration::from_millis(200);
    let one = world.start("one").await;
    let health = one.started.health.clone();
    one.note(300).await;
    let metrics = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &health.registry).unwrap();
        text
    };
    eventually("the alarm", async || health.sink.is_late().then_some(())).await;
    eventually("the count", async || metrics().contains("faultline_audit_sink_pending 300\n").then_some(()))
        .await;
    assert_eq!(health.not_ready(), None, "late, and still ready");
    assert!(!metrics().contains("faultline_audit_sink_failures_total 0\n"));
    std::fs::create_dir(dir.path().join("later")).unwrap();
    eventually("caught up", async || (!health.sink.is_late()).then_some(())).await;
    assert_eq!(numbers(&lines(&path), "one"), (1..=300).collect::<Vec<_>>());
    assert!(metrics().contains("faultline_audit_sink_pending 0\n"));
    one.stop().await;
}

/// A collector that takes nothing at first.
#[derive(Clone, Default)]
struct Collector {
    open: Arc<AtomicBool>,
    refused: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<AuditLine>>>,
}

#[async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        if !self.open.load(Ordering::Relaxed) {
            self.refused.store(true, Ordering::Relaxed);
            return Err(Status::unavailable("not now"));
        }
        for resource in request.into_inner().resource_logs {
            let logs = resource.scope_logs.into_iter().flat_map(|scope| scope.log_records);
            for log in logs {
                assert!(log.time_unix_nano > 0 && log.event_name.starts_with("faultline.audit"), "{log:?}");
                let Some(Value::StringValue(body)) = log.body.and_then(|body| body.value) else {
                    panic!("no text")
                };
                self.taken.lock().unwrap().push(serde_json::from_str(&body).unwrap());
            }
        }
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tokio::test]
async fn a_collector_gets_everything_once_it_takes_anything() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    let server = tonic::transport::Server::builder().add_service(LogsServiceServer::new(collector.clone()));
    serving.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let mut world = World::new(Arc::new(MemoryStore::new()));
    world.audit.sink = Some(format!("otlp:{endpoint}").parse().unwrap());
    let one = world.start("one").await;
    one.note(9).await;
    eventually("a refusal", async || collector.refused.load(Ordering::Relaxed).then_some(())).await;
    collector.open.store(true, Ordering::Relaxed);
    let taken = || collector.taken.lock().unwrap().clone();
    eventually("everything", async || (distinct(&taken(), "one") == 9).then_some(())).await;
    one.stop().await;
    let chain = world.verify(taken()).remove(0);
    assert_eq!((chain.flaws.as_slice(), chain.signed_to), ([].as_slice(), 8));
}

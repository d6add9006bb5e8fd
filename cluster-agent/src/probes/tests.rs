//! Probes against real local servers.

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;
use proto::probe::{Expect, HttpProbe, Probe, ProbeStage, TcpProbe};
use proto::quantity::Span;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Denied, Probes, measure};
use crate::driver::Input;

fn loopback() -> Denied {
    Denied { api: vec![], allow_loopback: true }
}

fn probe(url: Option<String>, tcp: Option<String>, status: Vec<i64>) -> Probe {
    Probe {
        name: "p".into(),
        http: url.map(|url| HttpProbe { url }),
        tcp: tcp.map(|address| TcpProbe { address }),
        // As long as a sample may take: a busy machine is no bad answer.
        expect: Expect { status, within: Some(Span::written("30s")) },
        every: Some(Span::written("100ms")),
        breach_after: None,
        when: vec![],
        from: None,
        on_breach: None,
    }
}

async fn server(tasks: &mut JoinSet<()>) -> String {
    let app = Router::new()
        .route("/ok", get(|| async { "fine" }))
        .route("/away", get(|| async { Redirect::temporary("/ok") }))
        .route("/big", get(|| async { "x".repeat(3 * super::MAX_BODY_BYTES) }))
        .route("/slow", get(std::future::pending::<&str>));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

#[tokio::test]
async fn http_is_judged_by_status_and_time_and_never_follows() {
    let mut tasks = JoinSet::new();
    let address = server(&mut tasks).await;
    let url = |path: &str| Some(format!("http://{address}{path}"));
    for (path, status, good, detail) in [
        ("/ok", vec![], true, "status 200"),
        ("/ok?x=1", vec![200], true, "status 200"),
        ("/ok", vec![204], false, "status 200"),
        ("/absent", vec![], false, "status 404"),
        ("/absent", vec![404], true, "status 404"),
        ("/away", vec![], false, "status 307"),
        ("/big", vec![], true, "status 200"),
        ("/slow", vec![], false, "no answer within 500 ms"),
    ] {
        let mut probe = probe(url(path), None, status);
        if path == "/slow" {
            probe.expect.within = Some(Span::written("500ms"));
        }
        let (was, latency, said) = measure(&probe, &loopback()).await;
        assert_eq!((was, said.as_str()), (good, detail), "{path}");
        assert_eq!(latency.is_some(), path != "/slow", "{path}");
    }
}

#[tokio::test]
async fn tcp_connects_or_not() {
    let mut tasks = JoinSet::new();
    let address = server(&mut tasks).await;
    assert!(measure(&probe(None, Some(address), vec![]), &loopback()).await.0);
    // A port that is taken, and at which nobody listens.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = closed.local_addr().unwrap().to_string();
    let (good, latency, detail) = measure(&probe(None, Some(address), vec![]), &loopback()).await;
    assert!(!good && latency.is_none() && detail.contains("refused"), "{detail}");
}

#[tokio::test]
async fn a_name_that_leads_to_a_forbidden_address_is_not_asked() {
    let mut tasks = JoinSet::new();
    let address = server(&mut tasks).await;
    let port = address.rsplit_once(':').unwrap().1.to_owned();
    for host in ["127.0.0.1", "localhost", "169.254.169.254"] {
        let target = probe(Some(format!("http://{host}:{port}/ok")), None, vec![]);
        let (good, latency, detail) = measure(&target, &Denied::default()).await;
        assert!(!good && latency.is_none() && detail.contains("never allowed"), "{host}: {detail}");
    }
}

#[tokio::test]
async fn samples_come_for_the_stage_until_it_is_stopped() {
    let mut tasks = JoinSet::new();
    let address = server(&mut tasks).await;
    let (tell, mut inputs) = mpsc::channel(1);
    let mut probes = Probes::new(tell);
    let run: proto::ids::RunId = "r1".parse().unwrap();
    let one = vec![probe(Some(format!("http://{address}/ok")), None, vec![])];
    probes.start(run.clone(), ProbeStage::Before, one.clone(), &loopback());
    for _ in 0..3 {
        let Some(Input::Sample(sample)) = inputs.recv().await else { panic!("no sample") };
        assert!(sample.good && sample.stage == ProbeStage::Before && sample.run == run);
    }
    probes.start(run.clone(), ProbeStage::During, one, &loopback());
    loop {
        let Some(Input::Sample(sample)) = inputs.recv().await else { panic!("no sample") };
        if sample.stage == ProbeStage::During {
            break;
        }
    }
    probes.stop(&run);
    drop(probes);
    while inputs.recv().await.is_some() {}
}

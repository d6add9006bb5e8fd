//! Schemathesis over the whole REST API, made from its own description, against a replica served over TLS: it must
//! find nothing. Bounded and with a fixed seed. `e2e/setup.sh test` installs the program; without it this says that
//! it was skipped.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use certs::client::{Expect, Trust};
use certs::{Authority, Connector, Protocol, Reloadable, ReloadableIdentity, TrustBundle, TrustDomain};
use control_plane::config::{Config, StoreChoice};
use control_plane::{Listeners, serve};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// As in `e2e/setup.sh`.
const VERSION: &str = "4.32.5";
const TOKEN: &str = "the-token-of-the-fuzzed-admin";
/// Far more than it takes on a loaded machine.
const WITHIN: Duration = Duration::from_mins(8);

/// Where `e2e/setup.sh` puts it, or what the environment names.
fn schemathesis() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("FAULTLINE_SCHEMATHESIS") {
        return Some(given.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let program = cache.join(format!("faultline/schemathesis-{VERSION}/bin/schemathesis"));
    program.exists().then_some(program)
}

struct Served {
    folder: TempDir,
    url: String,
    shutdown: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

async fn start() -> anyhow::Result<Served> {
    certs::install_provider();
    let folder = TempDir::new()?;
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).map(|()| path)
    };
    let now = jiff::Timestamp::now();
    let authority = Authority::create(TrustDomain::new("fuzz.test")?, now)?;
    let own = authority.issue_server(&["localhost"], None, now, Duration::from_hours(1))?;
    file("ca.pem", authority.bundle_pem())?;
    let kek = file("kek", "0123456789abcdef0123456789abcdef")?;
    let mut config = Config::new(StoreChoice::Memory, kek, file("token", TOKEN)?);
    for addr in
        [&mut config.rest_addr, &mut config.link_addr, &mut config.enrol_addr, &mut config.health_addr]
    {
        *addr = "127.0.0.1:0".parse()?;
    }
    config.rest_tls = Some((file("rest.crt", &own.chain_pem)?, file("rest.key", &own.key_pem)?));
    let listeners = Listeners::bind(&config).await?;
    let url = format!("https://localhost:{}", listeners.rest.local_addr()?.port());
    let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(serve(config, listeners, shutdown.clone()));
    Ok(Served { folder, url, shutdown, tasks })
}

/// Things under the name that is tried first, so that more is tried than what is not there.
async fn seed(served: &Served) -> anyhow::Result<()> {
    let bundle = TrustBundle::from_pem(&std::fs::read_to_string(served.folder.path().join("ca.pem"))?)?;
    let trust = Trust::Bundle(Reloadable::new(bundle));
    let tls = certs::client::config(&ReloadableIdentity::empty(), trust, Expect::Name, Protocol::Http)?;
    let client = Client::builder(TokioExecutor::new()).build(Connector::new(tls));
    let authority = served.url.trim_start_matches("https://");
    let experiment = json!({
        "clusters": { "names": ["0"] },
        "targets": [{ "name": "t", "pods": { "namespaces": ["shop"] , "labelSelector": { "matchLabels": { "a": "b" } } },
            "pick": { "one": true }, "atMost": { "perCluster": 1, "total": 1 } }],
        "faults": [{ "name": "f", "target": "t", "at": "0s", "for": "60s", "container": { "pause": {} } }],
        "limits": { "clusterDeadline": "5m", "runDeadline": "1h", "startWithin": "10m" },
    });
    let grant = json!({
        "from": { "operators": ["*"] },
        "to": { "clusters": { "names": ["0"] }, "namespaces": ["shop"], "kinds": ["*"], "maxTargets": 1 },
    });
    for (method, path, body) in [
        (Method::POST, "/v1/clusters", json!({ "name": "0" })),
        (Method::PUT, "/v1/grants/0", json!({ "spec": grant })),
        (Method::PUT, "/v1/experiments/0", json!({ "spec": experiment })),
        (Method::POST, "/v1/runs", json!({ "name": "0", "spec": { "experimentRef": { "name": "0" } } })),
        (Method::POST, "/v1/halts", json!({ "id": "0", "scope": { "type": "Fleet" } })),
        (Method::POST, "/v1/operators", json!({ "name": "0", "role": "viewer" })),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{authority}{path}"))
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let response = client.request(request).await?;
        let status = response.status();
        let said = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&said));
    }
    Ok(())
}

async fn fuzz(program: &Path, served: &Served) -> anyhow::Result<Output> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rest_fuzz");
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(home.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/openapi.json", served.url))
        .arg("--tls-verify")
        .arg(served.folder.path().join("ca.pem"))
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .current_dir(served.folder.path())
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", &home)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(tokio::time::timeout(WITHIN, command.output()).await??)
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let Some(program) = schemathesis() else {
        eprintln!("SKIPPED rest_fuzz: no schemathesis {VERSION} here (e2e/setup.sh test installs it)");
        return;
    };
    let mut served = start().await.expect("a control plane");
    seed(&served).await.expect("something to find");
    let output = fuzz(&program, &served).await.expect("schemathesis ends in time");
    served.shutdown.cancel();
    let ended = served.tasks.join_next().await.expect("it was started");
    ended.expect("no panic").expect("a clean end");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Tested:") && text.contains("Stateful"), "every phase was run: {text}");
}

//! The verbs against a real control plane in this process, over TLS, on a store in memory: no cluster is connected,
//! so runs end Denied; what they do in clusters is tested elsewhere.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use certs::{Authority, TrustDomain};
use control_plane::config::{Config, StoreChoice};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[path = "rest/declared.rs"]
mod declared;
#[path = "rest/doctor.rs"]
mod doctor;
#[path = "rest/forms.rs"]
mod forms;
#[path = "rest/invited.rs"]
mod invited;
#[path = "rest/moved.rs"]
mod moved;
#[path = "rest/operators.rs"]
mod operators;
#[path = "rest/proxied.rs"]
mod proxied;
#[path = "rest/recovered.rs"]
mod recovered;
#[path = "rest/restored.rs"]
mod restored;

const TOKEN: &str = "the-token-of-the-first-admin";
/// Bound of every wait.
const WITHIN: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

struct Centre {
    folder: TempDir,
    address: String,
    pin: String,
    shutdown: CancellationToken,
    served: JoinSet<anyhow::Result<()>>,
}

impl Centre {
    /// The answer of a verb once it is as wanted.
    async fn until(&self, args: &[&str], what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let seen = self.json(args).await;
            if wanted(&seen) {
                return seen;
            }
            assert!(begun.elapsed() < WITHIN, "waited in vain until {what}: {seen:#}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Serves with a certificate of a CA of its own for REST.
    async fn start() -> Self {
        Self::start_in(TempDir::new().expect("a folder"), StoreChoice::Memory).await
    }

    /// In this folder, on this store.
    async fn start_in(folder: TempDir, store: StoreChoice) -> Self {
        Self::start_with(folder, store, |_| ()).await
    }

    /// The same, configured further.
    async fn start_with(folder: TempDir, store: StoreChoice, further: impl FnOnce(&mut Config)) -> Self {
        certs::install_provider();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let now = jiff::Timestamp::now();
        let authority =
            Authority::create(TrustDomain::new("rest.test").expect("a domain"), now).expect("a CA");
        let own = authority
            .issue_server(&["localhost", "centre.test"], None, now, Duration::from_hours(1))
            .expect("a certificate");
        file("ca.pem", authority.bundle_pem());
        let (kek, token) = (file("kek", "0123456789abcdef0123456789abcdef"), file("token", TOKEN));
        let mut config = Config::new(store, kek, token);
        for addr in
            [&mut config.rest_addr, &mut config.link_addr, &mut config.enrol_addr, &mut config.health_addr]
        {
            *addr = "127.0.0.1:0".parse().expect("an address");
        }
        config.rest_reload = Duration::from_millis(20);
        config.rest_tls = Some((file("rest.crt", &own.chain_pem), file("rest.key", &own.key_pem)));
        further(&mut config);
        let listeners = control_plane::Listeners::bind(&config).await.expect("free ports");
        let port = listeners.rest.local_addr().expect("bound").port();
        let shutdown = CancellationToken::new();
        let mut served = JoinSet::new();
        served.spawn(control_plane::serve(config, listeners, shutdown.clone()));
        let (address, pin) = (format!("https://localhost:{port}"), authority.pin().to_string());
        Self { folder, address, pin, shutdown, served }
    }

    async fn end(self) {
        self.stop().await;
    }

    /// Stops serving; the folder stays.
    async fn stop(mut self) -> TempDir {
        self.shutdown.cancel();
        self.served.join_next().await.expect("it was started").expect("no panic").expect("a clean end");
        self.folder
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn run_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_faultline"));
        command.args(args).env_clear().env("FAULTLINE_CONFIG", self.path("contexts.json")).kill_on_drop(true);
        command.envs(environment.iter().copied());
        command.current_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/files"));
        let output = tokio::time::timeout(WITHIN, command.output()).await;
        output.with_context(|| format!("{args:?} did not end")).expect("in time").expect("the binary starts")
    }

    /// Exit code, stdout, stderr.
    async fn said(&self, args: &[&str]) -> (i32, String, String) {
        self.said_with(args, &[]).await
    }

    async fn said_with(&self, args: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
        let output = self.run_with(args, environment).await;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
    }

    /// Stdout of what must work.
    async fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.said(args).await;
        assert_eq!(code, 0, "{args:?}: {out}{err}");
        out
    }

    async fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[args, &["-o", "json"]].concat()).await;
        serde_json::from_str(&out).with_context(|| format!("{args:?}: {out}")).expect("JSON")
    }

    async fn login(&self) {
        let (code, out, err) = self
            .said(&["login", &self.address, "--pin", &self.pin, "--token-file", &self.path("token")])
            .await;
        assert_eq!(
            (code, out.as_str(), err.as_str()),
            (0, "", "logged in as admin (admin), context default\n")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_prove_themselves_and_keep_the_token_secret() {
    let centre = Centre::start().await;
    centre.login().await;
    let mode = std::fs::metadata(centre.path("contexts.json")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let by_ca = [
        "login",
        &centre.address,
        "--ca-file",
        &centre.path("ca.pem"),
        "--token-file",
        &centre.path("token"),
    ];
    centre.ok(&[by_ca.as_slice(), &["--name", "by-ca"]].concat()).await;
    for args in [
        ["context"].as_slice(),
        &["context", "-o", "json"],
        &["context", "-o", "yaml"],
        &["context", "default"],
    ] {
        let (code, out, err) = centre.said(args).await;
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("by-ca") && !out.contains(TOKEN) && !err.contains(TOKEN), "{out}{err}");
    }
    let shown = centre.json(&["context"]).await;
    assert_eq!(shown[1]["name"], "default");
    assert_eq!(shown[1]["current"], true);
    centre.ok(&["get", "runs", "--context", "by-ca"]).await;

    let (code, _, err) = centre.said(&["get", "runs", "--context", "else"]).await;
    assert_eq!((code, err.as_str()), (1, "error: no context \"else\"; known: by-ca, default\n"));
    centre.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_fails_leaves_nothing() {
    let centre = Centre::start().await;
    centre.login().await;
    std::fs::write(centre.path("wrong"), "not-the-token-of-anybody").expect("a file");
    let wrong = [
        "login",
        &centre.address,
        "--pin",
        &centre.pin,
        "--token-file",
        &centre.path("wrong"),
        "--name",
        "no",
    ];
    let (code, _, err) = centre.said(&wrong).await;
    assert_eq!(code, 1);
    assert!(err.starts_with("error: not authenticated"), "{err}");
    let other = Authority::create(TrustDomain::new("x.test").expect("a domain"), jiff::Timestamp::now())
        .expect("a CA");
    let pin = other.pin().to_string();
    let (code, ..) = centre
        .said(&[
            "login",
            &centre.address,
            "--pin",
            &pin,
            "--token-file",
            &centre.path("token"),
            "--name",
            "no",
        ])
        .await;
    assert_eq!(code, 1);
    assert_eq!(
        centre.json(&["context"]).await.as_array().expect("a list").len(),
        1,
        "a failed login leaves nothing"
    );
    centre.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_stored_run_followed_and_deleted() {
    let centre = Centre::start().await;
    centre.login().await;
    assert_eq!(centre.ok(&["apply", "-f", "good.yaml"]).await, "experiment/slow-payments created\n");
    assert_eq!(centre.ok(&["apply", "-f", "good.yaml"]).await, "experiment/slow-payments unchanged\n");
    assert_eq!(centre.json(&["get", "runs"]).await, Value::Array(Vec::new()), "storing runs nothing");
    let stored = centre.json(&["get", "experiment", "slow-payments"]).await;
    assert_eq!(stored["spec"]["clusters"]["names"][0], "c2");

    let id = centre.ok(&["run", "slow-payments", "--run-name", "first", "--no-wait"]).await;
    let (code, out, err) = centre.said(&["watch", "first"]).await;
    assert_eq!(code, 5, "{out}{err}");
    assert!(out.contains(id.trim()) && out.contains("Outcome  Denied"), "{out}");
    let run = centre.json(&["describe", "run", id.trim()]).await;
    assert_eq!(run["summary"]["outcome"], "Denied");
    assert_eq!(run["record"]["name"], "first");
    assert_eq!(centre.json(&["get", "runs"]).await.as_array().expect("a list").len(), 1);

    let (code, _, err) = centre.said(&["run", "slow-payments", "--run-name", "first"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("used for a run before"), "{err}");
    let (code, out, err) =
        centre.said(&["plan", "-f", "good.yaml", "--set", "faults[late].network.delay.latency=1s"]).await;
    assert_eq!(code, 5, "{out}{err}");
    assert!(out.contains("NO PLAN, nothing was started"), "{out}");
    let (code, out, err) = centre.said(&["run", "-f", "good.yaml", "-o", "json"]).await;
    assert_eq!(code, 5, "{err}");
    serde_json::from_str::<Value>(&out).expect("JSON on stdout, progress on stderr");

    assert_eq!(
        centre.ok(&["delete", "experiment", "slow-payments"]).await,
        "experiment/slow-payments deleted\n"
    );
    let (code, _, err) = centre.said(&["get", "experiment", "slow-payments"]).await;
    assert_eq!(code, 1);
    assert!(err.starts_with("error: not found"), "{err}");
    let (code, _, err) = centre.said(&["get", "runs", "a/../b c"]).await;
    assert_eq!(code, 1);
    assert!(err.starts_with("error: not found"), "{err}");
    centre.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn halts_are_set_shown_and_released_by_id() {
    let centre = Centre::start().await;
    centre.login().await;
    let out = centre.ok(&["halt", "set", "--fleet", "--reason", "a test", "--id", "incident-42"]).await;
    assert!(out.contains("incident-42") && out.contains("fleet") && out.contains("a test"), "{out}");
    centre.ok(&["halt", "set", "--fleet", "--id", "incident-42", "--no-wait"]).await;
    let halts = centre.json(&["halt", "status"]).await;
    assert_eq!(halts[0]["halt"]["id"], "incident-42");
    assert_eq!(centre.json(&["get", "halts", "incident-42"]).await.as_array().expect("a list").len(), 1);
    let (code, _, err) = centre.said(&["get", "halts", "another"]).await;
    assert_eq!((code, err.as_str()), (1, "error: halt another is not in force\n"));

    centre.ok(&["apply", "-f", "good.yaml"]).await;
    let (code, out, _) = centre.said(&["run", "slow-payments"]).await;
    assert_eq!(code, 5, "{out}");
    assert_eq!(centre.ok(&["halt", "release", "incident-42"]).await, "halt/incident-42 released\n");
    let (code, _, err) = centre.said(&["halt", "set", "--fleet", "--id", "incident-42"]).await;
    assert_eq!(code, 1);
    assert!(err.starts_with("error: conflict"), "{err}");
    assert_eq!(centre.json(&["halt", "status"]).await, Value::Array(Vec::new()));
    centre.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_the_audit() {
    let centre = Centre::start().await;
    centre.login().await;
    let (code, out, err) =
        centre.said(&["clusters", "invite", "c2", "--label", "env=test", "--ttl", "5m"]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(out.lines().count(), 1, "the token alone, for a file: {out}");
    assert!(out.trim().parse::<certs::JoinToken>().is_ok() && !err.contains(out.trim()), "{err}");
    let cluster = centre.json(&["describe", "cluster", "c2"]).await;
    assert_eq!(cluster["spec"]["labels"]["env"], "test");
    assert_eq!(cluster["state"], "Pending");
    centre.ok(&["clusters", "accept", "c2"]).await;
    assert_eq!(centre.json(&["clusters", "list"]).await[0]["spec"]["accepted"], true);

    let (code, _, err) =
        centre.said(&["clusters", "invite", "Not A Name", "--ttl", "5m", "--label", "a=b c"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("\n  name: ") && err.contains("\n  labels.a: "), "every problem: {err}");
    centre.ok(&["clusters", "revoke", "c2"]).await;
    centre.ok(&["clusters", "remove", "c2"]).await;
    let wanted = ["cluster.invite", "cluster.accept", "cluster.revoke", "cluster.remove"];
    let noted = async {
        // Noting waits for nobody, so the last may be written a little later.
        loop {
            let audit = centre.json(&["get", "audit"]).await;
            let records = audit.as_array().expect("a list");
            if wanted.iter().all(|action| records.iter().any(|record| record["action"] == *action)) {
                break;
            }
        }
    };
    tokio::time::timeout(WITHIN, noted).await.expect("everything is in the audit");
    let (code, ..) = centre.said(&["get", "audit", "one"]).await;
    assert_eq!(code, 2);
    centre.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_verified_with_and_without_the_control_plane() {
    let centre = Centre::start().await;
    centre.login().await;
    for name in ["c1", "c2", "c3"] {
        centre.ok(&["clusters", "invite", name]).await;
    }
    let written = async {
        while centre.json(&["audit", "list", "--action", "cluster.*"]).await.as_array().expect("a list").len()
            < 3
        {}
    };
    tokio::time::timeout(WITHIN, written).await.expect("everything is in the audit");
    assert_eq!(centre.json(&["audit", "list", "--by", "operator:nobody"]).await, Value::Array(Vec::new()));
    assert_eq!(
        centre.json(&["audit", "list", "--since", "2100-01-01T00:00:00Z"]).await,
        Value::Array(Vec::new())
    );
    let chains = centre.json(&["audit", "verify"]).await;
    assert_eq!(chains[0]["flaws"], Value::Array(Vec::new()), "{chains}");
    let folder = TempDir::new().expect("a folder");
    let [export, ca] = ["audit.jsonl", "root.pem"].map(|name| folder.path().join(name).display().to_string());
    std::fs::write(&ca, centre.ok(&["audit", "ca"]).await).expect("a file");
    let text = centre.ok(&["audit", "export"]).await;
    std::fs::write(&export, &text).expect("a file");
    centre.end().await;

    let offline = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_faultline"));
        let output = command.args(args).env_clear().output().await.expect("it runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let verify = ["audit", "verify", "--file", &export, "--ca", &ca];
    assert_eq!(offline(&verify).await, (Some(0), String::new()));
    std::fs::write(&export, text.replacen("\"c2\"", "\"c9\"", 1)).expect("a file");
    let (code, said) = offline(&verify).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(": Altered: ") && said.ends_with("error: the audit is not whole\n"), "{said}");
    assert_eq!(offline(&verify[..4]).await.0, Some(2), "a file without a root proves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_out_that_a_refusal_names_is_a_command_that_works() {
    let centre = Centre::start().await;
    centre.login().await;
    centre.ok(&["clusters", "invite", "c2"]).await;
    centre.ok(&["clusters", "accept", "c2"]).await;
    centre.ok(&["apply", "-f", "good.yaml"]).await;
    let (code, out, _) = centre.said(&["run", "slow-payments"]).await;
    assert_eq!(code, 5, "{out}");
    let cure =
        out.lines().find_map(|line| line.split_once("faultline grant ")).expect("the way out is named").1;
    let words: Vec<String> = cure.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect();
    let grant: Vec<&str> = ["grant"].into_iter().chain(words.iter().map(String::as_str)).collect();
    centre.ok(&grant).await;
    assert_eq!(centre.json(&["get", "grants"]).await[0]["spec"]["to"]["namespaces"][0], "shop");
    centre.ok(&["delete", "grant", &words[0]]).await;
    centre.end().await;
}

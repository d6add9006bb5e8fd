//! A folder with files of every bad kind, a context, and the binary run in it with little memory.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::fake::Fake;

/// Part of no message, whatever happens.
pub(crate) const TOKEN: &str = "flo-the-secret-token-of-the-test";
/// Bound of every command, in seconds, also on a machine that is busy.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a request may take. Below [`PATIENCE`], or a command could not say that it gave up.
const ANSWERED: &str = "50s";
/// The same where no answer ever comes.
const UNANSWERED: &str = "700ms";
/// The most memory that a command may ask for, KiB.
const MEMORY_KIB: u32 = 768 * 1024;

pub(crate) struct World {
    folder: TempDir,
    request_timeout: &'static str,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) line: String,
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl World {
    /// For what answers, however long that takes on a busy machine.
    pub(crate) fn new(fake: &Fake) -> Self {
        let world = Self { folder: TempDir::new().expect("a folder"), request_timeout: ANSWERED };
        let files = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/files");
        for name in ["good.yaml", "run.yaml"] {
            std::fs::copy(files.join(name), world.path(name)).expect("it is there");
        }
        world.write("token", TOKEN.as_bytes());
        world.write("kek", b"0123456789abcdef0123456789abcdef");
        world.write("members.yaml", b"clusters: [{name: eu-1}]\n");
        world.write("workloads.yaml", b"workloads: []\n");
        world.write(
            "ceiling.yaml",
            b"{from: [{central: true}], namespaces: [shop], kinds: ['*'], maxTargets: 1, maxDuration: 1m}\n",
        );
        world.write("ca.pem", fake.bundle.as_bytes());
        world.write("rest.crt", fake.chain.as_bytes());
        world.write("rest.key", fake.key.as_bytes());
        world.context(&fake.server, &fake.pin);
        world
    }

    /// For what never ends an answer.
    pub(crate) fn in_vain(fake: &Fake) -> Self {
        Self { request_timeout: UNANSWERED, ..Self::new(fake) }
    }

    /// The context that commands use.
    pub(crate) fn context(&self, server: &str, pin: &str) {
        let context = json!({ "current": "it", "contexts": { "it": { "server": server, "pin": pin, "token": TOKEN } } });
        self.write("contexts.json", context.to_string().as_bytes());
        self.mode("contexts.json", 0o600);
    }

    pub(crate) fn mode(&self, name: &str, mode: u32) {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path(name), permissions).expect("our file");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    pub(crate) async fn run<A: AsRef<OsStr>>(&self, args: &[A], env: &[(&str, &OsStr)]) -> Ran {
        let line: Vec<_> = args.iter().map(|arg| short(&arg.as_ref().to_string_lossy())).collect();
        let env_line: Vec<_> = env.iter().map(|(key, value)| format!("{key}={}", value.display())).collect();
        let line = format!("{} faultline {}", short(&env_line.join(" ")), line.join(" "));
        let mut command = tokio::process::Command::new("sh");
        let script = format!("ulimit -v {MEMORY_KIB}; exec \"$@\"");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_faultline")]).args(args);
        command.current_dir(self.folder.path()).env_clear();
        command.env("FAULTLINE_CONFIG", self.path("contexts.json"));
        command.env("FAULTLINE_REQUEST_TIMEOUT", self.request_timeout).envs(env.iter().copied());
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(PATIENCE, command.output()).await;
        let Output { status, stdout, stderr } =
            ended.unwrap_or_else(|_| panic!("{line}: did not end")).expect("sh starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_else(|e| panic!("{line}: {e}"));
        let code = status.code().unwrap_or_else(|| panic!("{line}: {status}"));
        Ran { code, out: text(stdout), err: text(stderr), line }
    }
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

impl Ran {
    /// What holds of every refusal; what does not, as a sentence.
    pub(crate) fn flaws(&self) -> Vec<String> {
        let mut flaws = Vec::new();
        let mut holds = |holds: bool, what: &str| {
            if !holds {
                flaws.push(format!(
                    "{}: {what}; exit {}\n{}{}",
                    self.line,
                    self.code,
                    short(&self.out),
                    short(&self.err)
                ));
            }
        };
        // The doctor's report is its result, and it has a code of its own.
        let is_report = self.code == 9;
        holds([1, 2, 9].contains(&self.code), "not a documented code of a failure");
        holds(self.out.is_empty() || is_report, "says something on stdout");
        holds(!self.err.trim().is_empty() || is_report, "says nothing");
        holds(self.err.len() < 16 * 1024, "says too much");
        holds(!self.err.contains("panicked"), "panics");
        let said = format!("{}{}", self.out, self.err);
        holds(!said.contains(TOKEN), "shows the token");
        holds(!said.chars().any(steers), "steers the terminal");
        flaws
    }
}

/// What a terminal does not just show.
pub(crate) fn steers(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || ('\u{202a}'..='\u{202e}').contains(&c)
}

/// Runs what it is given a few at a time, and collects what they find.
pub(crate) async fn all<F>(cases: impl IntoIterator<Item = F>) -> Vec<String>
where
    F: Future<Output = Vec<String>> + Send + 'static,
{
    let (mut found, mut running) = (Vec::new(), tokio::task::JoinSet::new());
    for case in cases {
        if running.len() >= 8
            && let Some(ended) = running.join_next().await
        {
            found.extend(ended.expect("no panic"));
        }
        running.spawn(case);
    }
    while let Some(ended) = running.join_next().await {
        found.extend(ended.expect("no panic"));
    }
    found
}

pub(crate) fn os(text: &str) -> OsString {
    OsString::from(text)
}

/// Fails with everything that was found.
pub(crate) fn none(found: &[String]) {
    assert!(found.is_empty(), "{} flaws:\n{}", found.len(), found.join("\n---\n"));
}

//! An example or two for the help of every command. `cli/tests/tree.rs` parses each of them, and finds the command
//! that has none.

/// By the words of the command.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "serve control-plane",
        &["serve control-plane --data-dir /var/lib/faultline --kek-file kek --admin-token-file admin"],
    ),
    (
        "serve agent",
        &[
            "serve agent --namespace faultline --pod-name agent-0 --node-service faultline-agent-nodes.faultline.svc",
        ],
    ),
    (
        "serve node",
        &[
            "serve node --agent faultline-agent-nodes:7446 --agent-bundle ca.crt --token-file token --node-name n1",
        ],
    ),
    (
        "serve host",
        &["serve host --join-token-file join.token --workloads workloads.yaml --ceiling ceiling.yaml"],
    ),
    ("serve member-drain", &["serve member-drain --halt uninstall --at-most 2m"]),
    ("apply", &["apply -f slow-payments.yaml", "apply -f definitions/ --owner team-shop --prune --dry-run"]),
    ("validate", &["validate -f slow-payments.yaml"]),
    (
        "plan",
        &["plan -f slow-payments.yaml", "plan slow-payments --set faults[late].network.delay.latency=300ms"],
    ),
    (
        "run",
        &[
            "run -f slow-payments.yaml",
            "run slow-payments --run-name nightly-0412 --not-after 2030-04-12T10:00:00Z",
        ],
    ),
    ("get", &["get runs", "get cluster eu-1 -o yaml"]),
    ("describe", &["describe run slow-payments-0412"]),
    ("watch", &["watch slow-payments-0412"]),
    ("stop", &["stop slow-payments-0412"]),
    ("delete", &["delete experiment slow-payments"]),
    (
        "halt set",
        &["halt set --fleet --reason incident-42", "halt set --cluster eu-1 --namespace shop --no-wait"],
    ),
    ("halt status", &["halt status"]),
    ("halt release", &["halt release incident-42"]),
    (
        "clusters invite",
        &[
            "clusters invite eu-1 --label env=prod",
            "clusters invite -f clusters.yaml --auto-accept --ttl 24h --out joins",
        ],
    ),
    ("clusters replace", &["clusters replace eu-1 --auto-accept"]),
    ("clusters list", &["clusters list -o json"]),
    ("clusters accept", &["clusters accept eu-1"]),
    ("clusters revoke", &["clusters revoke eu-1"]),
    ("clusters remove", &["clusters remove eu-1"]),
    ("centre endpoints", &["centre endpoints"]),
    (
        "centre move",
        &[
            "centre move --link hub-2.example.com:7444 --enrol hub-2.example.com:7445 --dry-run",
            "centre move --link hub-2.example.com:7444,hub.example.com:7444 --enrol hub-2.example.com:7445 --wait 10m",
        ],
    ),
    ("operators create", &["operators create ann --role operator --ttl 720h"]),
    ("operators list", &["operators list"]),
    ("operators rotate", &["operators rotate ann --ttl 720h"]),
    ("operators revoke", &["operators revoke ann"]),
    ("audit list", &["audit list --since 24h --by operator:ann"]),
    ("audit export", &["audit export"]),
    ("audit verify", &["audit verify", "audit verify --file audit.jsonl --ca root.pem"]),
    ("audit ca", &["audit ca"]),
    (
        "grant",
        &[
            "grant shop --from-operator ann --to-cluster eu-1 --to-namespace shop --kind network.* --max-targets 5",
        ],
    ),
    ("centre endpoints", &["centre endpoints"]),
    ("centre move", &["centre move --link hub.example.com:7444 --enrol hub.example.com:7445 --dry-run"]),
    ("login", &["login https://hub.example.com:7443 --pin sha256/PIN --token-file admin.token"]),
    ("context", &["context", "context staging"]),
    ("faults", &["faults -o json"]),
    ("crds", &["crds"]),
    ("demo", &["demo"]),
    ("doctor", &["doctor"]),
    (
        "doctor agent",
        &[
            "doctor agent --namespace faultline --pod-name agent-0 --node-service faultline-agent-nodes.faultline.svc",
        ],
    ),
    (
        "doctor node",
        &[
            "doctor node --agent faultline-agent-nodes:7446 --agent-bundle ca.crt --token-file token --node-name n1",
        ],
    ),
    ("doctor host", &["doctor host --workloads workloads.yaml --ceiling ceiling.yaml"]),
    ("store backup", &["store backup --data-dir /var/lib/faultline --out backup.redb"]),
    ("store restore", &["store restore --data-dir /var/lib/faultline --from backup.redb"]),
    ("store mark-restored", &["store mark-restored --etcd-endpoints https://etcd-0:2379"]),
    ("completion", &["completion bash"]),
    ("man", &["man --out man"]),
    ("version", &["version"]),
];

/// The tree with its examples.
pub(crate) fn with_examples(root: clap::Command) -> clap::Command {
    root.mut_subcommands(|command| below(command, ""))
}

fn below(command: clap::Command, parent: &str) -> clap::Command {
    let path = format!("{parent} {}", command.get_name()).trim().to_owned();
    let command = match EXAMPLES.iter().find(|(words, _)| *words == path) {
        Some((_, [one])) => command.after_help(format!("Example:\n  faultline {one}")),
        Some((_, some)) => {
            command.after_help(format!("Examples:\n  faultline {}", some.join("\n  faultline ")))
        }
        None => command,
    };
    command.mut_subcommands(|child| below(child, &path))
}

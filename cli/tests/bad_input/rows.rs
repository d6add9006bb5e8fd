//! A row for each command: arguments with which it would work. A kind for each argument: what it may be. Written by
//! hand; `arguments.rs` holds them against the tree.

/// `(id of the argument, value)`; a flag has no value. DIR, SERVER and PIN are filled in.
pub(crate) type Given = &'static [(&'static str, &'static str)];

/// What a command needs to do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Centre,
    Nothing,
    /// A role would serve: its row holds one mistake, so that none ever does.
    Role,
    /// Never run here.
    Skipped,
}

pub(crate) struct Row {
    pub(crate) words: &'static str,
    pub(crate) needs: Needs,
    pub(crate) good: Given,
}

const fn row(words: &'static str, needs: Needs, good: Given) -> Row {
    Row { words, needs, good }
}

const STORE: (&str, &str) = ("data_dir", "DIR/data");
const CONTROL_PLANE: Given =
    &[STORE, ("kek_file", "DIR/kek"), ("admin_token_file", "DIR/token"), ("trust_domain", "Not A Domain")];
const AGENT: Given = &[("namespace", "Not A Name"), ("pod_name", "p"), ("node_service", "n")];
const NODE: Given = &[
    ("agent", "a:1"),
    ("agent_bundle", "DIR/none"),
    ("token_file", "DIR/token"),
    ("node_name", "n"),
    ("health_addr", "0.0.0.0:1"),
];
const HOST: Given =
    &[("state_dir", "relative"), ("workloads", "DIR/workloads.yaml"), ("ceiling", "DIR/ceiling.yaml")];
const GRANT: Given = &[
    ("name", "g"),
    ("operator", "ann"),
    ("to_cluster", "c2"),
    ("to_namespace", "shop"),
    ("kind", "pod.kill"),
];

/// Every command that does something.
pub(crate) const ROWS: &[Row] = &[
    row("serve control-plane", Needs::Role, CONTROL_PLANE),
    row("serve agent", Needs::Role, AGENT),
    row("serve node", Needs::Role, NODE),
    row("serve host", Needs::Role, HOST),
    row("serve member-drain", Needs::Role, &[("halt", "Not A Name")]),
    row("apply", Needs::Centre, &[("file", "DIR/good.yaml")]),
    row("validate", Needs::Nothing, &[("file", "DIR/good.yaml")]),
    row("plan", Needs::Centre, &[("name", "slow-payments")]),
    row("run", Needs::Centre, &[("name", "slow-payments")]),
    row("get", Needs::Centre, &[("noun", "runs")]),
    row("describe", Needs::Centre, &[("noun", "run"), ("name", "r1")]),
    row("watch", Needs::Centre, &[("name", "r1")]),
    row("stop", Needs::Centre, &[("name", "r1")]),
    row("delete", Needs::Centre, &[("noun", "run"), ("name", "r1")]),
    row("halt set", Needs::Centre, &[("fleet", "")]),
    row("halt status", Needs::Centre, &[]),
    row("halt release", Needs::Centre, &[("id", "h1")]),
    row("clusters invite", Needs::Centre, &[("name", "c9")]),
    row("clusters replace", Needs::Centre, &[("name", "c9")]),
    row("clusters list", Needs::Centre, &[]),
    row("clusters accept", Needs::Centre, &[("name", "c9")]),
    row("clusters revoke", Needs::Centre, &[("name", "c9")]),
    row("clusters remove", Needs::Centre, &[("name", "c9")]),
    row("operators create", Needs::Centre, &[("name", "ann"), ("role", "viewer")]),
    row("operators list", Needs::Centre, &[]),
    row("operators rotate", Needs::Centre, &[("name", "ann")]),
    row("operators revoke", Needs::Centre, &[("name", "ann")]),
    row("audit list", Needs::Centre, &[]),
    row("audit export", Needs::Centre, &[]),
    row("audit verify", Needs::Centre, &[]),
    row("audit ca", Needs::Centre, &[]),
    row("grant", Needs::Centre, GRANT),
    row("centre endpoints", Needs::Centre, &[]),
    row("centre move", Needs::Centre, &[("link", "hub:7444"), ("enrol", "hub:7445")]),
    row("login", Needs::Centre, &[("server", "SERVER"), ("pin", "PIN"), ("token_file", "DIR/token")]),
    row("context", Needs::Nothing, &[]),
    row("faults", Needs::Nothing, &[]),
    row("crds", Needs::Nothing, &[]),
    row("demo", Needs::Skipped, &[]),
    row("doctor", Needs::Centre, &[]),
    row("doctor agent", Needs::Role, AGENT),
    row("doctor node", Needs::Role, NODE),
    row("doctor host", Needs::Role, HOST),
    row("store backup", Needs::Nothing, &[STORE, ("out", "DIR/out")]),
    row("store restore", Needs::Nothing, &[STORE, ("from", "DIR/none")]),
    row("store mark-restored", Needs::Nothing, &[("data_dir", "DIR/token/below")]),
    row("completion", Needs::Nothing, &[("shell", "bash")]),
    row("man", Needs::Nothing, &[("out", "DIR/man")]),
    row("version", Needs::Nothing, &[]),
    row("worker", Needs::Nothing, &[]),
];

/// What an argument needs beside it to be looked at.
pub(crate) const BESIDE: &[(&str, &str, Given)] = &[
    ("apply", "prune", &[("owner", "o")]),
    ("halt set", "namespace", &[("cluster", "c1")]),
    ("clusters invite", "file", &[("out", "DIR/joins")]),
    ("clusters invite", "out", &[("file", "DIR/members.yaml")]),
    ("audit verify", "file", &[("ca", "DIR/ca.pem")]),
    ("audit verify", "part", &[("file", "DIR/none"), ("ca", "DIR/none")]),
    ("grant", "from_namespace", &[("from_cluster", "c1")]),
    ("serve control-plane", "audit_sink_ca", &[("audit_sink", "otlp:https://h:1")]),
    ("serve control-plane", "rest_cert", &[("rest_key", "DIR/rest.key")]),
    ("serve control-plane", "rest_key", &[("rest_cert", "DIR/rest.crt")]),
    ("serve control-plane", "etcd_cert", ETCD_TLS),
    ("serve control-plane", "etcd_key", ETCD_TLS),
    ("serve control-plane", "etcd_ca", ETCD),
    ("store mark-restored", "etcd_cert", ETCD_TLS),
    ("store mark-restored", "etcd_key", ETCD_TLS),
    ("store mark-restored", "etcd_ca", ETCD),
];
const ETCD: Given = &[("etcd_endpoints", "https://127.0.0.1:1")];
const ETCD_TLS: Given = &[
    ("etcd_endpoints", "https://127.0.0.1:1"),
    ("etcd_ca", "DIR/none"),
    ("etcd_cert", "DIR/none"),
    ("etcd_key", "DIR/none"),
];

/// What an argument may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Flag,
    Choice,
    /// Of something at the centre, which has the last word on it.
    Name,
    /// Of something here: checked before anything is asked for.
    Local,
    Duration,
    /// 0s means not at all.
    DurationOrNone,
    Instant,
    Count,
    Pair,
    Override,
    Address,
    HostPort,
    Url,
    Pin,
    /// A file that is read, and refused unless it is what it should be.
    File,
    /// A file that may be absent; bad content is refused.
    MaybeFile,
    /// A file of bytes that are used as they are, if there are enough.
    Secret,
    /// A file that is read; what is in it is found out later.
    Read,
    /// A file or folder that is written.
    Out,
    /// Whatever it is, it is only used later, or as a word of a query.
    Free,
}

/// By `command argument` or by `argument`; the first that fits.
pub(crate) const KINDS: &[(&str, Kind)] = &[
    ("output", Kind::Choice),
    ("request_timeout", Kind::Duration),
    ("context name", Kind::Local),
    ("context", Kind::Local),
    ("noun", Kind::Choice),
    ("role", Kind::Choice),
    ("shell", Kind::Choice),
    ("log_format", Kind::Choice),
    ("serve agent namespace", Kind::Local),
    ("doctor agent namespace", Kind::Local),
    ("login name", Kind::Local),
    ("name", Kind::Name),
    ("id", Kind::Name),
    ("run_name", Kind::Name),
    ("cluster", Kind::Name),
    ("namespace", Kind::Name),
    ("owner", Kind::Name),
    ("operator", Kind::Name),
    ("from_cluster", Kind::Name),
    ("from_namespace", Kind::Name),
    ("to_cluster", Kind::Name),
    ("to_namespace", Kind::Name),
    ("kind", Kind::Local),
    ("reason", Kind::Free),
    ("by", Kind::Free),
    ("action", Kind::Free),
    ("set", Kind::Override),
    ("label", Kind::Pair),
    ("ttl", Kind::Duration),
    ("since", Kind::Instant),
    ("not_after", Kind::Instant),
    ("max_targets", Kind::Count),
    ("max_deadline", Kind::Duration),
    ("at_most", Kind::Duration),
    ("drain_wait", Kind::DurationOrNone),
    ("audit_sink_alarm", Kind::Duration),
    ("audit_retention", Kind::Duration),
    ("store_compaction", Kind::DurationOrNone),
    ("server", Kind::Url),
    ("otlp_endpoint", Kind::Url),
    ("audit_sink", Kind::Url),
    ("pin", Kind::Pin),
    ("rest_addr", Kind::Address),
    ("link_addr", Kind::Address),
    ("enrol_addr", Kind::Address),
    ("health_addr", Kind::Address),
    ("node_link_addr", Kind::Address),
    ("link_advertise", Kind::HostPort),
    ("enrol_advertise", Kind::HostPort),
    ("peer_advertise", Kind::HostPort),
    ("link_endpoints", Kind::HostPort),
    ("link", Kind::HostPort),
    ("enrol", Kind::HostPort),
    ("wait", Kind::DurationOrNone),
    ("recovery_window", Kind::DurationOrNone),
    ("agent", Kind::HostPort),
    ("advertise", Kind::Free),
    ("trust_domain", Kind::Local),
    ("node_service", Kind::Free),
    ("pod_name", Kind::Free),
    ("node_name", Kind::Free),
    ("identity_secret", Kind::Local),
    ("node_ca_secret", Kind::Local),
    ("node_bundle_configmap", Kind::Local),
    ("lease_name", Kind::Local),
    ("halt", Kind::Local),
    ("protected_namespaces", Kind::Free),
    // Any word may be a module.
    ("log", Kind::Free),
    ("etcd_endpoints", Kind::Free),
    ("etcd_prefix", Kind::Free),
    ("file", Kind::File),
    ("ca_file", Kind::File),
    ("ca", Kind::File),
    ("kek_file", Kind::Secret),
    ("admin_token_file", Kind::Secret),
    ("rest_cert", Kind::File),
    ("rest_key", Kind::File),
    ("etcd_ca", Kind::Read),
    ("etcd_cert", Kind::Read),
    ("etcd_key", Kind::Read),
    ("audit_sink_ca", Kind::Read),
    ("otlp_ca", Kind::Read),
    ("from", Kind::File),
    ("workloads", Kind::File),
    ("login token_file", Kind::File),
    // The projected token and the bundle are looked at when the agent is dialled: they change.
    ("token_file", Kind::Free),
    ("agent_bundle", Kind::Free),
    ("join_token_file", Kind::MaybeFile),
    // A broken one allows nothing, and may be mended while the agent runs.
    ("ceiling", Kind::Free),
    ("authored_dir", Kind::Free),
    ("data_dir", Kind::Free),
    ("state_dir", Kind::Free),
    ("proc_root", Kind::Local),
    ("cgroup_root", Kind::Free),
    ("runtime_socket", Kind::Free),
    ("out", Kind::Out),
    ("arguments", Kind::Free),
];

/// The row of a command.
pub(crate) fn of(words: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.words == words)
}

/// The kind of an argument.
pub(crate) fn kind(words: &str, argument: &clap::Arg) -> Option<Kind> {
    let id = argument.get_id().as_str();
    if !argument.get_action().takes_values() {
        return Some(Kind::Flag);
    }
    let exact = format!("{words} {id}");
    let found =
        KINDS.iter().find(|(key, _)| *key == exact).or_else(|| KINDS.iter().find(|(key, _)| *key == id));
    found.map(|(_, kind)| *kind)
}

/// What is needed beside an argument.
pub(crate) fn beside(words: &str, id: &str) -> Given {
    BESIDE
        .iter()
        .find(|(row, argument, _)| *row == words && *argument == id)
        .map_or(&[], |(_, _, given)| given)
}

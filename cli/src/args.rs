//! Every argument of every command.

mod examples;
mod governing;
mod operations;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
pub(crate) use examples::with_examples;
pub(crate) use governing::{
    ClustersCommand, GrantArgs, HaltCommand, HaltSetArgs, OperatorRole, OperatorsCommand,
};
pub(crate) use operations::{ApplyArgs, DoctorArgs, InviteArgs, Place, StoreCommand};
use values::{instant, timeout, word};
pub(crate) use values::{pairs, span};

/// Multi-cluster chaos, with every fault taken away again.
#[derive(Debug, Parser)]
#[command(name = "faultline", version, propagate_version = true, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER: &str = "\
Examples:
  faultline demo                                   two clusters on this machine, no Kubernetes
  faultline login https://hub:7443 --pin sha256/... --token-file admin.token
  faultline plan -f slow-payments.yaml             what would be hit, and how it is taken away
  faultline run -f slow-payments.yaml              run it and follow it
  faultline halt set --fleet --reason \"incident\"   stop everything, everywhere

Exit codes: 0 Held, 1 error, 2 usage, 3 Broken, 4 Inconclusive or NotMeasured, 5 Denied,
6 Aborted or Halted, 7 Missed, 8 Dirty, 9 the doctor found what does not work";

/// Options of every verb that talks to a control plane.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Context to use instead of the current one
    #[arg(long, global = true, env = "FAULTLINE_CONTEXT")]
    pub(crate) context: Option<String>,
    /// Output form
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Form,
    /// How long the control plane may take to answer a request, up to 1h. Who follows a run gives up after ten times
    /// as long without an answer
    #[arg(long, global = true, env = "FAULTLINE_REQUEST_TIMEOUT", default_value = "1m", value_parser = timeout)]
    pub(crate) request_timeout: Duration,
}

/// Output form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a role: control plane, agent, node daemon or host
    #[command(subcommand)]
    Serve(Box<crate::serve::Role>),
    /// Store Experiments and Grants; runs nothing
    Apply(ApplyArgs),
    /// Check files without a control plane: every problem at once
    Validate(FileArg),
    /// Show what an Experiment would hit and how it is taken away; starts nothing
    Plan(DefinitionArgs),
    /// Run an Experiment and follow it to its end
    Run(RunArgs),
    /// List things, or show one
    Get(GetArgs),
    /// Show everything known of one run or cluster
    Describe(DescribeArgs),
    /// Follow a run live
    Watch(NameArg),
    /// Stop a run, for ever
    Stop(NameArg),
    /// Delete a definition, a grant or a run (a live run is stopped)
    Delete(DeleteArgs),
    /// Stop everything in a scope until released
    #[command(subcommand)]
    Halt(HaltCommand),
    /// Invite, accept and revoke member clusters
    #[command(subcommand)]
    Clusters(ClustersCommand),
    /// Where agents find the control plane, and moving it
    #[command(subcommand)]
    Centre(crate::verbs::centre::CentreCommand),
    /// Who may call the control plane, and as what: tokens with a role
    #[command(subcommand)]
    Operators(OperatorsCommand),
    /// Who did what, and the proof that nobody changed it since
    #[command(subcommand)]
    Audit(crate::verbs::audit::AuditCommand),
    /// Allow a principal to aim at clusters, namespaces and kinds
    Grant(GrantArgs),
    /// Remember a control plane and prove who you are
    Login(LoginArgs),
    /// List contexts, or switch
    Context(ContextArgs),
    /// Print the fault catalogue
    Faults(FaultsArgs),
    /// Print the CustomResourceDefinitions as YAML
    Crds,
    /// Two clusters on this machine, one experiment across them, live
    Demo(DemoArgs),
    /// Find out what keeps this from working, and the cure
    Doctor(Box<DoctorArgs>),
    /// Back the centre's store up, and bring it back
    #[command(subcommand)]
    Store(StoreCommand),
    /// Print a shell completion script
    Completion {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one per command
    Man {
        /// Folder to write them to; made if absent
        #[arg(long)]
        out: PathBuf,
    },
    /// Print the version
    Version,
    /// Internal: a long-lived part of the node daemon
    #[command(hide = true, trailing_var_arg = true)]
    Worker(WorkerArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Kind and its arguments.
    #[arg(allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct FileArg {
    /// YAML or JSON file, one document or many; - reads standard input
    #[arg(short, long)]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct NameArg {
    /// Run, by name or id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct DefinitionArgs {
    /// Experiment in the centre's library
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(crate) name: Option<String>,
    /// File with an Experiment; nothing is stored under its name
    #[arg(short, long)]
    pub(crate) file: Option<PathBuf>,
    /// Override of a settable path, as in faults[late].network.delay.latency=300ms
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) definition: DefinitionArgs,
    /// Name of the run; a fresh one by default. A name runs once, ever
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) run_name: Option<String>,
    /// Nothing starts after this instant (RFC 3339)
    #[arg(long, value_parser = instant)]
    pub(crate) not_after: Option<String>,
    /// Return as soon as the run is recorded
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Noun {
    #[value(alias = "run")]
    Runs,
    #[value(alias = "experiment")]
    Experiments,
    #[value(alias = "cluster")]
    Clusters,
    #[value(alias = "grant")]
    Grants,
    #[value(alias = "halt")]
    Halts,
    Audit,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// What
    pub(crate) noun: Noun,
    /// One of them, by name or id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Described {
    Run,
    Cluster,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// What
    pub(crate) noun: Described,
    /// Which, by name or id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Deletable {
    Run,
    Experiment,
    Grant,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// What
    pub(crate) noun: Deletable,
    /// Which, by name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// https://host:7443
    pub(crate) server: String,
    /// Pin of the control plane's root, as its log and chart notes print it
    #[arg(long, required_unless_present = "ca_file", conflicts_with = "ca_file")]
    pub(crate) pin: Option<String>,
    /// CA bundle that the control plane's certificate leads to
    #[arg(long)]
    pub(crate) ca_file: Option<PathBuf>,
    /// File with the token; - reads standard input
    #[arg(long, env = "FAULTLINE_TOKEN_FILE")]
    pub(crate) token_file: PathBuf,
    /// Name of the context
    #[arg(long, default_value = "default", value_parser = word)]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ContextArgs {
    /// Switch to this one
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct FaultsArgs {
    /// The same as -o json
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Print one JSON object with the measured values
    #[arg(long)]
    pub(crate) json: bool,
}

//! Arguments of what keeps an installation going: declare, invite, look, back up.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// YAML or JSON file, or a folder of *.yaml, *.yml and *.json; - reads standard input
    #[arg(short, long)]
    pub(crate) file: PathBuf,
    /// Whose declarations these are; what another owner declared is never changed
    #[arg(long, env = "FAULTLINE_OWNER")]
    pub(crate) owner: Option<String>,
    /// Delete what this owner declared before and is not in the files
    #[arg(long, requires = "owner")]
    pub(crate) prune: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// Its name
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(crate) name: Option<String>,
    /// File with many: `clusters: [{name: eu-1, labels: {env: prod}}, ...]`
    #[arg(short, long, requires = "out")]
    pub(crate) file: Option<PathBuf>,
    /// Folder for one Secret manifest per cluster of the file, readable by you only; run again, it goes on
    /// where it stopped
    #[arg(long, requires = "file")]
    pub(crate) out: Option<PathBuf>,
    /// Its labels; only the centre sets them. With a file: of each, where the file does not say otherwise
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Accept it as soon as it enrols
    #[arg(long)]
    pub(crate) auto_accept: bool,
    /// Life of the token, at most 24h
    #[arg(long, default_value = "30m", value_parser = super::span)]
    pub(crate) ttl: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Copy the embedded store of a control plane that is stopped (of etcd: etcdctl snapshot save)
    Backup {
        /// Directory of the embedded store
        #[arg(long, env = "FAULTLINE_DATA_DIR")]
        data_dir: PathBuf,
        /// File to write; one that is there is never overwritten
        #[arg(long)]
        out: PathBuf,
    },
    /// Put a copy in the place of the embedded store, and mark it as restored
    Restore {
        /// Directory of the embedded store
        #[arg(long, env = "FAULTLINE_DATA_DIR")]
        data_dir: PathBuf,
        /// File that `store backup` wrote
        #[arg(long)]
        from: PathBuf,
    },
    /// After a restore, before the control plane is started: burn every join token, halt the fleet until an operator
    /// releases it, and say what to look at
    MarkRestored(crate::serve::StoreArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Where from; without it, from here as an operator
    #[command(subcommand)]
    pub(crate) place: Option<Place>,
}

/// Where a doctor looks from. Takes the flags and the environment of the role.
#[derive(Debug, Subcommand)]
pub(crate) enum Place {
    /// Whether an agent that is started like this reaches the centre; run it in the agent's pod
    Agent(crate::serve::AgentArgs),
    /// Whether a node daemon that is started like this reaches its agent, and what the node cannot do
    Node(crate::serve::NodeArgs),
    /// Both, on a machine without Kubernetes
    Host(crate::serve::HostArgs),
}

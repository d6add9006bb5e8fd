//! Arguments of who may do what, where, and until when: halts, clusters, operators, grants.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};

use super::InviteArgs;
use super::values::span;

#[derive(Debug, Subcommand)]
pub(crate) enum HaltCommand {
    /// Set a halt: everything in its scope is reverted, nothing new starts
    Set(HaltSetArgs),
    /// Show halts and how far each cluster has come
    Status,
    /// Lift a halt by its id
    Release {
        /// Its id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("scope").required(true).multiple(true))]
pub(crate) struct HaltSetArgs {
    /// Every cluster
    #[arg(long, group = "scope", conflicts_with_all = ["cluster", "label", "namespace"])]
    pub(crate) fleet: bool,
    /// One cluster, by name or id
    #[arg(long, group = "scope", conflicts_with = "label", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) cluster: Option<String>,
    /// Clusters with these labels
    #[arg(long, group = "scope", value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Only this namespace of the cluster
    #[arg(long, requires = "cluster", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) namespace: Option<String>,
    /// Why, for everybody who meets it
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Its id; assigned by default
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) id: Option<String>,
    /// Return without waiting until every connected cluster is Clean
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClustersCommand {
    /// Make a member and a one-use token for it; prints the token. Or many members from a file
    Invite(InviteArgs),
    /// A new token for a member that was built anew; what the old one had is refused from now on
    Replace {
        /// Name or id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Accept it as soon as it enrols; otherwise it must be accepted again
        #[arg(long)]
        auto_accept: bool,
        /// Life of the token, at most 24h
        #[arg(long, default_value = "30m", value_parser = span)]
        ttl: String,
    },
    /// List members
    List,
    /// Accept an enrolled member: the second of the two opt-ins
    Accept {
        /// Name or id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Close a member's sessions and refuse its certificates
    Revoke {
        /// Name or id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Forget a member
    Remove {
        /// Name or id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorsCommand {
    /// Make an operator; prints its token, this once
    Create {
        /// Its name: what grants, runs and the audit say
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// What it may; each role includes those before
        #[arg(long, value_enum)]
        role: OperatorRole,
        /// Life of the token, as in 720h; it does not end by default
        #[arg(long, value_parser = span)]
        ttl: Option<String>,
    },
    /// List operators
    List,
    /// Make another token for an operator, and print it; the one before opens nothing any more
    Rotate {
        /// Its name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Life of the new token; it does not end by default
        #[arg(long, value_parser = span)]
        ttl: Option<String>,
    },
    /// Take an operator away; the last admin stays
    Revoke {
        /// Its name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OperatorRole {
    /// Reads and watches
    Viewer,
    /// Stores Experiments, plans, stops and halts
    Author,
    /// Starts runs, releases halts, removes finished runs
    Operator,
    /// As an operator; kept for the approval of plans, which there is not yet
    Approver,
    /// Members, grants, operators
    Admin,
}

#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    /// Name of the grant
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
    /// From this operator; "*" is every one
    #[arg(long = "from-operator", alias = "operator", value_name = "NAME")]
    pub(crate) operator: Vec<String>,
    /// From authors in this cluster
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) from_cluster: Vec<String>,
    /// And in this namespace
    #[arg(long, value_name = "NAMESPACE", requires = "from_cluster")]
    pub(crate) from_namespace: Vec<String>,
    /// At this cluster
    #[arg(long, value_name = "CLUSTER", required = true)]
    pub(crate) to_cluster: Vec<String>,
    /// At this namespace; "*" is every one
    #[arg(long, value_name = "NAMESPACE", required = true)]
    pub(crate) to_namespace: Vec<String>,
    /// With this kind: dotted, network.* or *
    #[arg(long, value_name = "KIND", required = true)]
    pub(crate) kind: Vec<String>,
    /// At most so many targets per cluster and run
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_targets: u32,
}

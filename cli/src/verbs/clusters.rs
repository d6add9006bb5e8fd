//! `faultline clusters`: members.

mod file;
mod many;
mod secret;

use anyhow::Context as _;
use proto::rest::{ClusterView, Invitation, InviteCluster, ReplaceCluster};
use serde_json::json;

use crate::args::{ClustersCommand, Form, InviteArgs, pairs};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output;

pub(crate) async fn run(client: &Client, form: Form, command: ClustersCommand) -> anyhow::Result<Exit> {
    match command {
        ClustersCommand::Invite(args) => return invite(client, form, args).await,
        ClustersCommand::Replace { name, auto_accept, ttl } => {
            let request = ReplaceCluster { auto_accept, ttl: Some(ttl) };
            let path = format!("/v1/clusters/{}/replace", segment(&name));
            let invitation: Invitation = client.post(&path, &request).await?;
            output::note("what the old one had is refused from now on, and what it was doing is stopped");
            show(form, &invitation)?;
        }
        ClustersCommand::List => {
            let clusters: Vec<ClusterView> = client.list("/v1/clusters").await?;
            let head = ["NAME", "ID", "STATE", "NODES", "DAEMONS", "PODS", "VERSION"];
            output::print(form, &clusters, &head, || clusters.iter().map(super::get::cluster_row).collect())?;
        }
        ClustersCommand::Accept { name } => change(client, form, &name, "accept", "accepted").await?,
        ClustersCommand::Revoke { name } => change(client, form, &name, "revoke", "revoked").await?,
        ClustersCommand::Remove { name } => {
            client.delete(&format!("/v1/clusters/{}", segment(&name))).await?;
            output::done(form, "cluster", &name, "removed")?;
        }
    }
    Ok(Exit::Ok)
}

async fn invite(client: &Client, form: Form, args: InviteArgs) -> anyhow::Result<Exit> {
    let labels = pairs(&args.label)?;
    if let (Some(file), Some(out)) = (&args.file, &args.out) {
        let members = file::read(file, &labels)?;
        let each = many::Each { auto_accept: args.auto_accept, ttl: args.ttl };
        return many::invite(client, form, members, each, out).await;
    }
    // clap requires a name where there is no file.
    let name = args.name.unwrap_or_default();
    let request = InviteCluster { name, labels, auto_accept: args.auto_accept, ttl: Some(args.ttl) };
    let invitation: Invitation = client.post("/v1/clusters", &request).await?;
    show(form, &invitation)?;
    Ok(Exit::Ok)
}

fn show(form: Form, invitation: &Invitation) -> anyhow::Result<()> {
    invitation.token.parse::<certs::JoinToken>().context("the control plane gave no join token")?;
    output::note(&output::line(&format!(
        "token for {} ({}), good for one use until {}; shown only now",
        invitation.name, invitation.cluster, invitation.expires_at
    )));
    if form == Form::Table {
        return output::data(&invitation.token);
    }
    output::print(form, invitation, &[], Vec::new)
}

async fn change(client: &Client, form: Form, name: &str, verb: &str, done: &str) -> anyhow::Result<()> {
    let view: ClusterView =
        client.post(&format!("/v1/clusters/{}/{verb}", segment(name)), &json!({})).await?;
    output::done(form, "cluster", &view.spec.name, done)
}

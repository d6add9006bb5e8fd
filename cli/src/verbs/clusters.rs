//! `faultline clusters`: members.

use proto::rest::{ClusterView, Invitation, InviteCluster};
use serde_json::json;

use crate::args::{ClustersCommand, Form, pairs};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output;

pub(crate) async fn run(client: &Client, form: Form, command: ClustersCommand) -> anyhow::Result<Exit> {
    match command {
        ClustersCommand::Invite { name, label, auto_accept, ttl } => {
            let request = InviteCluster { name, labels: pairs(&label)?, auto_accept, ttl: Some(ttl) };
            let invitation: Invitation = client.post("/v1/clusters", &request).await?;
            output::note(&format!(
                "token for {} ({}), good for one use until {}; shown only now",
                invitation.name, invitation.cluster, invitation.expires_at
            ));
            if form == Form::Table {
                output::data(&invitation.token)?;
            } else {
                output::print(form, &invitation, &[], Vec::new)?;
            }
        }
        ClustersCommand::List => {
            let clusters: Vec<ClusterView> = client.list("/v1/clusters").await?;
            let head = ["NAME", "ID", "STATE", "NODES", "DAEMONS", "PODS", "VERSION"];
            output::print(form, &clusters, &head, || clusters.iter().map(super::get::cluster_row).collect())?;
        }
        ClustersCommand::Accept { name } => change(client, &name, "accept", "accepted").await?,
        ClustersCommand::Revoke { name } => change(client, &name, "revoke", "revoked").await?,
        ClustersCommand::Remove { name } => {
            client.delete(&format!("/v1/clusters/{}", segment(&name))).await?;
            output::data(&format!("cluster/{name} removed"))?;
        }
    }
    Ok(Exit::Ok)
}

async fn change(client: &Client, name: &str, verb: &str, done: &str) -> anyhow::Result<()> {
    let view: ClusterView =
        client.post(&format!("/v1/clusters/{}/{verb}", segment(name)), &json!({})).await?;
    output::data(&format!("cluster/{} {done}", view.spec.name))
}

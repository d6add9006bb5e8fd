//! `faultline apply`: stores Experiments and Grants. It runs nothing.

use proto::rest::{ExperimentView, GrantView};
use proto::validate::Manifest;
use serde_json::json;

use crate::args::FileArg;
use crate::client::{Client, segment};
use crate::exit::{Exit, Misuse};
use crate::output;

/// What is to be stored; a Run is no such thing.
pub(crate) fn read(args: &FileArg) -> anyhow::Result<Vec<Manifest>> {
    let manifests = super::validate::read(&args.file)?;
    if let Some(run) = manifests.iter().find(|m| m.kind == "Run") {
        let why =
            format!("Run {} would run something, and apply never does: use `faultline run -f`", run.name);
        return Err(Misuse(why).into());
    }
    Ok(manifests)
}

pub(crate) async fn run(manifests: Vec<Manifest>, client: &Client) -> anyhow::Result<Exit> {
    for manifest in manifests {
        let name = &manifest.name;
        let body = json!({ "spec": manifest.spec });
        if manifest.kind == "Grant" {
            let _: GrantView = client.put(&format!("/v1/grants/{}", segment(name)), &body).await?;
        } else {
            let _: ExperimentView = client.put(&format!("/v1/experiments/{}", segment(name)), &body).await?;
        }
        output::data(&format!("{}/{name} stored", manifest.kind.to_lowercase()))?;
    }
    Ok(Exit::Ok)
}

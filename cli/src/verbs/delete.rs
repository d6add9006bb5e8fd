//! `faultline stop` and `faultline delete`.

use proto::rest::{RunView, Taken};
use serde_json::json;

use crate::args::{Deletable, DeleteArgs};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output;

/// Stops a run, for ever.
pub(crate) async fn stop(client: &Client, name: &str) -> anyhow::Result<Exit> {
    let taken: Taken<RunView> = client.post(&format!("/v1/runs/{}/stop", segment(name)), &json!({})).await?;
    super::halt::not_persisted(&taken);
    let view = taken.view;
    output::data(&format!(
        "run {} is stopping; follow it with `faultline watch {}`",
        view.record.name, view.summary.id
    ))?;
    Ok(Exit::Ok)
}

/// Deletes something; a live run is stopped by it.
pub(crate) async fn run(client: &Client, args: &DeleteArgs) -> anyhow::Result<Exit> {
    let (path, noun) = match args.noun {
        Deletable::Run => ("runs", "run"),
        Deletable::Experiment => ("experiments", "experiment"),
        Deletable::Grant => ("grants", "grant"),
    };
    client.delete(&format!("/v1/{path}/{}", segment(&args.name))).await?;
    output::data(&format!("{noun}/{} deleted", args.name))?;
    Ok(Exit::Ok)
}

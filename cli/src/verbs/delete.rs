//! `faultline stop` and `faultline delete`.

use proto::rest::{RunView, Taken};
use proto::status::RunPhase;
use serde_json::json;

use crate::args::{Deletable, DeleteArgs, Form};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output;

/// Stops a run, for ever.
pub(crate) async fn stop(client: &Client, form: Form, name: &str) -> anyhow::Result<Exit> {
    let taken: Taken<RunView> = client.post(&format!("/v1/runs/{}/stop", segment(name)), &json!({})).await?;
    super::halt::not_persisted(&taken);
    let view = taken.view;
    if form != Form::Table {
        super::describe::print_run(form, &view)?;
        return Ok(Exit::Ok);
    }
    let (name, id) = (output::line(&view.record.name), &view.summary.id);
    output::data(&match view.summary.phase {
        RunPhase::Finished => format!("run {name} is finished: there was nothing to stop"),
        _ => format!("run {name} is told to stop; follow it with `faultline watch {id}`"),
    })?;
    Ok(Exit::Ok)
}

/// Deletes something; a live run is stopped by it.
pub(crate) async fn run(client: &Client, form: Form, args: &DeleteArgs) -> anyhow::Result<Exit> {
    let (path, noun) = match args.noun {
        Deletable::Run => return delete_run(client, form, &args.name).await,
        Deletable::Experiment => ("experiments", "experiment"),
        Deletable::Grant => ("grants", "grant"),
    };
    client.delete(&format!("/v1/{path}/{}", segment(&args.name))).await?;
    output::done(form, noun, &args.name, "deleted")?;
    Ok(Exit::Ok)
}

/// A live run is stopped by it, and only a finished one is gone.
async fn delete_run(client: &Client, form: Form, name: &str) -> anyhow::Result<Exit> {
    let view: RunView = client.get(&format!("/v1/runs/{}", segment(name))).await?;
    client.delete(&format!("/v1/runs/{}", segment(view.summary.id.as_str()))).await?;
    if view.summary.phase == RunPhase::Finished {
        output::done(form, "run", name, "deleted")?;
    } else {
        output::done(form, "run", name, "told to stop")?;
        output::note("it was not finished: delete it again once it is");
    }
    Ok(Exit::Ok)
}

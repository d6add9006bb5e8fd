//! `faultline run`: asks for a run and follows it to its end.

use anyhow::Context as _;
use proto::rest::{CreateRun, RunView};
use proto::run::{ExperimentRef, ExperimentScope, RunSpec, SetPath};
use serde_json::Value;

use crate::args::{DefinitionArgs, Form, RunArgs};
use crate::client::Client;
use crate::exit::{Exit, Misuse};
use crate::output;

/// What is asked for.
pub(crate) fn request(args: RunArgs) -> anyhow::Result<CreateRun> {
    let mut request = definition(&args.definition, false)?;
    if let Some(name) = args.run_name {
        request.name = name;
    }
    if args.not_after.is_some() {
        request.spec.not_after = args.not_after;
    }
    Ok(request)
}

pub(crate) async fn run(
    request: CreateRun,
    client: &Client,
    form: Form,
    no_wait: bool,
) -> anyhow::Result<Exit> {
    let view: RunView = client.post("/v1/runs", &request).await?;
    output::note(&output::line(&format!("run {} ({})", view.record.name, view.record.id)));
    if no_wait && form != Form::Table {
        super::describe::print_run(form, &view)?;
        return Ok(Exit::Ok);
    }
    if no_wait {
        output::data(view.record.id.as_str())?;
        return Ok(Exit::Ok);
    }
    super::watch::follow(client, form, view.record.id.as_str()).await
}

/// The request of a definition: an Experiment of the library, or a file with
/// one Experiment (used inline) and possibly one Run. A plan never takes the
/// Run's name: a name is used once, and the run itself needs it.
pub(crate) fn definition(args: &DefinitionArgs, plan_only: bool) -> anyhow::Result<CreateRun> {
    let mut set = args.set.iter().map(|s| set_path(s)).collect::<anyhow::Result<Vec<_>>>()?;
    let Some(file) = &args.file else {
        let name = args.name.clone().context("name an experiment or give a file")?;
        let spec = spec(&name, set);
        return Ok(CreateRun { name: fresh(&name), spec, experiment: None, plan_only });
    };
    let manifests = super::validate::read(file)?;
    let of = |kind: &str| manifests.iter().filter(|m| m.kind == kind).collect::<Vec<_>>();
    let (experiments, runs) = (of("Experiment"), of("Run"));
    let (experiment, run) = match (experiments.as_slice(), runs.as_slice()) {
        ([experiment], []) => (experiment, None),
        ([experiment], [run]) => (experiment, Some(run)),
        (e, r) => {
            let why = format!(
                "{}: one Experiment and at most one Run, found {} and {}",
                file.display(),
                e.len(),
                r.len()
            );
            return Err(Misuse(why).into());
        }
    };
    let (name, mut spec) = match run {
        None => (fresh(&experiment.name), spec(&experiment.name, Vec::new())),
        Some(run) => {
            let mut spec: RunSpec = serde_json::from_value(run.spec.clone())?;
            spec.experiment_ref.scope = Some(ExperimentScope::Central);
            let name = if plan_only { fresh(&run.name) } else { run.name.clone() };
            (name, spec)
        }
    };
    spec.set.append(&mut set);
    proto::validate::with_overrides(&experiment.spec, &spec.set)?;
    let inline: Value = experiment.spec.clone();
    Ok(CreateRun { name, spec, experiment: Some(inline), plan_only })
}

fn spec(experiment: &str, set: Vec<SetPath>) -> RunSpec {
    let experiment_ref = ExperimentRef { name: experiment.to_owned(), scope: Some(ExperimentScope::Central) };
    RunSpec { experiment_ref, not_after: None, set, ttl_after_finished: None }
}

/// A name that was not used before: a run's name is used once, ever.
fn fresh(base: &str) -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    let base: String = base.chars().take(200).collect();
    format!("{}-{}", base.trim_end_matches(['-', '.']), to_base36(now.unsigned_abs()))
}

fn to_base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    while number > 0 {
        digits.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
    }
    digits.iter().rev().collect()
}

/// PATH=VALUE, where a whole number, true and false are what they look like.
fn set_path(text: &str) -> anyhow::Result<SetPath> {
    let pair = text.split_once('=').filter(|(path, _)| !path.is_empty());
    let (path, value) = pair.ok_or_else(|| Misuse(format!("--set {text:?} is not PATH=VALUE")))?;
    let value = match serde_json::from_str(value) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => Value::from(value),
    };
    Ok(SetPath { path: path.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_keep_their_type() {
        for (text, value) in
            [("a=1", Value::from(1)), ("a=300ms", Value::from("300ms")), ("a=true", Value::from(true))]
        {
            assert_eq!(set_path(text).expect("a pair").value, value, "{text}");
        }
        assert!(set_path("a").is_err());
    }

    #[test]
    fn fresh_names_are_names() {
        assert!(fresh("slow-payments").parse::<proto::ids::Name>().is_ok());
        assert!(fresh(&"a".repeat(253)).parse::<proto::ids::Name>().is_ok());
    }
}

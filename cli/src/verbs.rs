//! Operator verbs, one file each.

mod apply;
pub(crate) mod audit;
pub(crate) mod centre;
mod clusters;
mod context;
mod delete;
mod describe;
mod doctor;
mod faults;
mod get;
mod grant;
mod halt;
mod login;
mod man;
mod operators;
mod plan;
mod run;
mod store;
mod validate;
mod watch;

use anyhow::Context as _;

use crate::args::{Command, Form, Global};
use crate::client::Client;
use crate::exit::Exit;
use crate::output;

/// Runs a verb to its end.
pub(crate) fn main(verb: Command, global: Global) -> anyhow::Result<Exit> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(dispatch(verb, global))
}

async fn dispatch(verb: Command, global: Global) -> anyhow::Result<Exit> {
    let form = global.output;
    let client = || Client::of(&global);
    match verb {
        Command::Apply(args) => apply::run(apply::read(&args)?, &args, &client()?, form).await,
        Command::Validate(args) => validate::run(&args, form),
        Command::Plan(args) => plan::run(plan::request(&args)?, &client()?, form).await,
        Command::Run(args) => {
            let no_wait = args.no_wait;
            run::run(run::request(args)?, &client()?, form, no_wait).await
        }
        Command::Get(args) => get::run(&client()?, form, &args).await,
        Command::Describe(args) => describe::run(&client()?, form, &args).await,
        Command::Watch(args) => watch::run(&client()?, form, &args.name).await,
        Command::Stop(args) => delete::stop(&client()?, form, &args.name).await,
        Command::Delete(args) => delete::run(&client()?, form, &args).await,
        Command::Halt(args) => halt::run(&client()?, form, args).await,
        Command::Clusters(args) => clusters::run(&client()?, form, args).await,
        Command::Centre(command) => centre::run(command, client, form).await,
        Command::Operators(args) => operators::run(&client()?, form, args).await,
        Command::Audit(command) => audit::run(command, client, form).await,
        Command::Grant(args) => grant::run(grant::request(args)?, &client()?, form).await,
        Command::Login(args) => login::run(args, global.request_timeout).await,
        Command::Context(args) => context::run(form, args.name),
        Command::Faults(args) => faults::run(if args.json { crate::args::Form::Json } else { form }),
        Command::Crds => output::data(&proto::crd::yaml()?).map(|()| Exit::Ok),
        Command::Doctor(args) => doctor::run(*args, &global, form).await,
        Command::Store(command) => store::run(command, form).await,
        Command::Man { out } => man::run(&out),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut crate::command(), "faultline", &mut script);
            output::data(&String::from_utf8(script)?).map(|()| Exit::Ok)
        }
        Command::Version if form == Form::Table => {
            output::data(concat!("faultline ", env!("CARGO_PKG_VERSION"))).map(|()| Exit::Ok)
        }
        Command::Version => {
            let version = serde_json::json!({ "version": env!("CARGO_PKG_VERSION") });
            output::print(form, &version, &[], Vec::new).map(|()| Exit::Ok)
        }
        Command::Serve(_) | Command::Worker(_) | Command::Demo(_) => anyhow::bail!("not a verb"),
    }
}

//! Operator verbs, one file each.

mod apply;
pub(crate) mod audit;
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
use clap::CommandFactory;

use crate::args::{Cli, Command, Global};
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
    let client = || Client::of(global.context.as_deref());
    match verb {
        Command::Apply(args) => apply::run(apply::read(&args)?, &args, &client()?, form).await,
        Command::Validate(args) => validate::run(&args),
        Command::Plan(args) => plan::run(plan::request(&args)?, &client()?, form).await,
        Command::Run(args) => {
            let no_wait = args.no_wait;
            run::run(run::request(args)?, &client()?, form, no_wait).await
        }
        Command::Get(args) => get::run(&client()?, form, &args).await,
        Command::Describe(args) => describe::run(&client()?, form, &args).await,
        Command::Watch(args) => watch::run(&client()?, form, &args.name).await,
        Command::Stop(args) => delete::stop(&client()?, &args.name).await,
        Command::Delete(args) => delete::run(&client()?, &args).await,
        Command::Halt(args) => halt::run(&client()?, form, args).await,
        Command::Clusters(args) => clusters::run(&client()?, form, args).await,
        Command::Operators(args) => operators::run(&client()?, form, args).await,
        Command::Audit(command) => audit::run(command, client, form).await,
        Command::Grant(args) => grant::run(grant::request(args)?, &client()?).await,
        Command::Login(args) => login::run(args).await,
        Command::Context(args) => context::run(form, args.name),
        Command::Faults(args) => faults::run(if args.json { crate::args::Form::Json } else { form }),
        Command::Crds => output::data(&proto::crd::yaml()?).map(|()| Exit::Ok),
        Command::Doctor(args) => doctor::run(*args, global.context.as_deref(), form).await,
        Command::Store(command) => store::run(command, form).await,
        Command::Man { out } => man::run(&out),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "faultline", &mut script);
            output::data(&String::from_utf8(script)?).map(|()| Exit::Ok)
        }
        Command::Version => output::data(concat!("faultline ", env!("CARGO_PKG_VERSION"))).map(|()| Exit::Ok),
        Command::Serve(_) | Command::Worker(_) | Command::Demo(_) => anyhow::bail!("not a verb"),
    }
}

//! `faultline login`: remembers a control plane after proving that it answers
//! and knows the token.

use std::time::Duration;

use anyhow::Context as _;
use proto::rest::WhoAmI;

use crate::args::LoginArgs;
use crate::client::{self, Client};
use crate::context::{self, Context};
use crate::exit::{Exit, Misuse};
use crate::output;

pub(crate) async fn run(args: LoginArgs, within: Duration) -> anyhow::Result<Exit> {
    let context = context_of(&args)?;
    // A file of contexts that cannot be used is told before anybody is asked.
    let mut contexts = context::load()?;
    let who: WhoAmI = Client::new(&context)?.within(within).get("/v1/whoami").await?;
    contexts.contexts.insert(args.name.clone(), context);
    contexts.current.clone_from(&args.name);
    context::save(&contexts)?;
    let said = format!("logged in as {} ({}), context {}", who.name, who.role, args.name);
    output::note(&output::line(&said));
    Ok(Exit::Ok)
}

/// What would be remembered, each part named by its flag where it cannot be used.
fn context_of(args: &LoginArgs) -> anyhow::Result<Context> {
    let misuse = |flag: &str, why: String| Misuse(format!("{flag}: {why}"));
    client::authority(&args.server).map_err(|error| misuse("<SERVER>", error.to_string()))?;
    if let Some(pin) = &args.pin {
        pin.parse::<certs::Pin>().map_err(|error| misuse("--pin", error.to_string()))?;
    }
    let ca_pem = match &args.ca_file {
        Some(file) => {
            let pem = super::validate::text(file).context("--ca-file")?;
            certs::TrustBundle::from_pem(&pem)
                .with_context(|| format!("--ca-file: {} is no bundle of authorities", file.display()))?;
            Some(pem)
        }
        None => None,
    };
    let token = super::validate::text(&args.token_file).context("--token-file")?.trim().to_owned();
    anyhow::ensure!(
        client::authorization(&token).is_some(),
        "--token-file: {} holds no token: one word of visible characters",
        args.token_file.display()
    );
    Ok(Context { server: args.server.clone(), pin: args.pin.clone(), ca_pem, token })
}

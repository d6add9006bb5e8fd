//! `faultline login`: remembers a control plane after proving that it answers
//! and knows the token.

use anyhow::Context as _;
use proto::rest::WhoAmI;

use crate::args::LoginArgs;
use crate::client::Client;
use crate::context::{self, Context};
use crate::exit::Exit;
use crate::output;

pub(crate) async fn run(args: LoginArgs) -> anyhow::Result<Exit> {
    let token = super::validate::text(&args.token_file).context("read the token")?;
    let ca_pem = match &args.ca_file {
        Some(file) => {
            Some(std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?)
        }
        None => None,
    };
    let context = Context { server: args.server, pin: args.pin, ca_pem, token: token.trim().to_owned() };
    let who: WhoAmI = Client::new(&context)?.get("/v1/whoami").await?;
    let mut contexts = context::load()?;
    contexts.contexts.insert(args.name.clone(), context);
    contexts.current.clone_from(&args.name);
    context::save(&contexts)?;
    output::note(&format!("logged in as {} ({}), context {}", who.name, who.role, args.name));
    Ok(Exit::Ok)
}

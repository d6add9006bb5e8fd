//! `faultline context`: lists contexts, or switches. Tokens are never shown.

use crate::args::Form;
use crate::context;
use crate::exit::Exit;
use crate::output;

pub(crate) fn run(form: Form, name: Option<String>) -> anyhow::Result<Exit> {
    let mut contexts = context::load()?;
    if let Some(name) = name {
        let known: Vec<_> = contexts.contexts.keys().cloned().collect();
        anyhow::ensure!(
            !known.is_empty(),
            "no context {name:?}: not logged in anywhere, see `faultline login --help`"
        );
        anyhow::ensure!(known.contains(&name), "no context {name:?}; known: {}", known.join(", "));
        contexts.current = name;
        context::save(&contexts)?;
    }
    let shown: Vec<_> = contexts
        .contexts
        .iter()
        .map(|(name, c)| serde_json::json!({ "name": name, "server": c.server, "current": *name == contexts.current }))
        .collect();
    output::print(form, &shown, &["CURRENT", "NAME", "SERVER"], || {
        let row = |(name, c): (&String, &context::Context)| {
            let mark = if *name == contexts.current { "*" } else { "" };
            vec![mark.to_owned(), name.clone(), c.server.clone()]
        };
        contexts.contexts.iter().map(row).collect()
    })?;
    Ok(Exit::Ok)
}

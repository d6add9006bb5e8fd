//! The tree of commands by itself: every command has a row here and an example in its help, and a word that is nearly
//! right is told what was meant.

use crate::fake::{Fake, Says};
use crate::rows::{ROWS, kind, of};
use crate::world::{World, all, none, os};

/// A command that does something, and its words.
pub(crate) struct Leaf {
    pub(crate) words: String,
    pub(crate) command: clap::Command,
}

/// Every command that does something, hidden ones too.
pub(crate) fn leaves() -> Vec<Leaf> {
    fn below(command: &clap::Command, parent: &str, found: &mut Vec<Leaf>) {
        let words = format!("{parent} {}", command.get_name()).trim().to_owned();
        if !command.is_subcommand_required_set() {
            found.push(Leaf { words: words.clone(), command: command.clone() });
        }
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            below(child, &words, found);
        }
    }
    let mut root = cli::command();
    root.build();
    let mut found = Vec::new();
    for child in root.get_subcommands().filter(|child| child.get_name() != "help") {
        below(child, "", &mut found);
    }
    found
}

impl Leaf {
    /// Its arguments, without those that clap makes.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = &clap::Arg> {
        self.command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
    }
}

#[test]
fn every_command_and_argument_has_its_row() {
    let leaves = leaves();
    let mut missing = Vec::new();
    for leaf in &leaves {
        let Some(row) = of(&leaf.words) else {
            missing.push(format!("no row in rows.rs for `{}`", leaf.words));
            continue;
        };
        for argument in leaf.arguments().filter(|argument| kind(&leaf.words, argument).is_none()) {
            missing.push(format!("no kind in rows.rs for `{} {}`", leaf.words, argument.get_id()));
        }
        let known = |id: &str| leaf.arguments().any(|argument| argument.get_id() == id);
        missing.extend(
            row.good.iter().filter(|(id, _)| !known(id)).map(|(id, _)| format!("{} has no {id}", row.words)),
        );
    }
    let gone = ROWS.iter().filter(|row| !leaves.iter().any(|leaf| leaf.words == row.words));
    missing.extend(gone.map(|row| format!("there is no `{}` any more", row.words)));
    none(&missing);
}

#[test]
fn every_command_has_an_example_that_can_be_parsed() {
    let mut flaws = Vec::new();
    for leaf in leaves().iter().filter(|leaf| !leaf.words.starts_with("worker")) {
        let help = leaf.command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<&str> =
            help.lines().filter_map(|line| line.trim_start().strip_prefix("faultline ")).collect();
        if examples.is_empty() {
            flaws.push(format!("`{}` has no example in cli/src/args/examples.rs", leaf.words));
        }
        for example in examples {
            if example != leaf.words && !example.starts_with(&format!("{} ", leaf.words)) {
                flaws.push(format!("`{}` shows another command: {example}", leaf.words));
            }
            let words = std::iter::once("faultline").chain(example.split_whitespace());
            if let Err(error) = cli::command().try_get_matches_from(words) {
                flaws.push(format!("{example}: {error}"));
            }
        }
    }
    none(&flaws);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_is_nearly_right_is_told_what_was_meant() {
    let world = std::sync::Arc::new(World::new(&Fake::start(|_| Says::not_found()).await));
    let mut cases = Vec::new();
    for leaf in leaves().into_iter().filter(|leaf| leaf.words != "worker") {
        let words: Vec<String> = leaf.words.split(' ').map(str::to_owned).collect();
        // The word without its last letter.
        let mut cut = words.clone();
        let last = cut.last_mut().expect("a word");
        last.pop();
        cases.push((cut, String::new()));
        for long in leaf.arguments().filter_map(clap::Arg::get_long) {
            cases.push(([words.clone(), vec![format!("--{long}z=1")]].concat(), format!("--{long}")));
        }
    }
    let found = all(cases.into_iter().map(|(args, meant)| {
        let world = world.clone();
        async move {
            let args: Vec<_> = args.iter().map(|arg| os(arg)).collect();
            let ran = world.run(&args, &[]).await;
            let mut flaws = ran.flaws();
            if ran.code != 2 || !ran.err.contains(&meant) || !ran.err.contains("similar") {
                flaws.push(format!("{}: names nothing similar to {meant}: {}", ran.line, ran.err));
            }
            flaws
        }
    }))
    .await;
    none(&found);
}

#[tokio::test(flavor = "multi_thread")]
async fn colour_is_never_where_nobody_wants_it() {
    let world = World::new(&Fake::start(|_| Says::not_found()).await);
    for args in [["--help"].as_slice(), &["run", "--help"], &["aply"], &["faults"], &["get", "runs"]] {
        for env in [&[][..], &[("NO_COLOR", "1".as_ref()), ("CLICOLOR_FORCE", "1".as_ref())]] {
            let ran = world.run(args, env).await;
            assert!(!format!("{}{}", ran.out, ran.err).contains('\u{1b}'), "{args:?}");
        }
    }
}

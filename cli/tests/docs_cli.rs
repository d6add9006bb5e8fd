//! `docs/cli.md` is what `--help` says. Run with UPDATE=1 to write it anew.

use std::fmt::Write;
use std::path::PathBuf;

const HEAD: &str = "\
# The command line

Generated from `faultline --help` by `make generate`; do not edit. Data goes to stdout, everything else to stderr.
`--context`, `-o` and `--request-timeout` are options of every command and listed once, here at the top.

";

#[test]
fn the_page_of_the_command_line_is_current() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let text = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).expect("docs/ is there");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} has drifted: run `make generate`", path.display());
}

#[test]
fn every_command_and_argument_says_what_it_is() {
    let mut root = cli::command();
    root.build();
    let mut silent = Vec::new();
    each(&mut root, "", &mut |path, command| {
        if command.get_about().is_none() {
            silent.push(path.to_owned());
        }
        let args = command.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_help().is_none());
        silent.extend(args.map(|arg| format!("{path} {}", arg.get_id())));
    });
    assert!(silent.is_empty(), "{silent:?}");
}

fn page() -> String {
    let mut root = cli::command().term_width(110).mut_args(|arg| arg.hide_env_values(true));
    root.build();
    let mut out = HEAD.to_owned();
    each(&mut root, "", &mut |path, command| {
        let is_root = !path.contains(' ');
        let depth = if is_root { "##" } else { "###" };
        *command = command.clone().mut_args(|arg| {
            let is_global =
                ["context", "output", "request_timeout", "help", "version"].contains(&arg.get_id().as_str());
            let arg = arg.hide_env_values(true);
            if is_global && !is_root { arg.hide(true) } else { arg }
        });
        let help = command.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        writeln!(out, "{depth} {path}\n\n```\n{}\n```\n", lines.join("\n").trim()).expect("a string");
    });
    out.trim_end().to_owned() + "\n"
}

/// Every command that is not hidden, parents first.
fn each(command: &mut clap::Command, parent: &str, see: &mut impl FnMut(&str, &mut clap::Command)) {
    let path = format!("{parent} {}", command.get_name()).trim().to_owned();
    see(&path, command);
    for child in command.get_subcommands_mut().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        each(child, &path, see);
    }
}

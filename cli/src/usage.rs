//! What is said of a command line that clap could not read, or of `--help`. Called once, by `main`.

use clap::error::{ContextKind, ErrorKind};

use crate::exit::Exit;
use crate::output;

/// Help on stdout; a mistake on stderr, without what could steer the terminal.
pub(crate) fn say(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // Nothing is left to tell anyone when stdout is gone.
        drop(error.print());
        return Exit::Ok;
    }
    output::complaint(error.render().to_string().trim_end());
    // clap does not say which one.
    if error.kind() == ErrorKind::InvalidUtf8 && error.get(ContextKind::InvalidArg).is_none() {
        for (at, word) in std::env::args_os().enumerate().filter(|(_, word)| word.to_str().is_none()) {
            output::note(&format!("  argument {at} is not UTF-8: {}", word.to_string_lossy()));
        }
        for (name, _) in std::env::vars_os().filter(|(_, value)| value.to_str().is_none()) {
            output::note(&format!("  the variable {} is not UTF-8", name.to_string_lossy()));
        }
    }
    Exit::Usage
}

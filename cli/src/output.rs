//! What is printed: data on stdout, the rest on stderr. A closed pipe is no
//! error.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::args::Form;

/// A line of data.
pub(crate) fn data(text: &str) -> anyhow::Result<()> {
    write(&mut io::stdout().lock(), text)
}

/// A line for people.
pub(crate) fn note(text: &str) {
    // A closed stderr leaves nobody to tell.
    drop(write(&mut io::stderr().lock(), text));
}

/// An error, with its causes in one sentence.
pub(crate) fn error(error: &anyhow::Error) {
    note(&format!("error: {error:#}"));
}

fn write(to: &mut impl Write, text: &str) -> anyhow::Result<()> {
    match writeln!(to, "{}", text.trim_end_matches('\n')) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Prints a value in the asked form, as a table by `rows`.
pub(crate) fn print<T: Serialize>(
    form: Form,
    value: &T,
    head: &[&str],
    rows: impl FnOnce() -> Vec<Vec<String>>,
) -> anyhow::Result<()> {
    match form {
        Form::Json => data(&serde_json::to_string_pretty(value)?),
        Form::Yaml => data(&serde_saphyr::to_string(value)?),
        Form::Table => {
            let rows = rows();
            if rows.is_empty() {
                note("nothing there");
                return Ok(());
            }
            data(&table(head, rows))
        }
    }
}

/// Columns, as kubectl prints them.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A word of a unit enum as its JSON form.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(serde_json::Value::Null) | Err(_) => "-".to_owned(),
        Ok(other) => other.to_string(),
    }
}

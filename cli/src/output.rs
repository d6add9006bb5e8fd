//! What is printed: data on stdout, the rest on stderr. A closed pipe is no
//! error. Names and messages come from control planes and clusters: none of
//! them steers the terminal that shows it.

use std::borrow::Cow;
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
    complaint(&format!("error: {error:#}"));
}

/// A line of a complaint is at most this long, and it has at most so many; in characters.
const MAX_LINE: usize = 1000;
const MAX_LINES: usize = 200;

/// What is wrong, without repeating a value at any length.
pub(crate) fn complaint(text: &str) {
    let clipped = |line: &str| match line.char_indices().nth(MAX_LINE) {
        Some((end, _)) => format!("{}... ({} characters)", &line[..end], line.chars().count()),
        None => line.to_owned(),
    };
    let mut lines: Vec<String> = text.lines().take(MAX_LINES).map(clipped).collect();
    let more = text.lines().count().saturating_sub(MAX_LINES);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    note(&lines.join("\n"));
}

/// Whether a terminal does something else with it than to show it: control characters, and what turns the direction
/// of the text around.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Everything that steers a terminal as an escape, which in JSON is the same text; line breaks and tabs stay.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, |c| steers(c) && c != '\n' && c != '\t')
}

/// The same on one line.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escaped(text, steers)
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    use std::fmt::Write as _;
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_escaped(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // Writing to a String cannot fail.
            c => drop(write!(out, "\\u{:04x}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

fn write(to: &mut impl Write, text: &str) -> anyhow::Result<()> {
    match writeln!(to, "{}", plain(text.trim_end_matches('\n'))) {
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

/// That something was done, in the asked form.
pub(crate) fn done(form: Form, noun: &str, name: &str, what: &str) -> anyhow::Result<()> {
    if form == Form::Table {
        return data(&line(&format!("{noun}/{name} {what}")));
    }
    print(form, &serde_json::json!({ "kind": noun, "name": name, "done": what }), &[], Vec::new)
}

/// Columns, as kubectl prints them.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let rows = rows.into_iter().map(|row| row.into_iter().map(|cell| line(&cell).into_owned()));
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

#[cfg(test)]
mod tests {
    use super::{line, plain, table};

    #[test]
    fn nothing_steers_the_terminal_and_json_stays_the_same_text() {
        let hostile = "a\u{1b}[31m\u{9b}2J\r\u{7}\u{7f}\u{202e}b\tc\nd";
        assert_eq!(plain(hostile), "a\\u001b[31m\\u009b2J\\u000d\\u0007\\u007f\\u202eb\tc\nd");
        assert_eq!(line("a\tb\nc"), "a\\tb\\nc");
        let json = serde_json::to_string(hostile).expect("JSON");
        let back: String = serde_json::from_str(&plain(&json)).expect("JSON");
        assert_eq!(back, hostile);
        assert!(matches!(plain("as it is: ä €"), std::borrow::Cow::Borrowed(_)));
    }

    #[test]
    fn a_cell_makes_no_row() {
        let text = table(&["NAME", "STATE"], vec![vec!["a\nb  Connected".into(), "Unknown".into()]]);
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}

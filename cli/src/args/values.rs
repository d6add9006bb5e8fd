//! Values that more than their type says are checked where they are read.

use std::time::Duration;

use proto::quantity::Span;

/// A bound of waiting: more than nothing, at most an hour.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let ms = Span::written(text).ms().map_err(|error| error.to_string())?;
    if (1..=3_600_000).contains(&ms) {
        return Ok(Duration::from_millis(ms));
    }
    Err("must be more than 0s and at most 1h".to_owned())
}

/// A duration of more than nothing, as written: the centre has the last word on it.
pub(crate) fn span(text: &str) -> Result<String, String> {
    match Span::written(text).ms() {
        Ok(0) => Err("must be more than 0s".to_owned()),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A name that is only used here.
pub(super) fn word(text: &str) -> Result<String, String> {
    let is_word = (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if is_word {
        Ok(text.to_owned())
    } else {
        Err("use 1 to 100 visible characters without a space".to_owned())
    }
}

/// An instant, as written.
pub(super) fn instant(text: &str) -> Result<String, String> {
    let at = text.parse::<jiff::Timestamp>();
    at.map(|_| text.to_owned()).map_err(|_| "write it as in 2026-12-01T10:00:00Z".to_owned())
}

/// Splits the KEY=VALUE pairs of labels.
pub(crate) fn pairs(list: &[String]) -> anyhow::Result<std::collections::BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| crate::exit::Misuse(format!("--label {text:?} is not KEY=VALUE")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    list.iter().map(pair).collect()
}

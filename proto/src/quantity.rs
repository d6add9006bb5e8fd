//! Quantities that people write: durations as `1h30m` kept as written,
//! whole-number percentages, no floats.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The longest duration accepted anywhere, in milliseconds (366 days).
pub const MAX_SPAN_MS: u64 = 366 * 24 * 3600 * 1000;

/// Why a duration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// Not of the form.
    #[error(
        "{0:?} is not a duration: write whole numbers with units h, m, s, ms, largest first, as in \"1h30m\", \"90s\" or \"200ms\""
    )]
    Syntax(String),
    /// Too long to mean anything here.
    #[error("{0:?} is longer than 366 days")]
    TooLong(String),
}

/// A duration as written, for example `1h30m`, `60s`, `200ms`. Any text is
/// kept; [`Span::ms`] says whether it is one, so that every mistake of a
/// document can be reported at once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(String);

impl Span {
    /// Keeps the text as written.
    pub fn written(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A duration of so many milliseconds, in its shortest form.
    pub fn from_ms(ms: u64) -> Self {
        let mut rest = ms;
        let mut text = String::new();
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            if rest >= size {
                text = format!("{text}{}{unit}", rest / size);
                rest %= size;
            }
        }
        if text.is_empty() {
            text.push_str("0s");
        }
        Self(text)
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Milliseconds, or why the text is no duration.
    pub fn ms(&self) -> Result<u64, SpanError> {
        let bad = || SpanError::Syntax(self.0.chars().take(40).collect());
        let mut rest = self.0.as_str();
        let (mut total, mut last_size) = (0u64, u64::MAX);
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let unit_len = tail.bytes().take_while(u8::is_ascii_lowercase).count();
            let (unit, tail) = tail.split_at(unit_len);
            let size: u64 = match unit {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1000,
                "ms" => 1,
                _ => return Err(bad()),
            };
            if digits == 0 || digits > 12 || size >= last_size {
                return Err(bad());
            }
            last_size = size;
            let number: u64 = number.parse().map_err(|_| bad())?;
            total = number.checked_mul(size).and_then(|ms| total.checked_add(ms)).ok_or_else(bad)?;
            rest = tail;
        }
        if total > MAX_SPAN_MS {
            return Err(SpanError::TooLong(self.0.clone()));
        }
        Ok(total)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 40, "pattern": r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_written() {
        for (text, ms) in
            [("1h30m", 5_400_000), ("90s", 90_000), ("200ms", 200), ("1m1s1ms", 61_001), ("0s", 0)]
        {
            assert_eq!(Span::written(text).ms(), Ok(ms), "{text}");
        }
        for bad in
            ["", "5", "s", "1.5s", "-1s", "1s1h", "1s 1ms", "1S", "1d", "99999999999999999999s", "1s1s"]
        {
            assert!(Span::written(bad).ms().is_err(), "{bad}");
        }
        assert!(matches!(Span::written("9000h").ms(), Err(SpanError::TooLong(_))));
    }

    #[test]
    fn shortest_form_reads_back() {
        for ms in [0, 1, 999, 1000, 60_000, 3_661_001, MAX_SPAN_MS] {
            assert_eq!(Span::from_ms(ms).ms(), Ok(ms));
        }
    }
}

//! Metrics as the scraper wants them: the three processes write OpenMetrics; whoever does not ask for it, as `curl` and
//! `promtool check metrics` do not, gets the older Prometheus text. Called by the health page of each process.

use std::fmt::Write;

/// What a scraper that knows OpenMetrics gets.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What every other scraper gets.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The content type and the body of an answer to a request with this `Accept` header.
pub fn answer(accept: Option<&str>, openmetrics: String) -> (&'static str, String) {
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        (OPENMETRICS, openmetrics)
    } else {
        (PROMETHEUS, prometheus(&openmetrics))
    }
}

/// The same as Prometheus text: a counter is named as its sample is, and there is no unit and no end mark.
fn prometheus(openmetrics: &str) -> String {
    let is_counter = |name: &str| openmetrics.contains(&format!("# TYPE {name} counter\n"));
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        // Writing to a String cannot fail.
        let _ = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => Ok(()),
            (Some("#"), Some(what), Some(name), Some(rest)) if is_counter(name) => {
                writeln!(text, "# {what} {name}_total {rest}")
            }
            _ => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: &str = "# HELP a_b runs and more.\n# TYPE a_b counter\na_b_total{x=\"y z\"} 1\n\
        # HELP d_seconds time.\n# TYPE d_seconds histogram\n# UNIT d_seconds seconds\n\
        d_seconds_bucket{le=\"+Inf\"} 1\n# EOF\n";

    #[test]
    fn whoever_asks_for_openmetrics_gets_it() {
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        assert_eq!(answer(Some(accept), OPEN.to_owned()), (OPENMETRICS, OPEN.to_owned()));
    }

    #[test]
    fn everybody_else_gets_what_every_parser_reads() {
        let wanted = "# HELP a_b_total runs and more.\n# TYPE a_b_total counter\na_b_total{x=\"y z\"} 1\n\
            # HELP d_seconds time.\n# TYPE d_seconds histogram\nd_seconds_bucket{le=\"+Inf\"} 1\n";
        for accept in [None, Some("*/*"), Some("text/plain")] {
            assert_eq!(answer(accept, OPEN.to_owned()), (PROMETHEUS, wanted.to_owned()));
        }
    }
}

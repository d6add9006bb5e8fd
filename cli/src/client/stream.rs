//! Server-sent events: a run as it changes.

use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use proto::rest::RunView;

use super::Client;
use super::asked::Asked;

/// The control plane says that it is alive every 10 s.
const SILENCE: Duration = Duration::from_secs(40);

/// The views of a run, the latest each time.
#[derive(Debug)]
pub(crate) struct RunStream {
    body: Incoming,
    buffer: Vec<u8>,
    last_event: Option<String>,
}

impl Client {
    /// Follows a run from after the event of this id on, at any replica. The stream ends when the run is finished.
    pub(crate) async fn watch(&self, run: &str, last_event: Option<&str>) -> anyhow::Result<RunStream> {
        let path = format!("/v1/runs/{}/watch", super::segment(run));
        let asked = Asked { last_event, ..Asked::new(Method::GET, &path) };
        let response = self.timely(self.send(&asked)).await?;
        let last_event = last_event.map(str::to_owned);
        Ok(RunStream { body: response.into_body(), buffer: Vec::new(), last_event })
    }
}

impl RunStream {
    /// The id of the last event, to go on after it.
    pub(crate) fn last_event(&self) -> Option<&str> {
        self.last_event.as_deref()
    }

    /// The next view, or None at the end. A connection that says nothing, not even that it is alive, is an error.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<RunView>> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(id) = field(&event, "id") {
                    self.last_event = Some(id);
                }
                if let Some(data) = field(&event, "data") {
                    return Ok(Some(serde_json::from_str(&data)?));
                }
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
            match frame.context("the control plane says nothing any more")? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(bytes) = frame?.into_data() {
                        self.buffer.extend_from_slice(&bytes);
                    }
                }
            }
            anyhow::ensure!(
                self.buffer.len() < super::MAX_ANSWER,
                "an event of the control plane is too large"
            );
        }
    }
}

/// The lines of one field of an event; none in a comment.
fn field(event: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(event).ok()?;
    let value = |line: &'_ str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim_start().to_owned());
    let lines: Vec<String> = text.lines().filter_map(value).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn comments_and_other_fields_are_no_data() {
        assert_eq!(field(b": keep alive\n\n", "data"), None);
        let event = b"id: 7f\nevent: run\ndata: {\"a\":\ndata: 1}\n\n";
        assert_eq!(field(event, "data").as_deref(), Some("{\"a\":\n1}"));
        assert_eq!(field(event, "id").as_deref(), Some("7f"));
    }
}

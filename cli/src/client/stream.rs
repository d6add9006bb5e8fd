//! Server-sent events: a run as it changes.

use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use proto::rest::RunView;

use super::Client;

/// The views of a run, the latest each time.
#[derive(Debug)]
pub(crate) struct RunStream {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Client {
    /// Follows a run. The stream ends when the run is finished.
    pub(crate) async fn watch(&self, run: &str) -> anyhow::Result<RunStream> {
        let response =
            self.send(Method::GET, &format!("/v1/runs/{}/watch", super::segment(run)), None).await?;
        Ok(RunStream { body: response.into_body(), buffer: Vec::new() })
    }
}

impl RunStream {
    /// The next view, or None at the end.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<RunView>> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(data) = data(&event) {
                    return Ok(Some(serde_json::from_str(&data)?));
                }
            }
            match self.body.frame().await {
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

/// The data lines of an event; none in a comment.
fn data(event: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(event).ok()?;
    let lines: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn comments_and_other_fields_are_no_data() {
        assert_eq!(super::data(b": keep alive\n\n"), None);
        assert_eq!(super::data(b"event: run\ndata: {\"a\":\ndata: 1}\n\n").as_deref(), Some("{\"a\":\n1}"));
    }
}

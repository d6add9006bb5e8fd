//! `faultline doctor`: what keeps this from working, and the cure. As an operator it looks through the REST API; in
//! an agent's or daemon's place it takes that role's own flags and environment, and starts nothing.

mod agent;
mod centre;
mod members;
mod node;
mod reach;

use serde::Serialize;

use crate::args::{DoctorArgs, Form, Global, Place};
use crate::exit::Exit;
use crate::output;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    Ok,
    /// Works, but not for long or not for everything.
    Warning,
    Failed,
}

/// One check. Its id is stable: programs may look for it.
#[derive(Debug, Clone, Serialize)]
struct Check {
    id: String,
    /// Which one, where the id is about many: a cluster or a node.
    #[serde(skip_serializing_if = "String::is_empty")]
    subject: String,
    state: State,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    cure: String,
}

/// The checks so far.
#[derive(Debug, Default)]
struct Report {
    checks: Vec<Check>,
}

impl Report {
    fn add(&mut self, id: &str, state: State, message: impl Into<String>, cure: impl Into<String>) {
        self.about(id, "", state, message, cure);
    }

    fn ok(&mut self, id: &str, message: impl Into<String>) {
        self.add(id, State::Ok, message, "");
    }

    fn about(
        &mut self,
        id: &str,
        subject: &str,
        state: State,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.checks.push(Check {
            id: id.to_owned(),
            subject: subject.to_owned(),
            state,
            message: message.into().replace('\n', ";"),
            cure: cure.into(),
        });
    }

    /// The mistakes of a role's configuration.
    fn configuration(&mut self, problems: &[String]) {
        if problems.is_empty() {
            self.ok("config", "every setting can be used");
        }
        for problem in problems {
            self.add("config", State::Failed, problem, "correct the flag or its environment variable");
        }
    }

    fn end(self, form: Form) -> anyhow::Result<Exit> {
        let row = |check: &Check| {
            let state = match check.state {
                State::Ok => "ok",
                State::Warning => "WARNING",
                State::Failed => "FAILED",
            };
            let mut lines =
                vec![vec![state.to_owned(), check.id.clone(), check.subject.clone(), check.message.clone()]];
            if !check.cure.is_empty() {
                lines.push(vec![String::new(), String::new(), String::new(), format!("-> {}", check.cure)]);
            }
            lines
        };
        let head = ["STATE", "CHECK", "SUBJECT", "FOUND"];
        output::print(form, &self.checks, &head, || self.checks.iter().flat_map(row).collect())?;
        let failed = self.checks.iter().any(|check| check.state == State::Failed);
        Ok(if failed { Exit::Unhealthy } else { Exit::Ok })
    }
}

pub(crate) async fn run(args: DoctorArgs, global: &Global, form: Form) -> anyhow::Result<Exit> {
    certs::install_provider();
    let mut report = Report::default();
    match args.place {
        None => centre::look(&mut report, global).await,
        Some(Place::Agent(args)) => {
            let (config, problems) = args.config();
            report.configuration(&problems);
            let stored = cluster_agent::kubernetes::stored_identity(&config).await;
            agent::look(&mut report, &config, stored).await;
        }
        Some(Place::Node(args)) => {
            let (config, problems) = args.config();
            report.configuration(&problems);
            node::link(&mut report, &config).await;
            node::capabilities(&mut report, &config);
        }
        Some(Place::Host(args)) => {
            let (role, problems) = args.role()?;
            report.configuration(&problems);
            let stored = cluster_agent::host::stored_identity(&role.host.state_dir).await;
            agent::look(&mut report, &role.agent, stored).await;
            node::capabilities(&mut report, &role.node);
        }
    }
    report.end(form)
}

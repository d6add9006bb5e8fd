//! `faultline operators`: who may call the control plane, and as what.

use proto::operator::{CreateOperator, OperatorToken, OperatorView, Role, RotateOperator};

use crate::args::{Form, OperatorRole, OperatorsCommand};
use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::output;

impl From<OperatorRole> for Role {
    fn from(role: OperatorRole) -> Self {
        match role {
            OperatorRole::Viewer => Self::Viewer,
            OperatorRole::Author => Self::Author,
            OperatorRole::Operator => Self::Operator,
            OperatorRole::Approver => Self::Approver,
            OperatorRole::Admin => Self::Admin,
        }
    }
}

pub(crate) async fn run(client: &Client, form: Form, command: OperatorsCommand) -> anyhow::Result<Exit> {
    match command {
        OperatorsCommand::Create { name, role, ttl } => {
            let request = CreateOperator { name, role: role.into(), ttl };
            let made: OperatorToken = client.post("/v1/operators", &request).await?;
            show(form, &made)?;
        }
        OperatorsCommand::List => {
            let operators: Vec<OperatorView> = client.list("/v1/operators").await?;
            let head = ["NAME", "ROLE", "CREATED", "EXPIRES"];
            output::print(form, &operators, &head, || operators.iter().map(row).collect())?;
        }
        OperatorsCommand::Rotate { name, ttl } => {
            let path = format!("/v1/operators/{}/rotate", segment(&name));
            let made: OperatorToken = client.post(&path, &RotateOperator { ttl }).await?;
            show(form, &made)?;
        }
        OperatorsCommand::Revoke { name } => {
            client.delete(&format!("/v1/operators/{}", segment(&name))).await?;
            output::done(form, "operator", &name, "revoked")?;
        }
    }
    Ok(Exit::Ok)
}

/// The token alone on stdout, for a file.
fn show(form: Form, made: &OperatorToken) -> anyhow::Result<()> {
    let OperatorToken { operator, token } = made;
    let until = operator.expires_at.map_or_else(|| "it does not end".to_owned(), |at| format!("until {at}"));
    anyhow::ensure!(crate::client::authorization(token).is_some(), "the control plane gave no token");
    let whose = format!("token for {} ({}), {until}; shown only now", operator.name, operator.role);
    output::note(&output::line(&whose));
    if form == Form::Table { output::data(token) } else { output::print(form, made, &[], Vec::new) }
}

fn row(operator: &OperatorView) -> Vec<String> {
    vec![
        operator.name.clone(),
        operator.role.to_string(),
        operator.created_at.to_string(),
        operator.expires_at.map_or_else(|| "-".to_owned(), |at| at.to_string()),
    ]
}

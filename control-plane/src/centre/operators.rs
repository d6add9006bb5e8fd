//! Operators: bearer tokens, of which only the hash is stored, and what each role may. Every
//! change compares one revision that stands for all of them, so that names stay unique and the
//! last admin stays, whoever else is at it.

use std::time::Duration;

use certs::token::Secret;
use jiff::{SignedDuration, Timestamp};
use proto::hash::sha256_hex;
use proto::ids::Name;
use proto::operator::{CreateOperator, OperatorToken, OperatorView};
use proto::problem::{Problem, Problems};
use proto::quantity::Span;
use serde::{Deserialize, Serialize};

pub use proto::operator::Role;

use super::expected::{Expected, tag_of};
use super::{Centre, Error};
use crate::driver::codec;
use crate::store::{self, Outcome, PageRequest, Txn};

/// How long a request waits for the store before this replica goes by what it knows.
const ASK_WITHIN: Duration = Duration::from_secs(1);
/// The name of the operator whose token comes from the bootstrap file.
pub(crate) const BOOTSTRAP_ADMIN: &str = "admin";
/// Operators at most; each is read on every change.
const MAX_OPERATORS: usize = 1000;
const MAX_NAME: usize = 63;
const MAX_TTL_MS: u64 = 10 * 365 * 24 * 3600 * 1000;
/// How often a lost race is run again.
const ATTEMPTS: usize = 8;

/// The value of `operators/<token hash>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OperatorRecord {
    /// Who.
    pub name: String,
    /// What they may.
    pub role: Role,
    /// When the token was made.
    pub created_at: Timestamp,
    /// After this it opens nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The request that made it, where it had an idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

impl OperatorRecord {
    fn view(&self) -> OperatorView {
        OperatorView {
            name: self.name.clone(),
            role: self.role,
            created_at: self.created_at,
            expires_at: self.expires_at,
        }
    }
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The operator's name.
    pub name: String,
    /// What they may.
    pub role: Role,
}

impl Caller {
    /// Refuses who has less than `role`.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn require(&self, role: Role) -> Result<(), Error> {
        if self.role >= role { Ok(()) } else { Err(Error::Forbidden { needs: role, has: self.role }) }
    }
}

/// Everybody, at one revision of the key that stands for all.
struct Everybody {
    guard: u64,
    /// By the hash of the token.
    records: Vec<(String, OperatorRecord)>,
}

impl Everybody {
    fn named(&self, name: &str) -> Option<&(String, OperatorRecord)> {
        self.records.iter().find(|(_, record)| record.name == name)
    }

    /// Whether an admin whose token does not end is left without this one.
    fn has_admin_beside(&self, name: &str) -> bool {
        let stays = |record: &OperatorRecord| record.role == Role::Admin && record.expires_at.is_none();
        self.records.iter().any(|(_, record)| record.name != name && stays(record))
    }

    /// A transaction that holds only while nobody else changes an operator.
    fn txn(&self) -> Txn {
        Txn::new().unchanged(codec::OPERATORS_REVISION, self.guard).put(codec::OPERATORS_REVISION, "{}")
    }
}

impl Centre {
    /// Who holds this bearer token. Asks the store, and memory where the store does not answer, so
    /// that a stop is taken while it is down.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`], or [`Error::Store`] for a token that is not in memory.
    pub async fn authenticate(&self, bearer: &str) -> Result<Caller, Error> {
        let bearer = bearer.trim();
        if bearer.is_empty() || bearer.len() > 1024 {
            return Err(Error::Unauthenticated);
        }
        let hash = sha256_hex(bearer.as_bytes());
        let now = self.inner.clock.now();
        let path = codec::operator_path(&hash);
        let asked = tokio::time::timeout(ASK_WITHIN, self.inner.store.get(&path)).await;
        let silent = store::Error::Timeout { operation: "read an operator", within: ASK_WITHIN };
        let json = match asked.unwrap_or(Err(silent)) {
            Ok(entry) => entry.map(|entry| entry.value.to_vec()),
            // Memory follows the store, so what was revoked before the outage is not in it.
            Err(error) if error.retryable() => {
                let known = self.inner.cache.read(|state| state.operators.get(&hash).cloned());
                Some(known.ok_or(Error::Store(error))?.into_bytes())
            }
            Err(error) => return Err(error.into()),
        };
        let record: Option<OperatorRecord> = json.and_then(|json| serde_json::from_slice(&json).ok());
        let record = record.filter(|record| record.expires_at.is_none_or(|at| now < at));
        let record = record.ok_or(Error::Unauthenticated)?;
        Ok(Caller { name: record.name, role: record.role })
    }

    /// Makes sure that the bootstrap token opens the door as admin, unless just this token was
    /// revoked or rotated: then another content of the file does.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn ensure_admin(&self, token: &str) -> Result<(), Error> {
        let token = token.trim();
        if token.len() < 16 {
            return Err(Error::BadRequest("the admin token has fewer than 16 characters".to_owned()));
        }
        let hash = sha256_hex(token.as_bytes());
        let record = OperatorRecord {
            name: BOOTSTRAP_ADMIN.to_owned(),
            role: Role::Admin,
            created_at: self.inner.clock.now(),
            expires_at: None,
            made_by: None,
        };
        let value = serde_json::to_vec(&record).map_err(|error| Error::Internal(error.to_string()))?;
        for _ in 0..ATTEMPTS {
            if self.inner.store.get(&codec::spent_path(&hash)).await?.is_some() {
                tracing::info!("the token of --admin-token-file was revoked or rotated: it opens nothing");
                return Ok(());
            }
            let everybody = self.everybody().await?;
            let mut txn = everybody.txn();
            if !everybody.records.iter().any(|(known, _)| *known == hash) {
                txn = txn.put(codec::operator_path(&hash), value.clone());
            }
            // The token of an earlier file opens nothing any more.
            let old = |(known, record): &&(String, OperatorRecord)| {
                *known != hash && record.name == BOOTSTRAP_ADMIN
            };
            for (known, _) in everybody.records.iter().filter(old) {
                txn = txn.delete(codec::operator_path(known));
            }
            if let Outcome::Committed { .. } = self.inner.store.txn(txn).await? {
                return Ok(());
            }
        }
        Err(keeps_changing())
    }

    /// Every operator, by name. Needs admin.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Store`].
    pub async fn operators(&self, caller: &Caller) -> Result<Vec<OperatorView>, Error> {
        caller.require(Role::Admin)?;
        Ok(self.everybody().await?.records.iter().map(|(_, record)| record.view()).collect())
    }

    /// One operator, with its tag: another token is another tag. Needs admin.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn operator(&self, caller: &Caller, name: &str) -> Result<(OperatorView, String), Error> {
        caller.require(Role::Admin)?;
        let everybody = self.everybody().await?;
        let found = everybody.named(name).map(|(hash, record)| (record.view(), tag(hash, record)));
        found.ok_or_else(|| Error::not_found("operator", name))
    }

    /// Makes an operator and its token, shown this once. Needs admin. `made_by` names the request:
    /// the same request made again gets another token for what it made.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Conflict`] for a name that is taken.
    pub async fn create_operator(
        &self,
        caller: &Caller,
        request: CreateOperator,
        made_by: Option<&str>,
    ) -> Result<OperatorToken, Error> {
        let subject = request.name.clone();
        let result = self.create_operator_inner(caller, &request, made_by).await;
        self.note(caller, "operator.create", &subject, &result);
        result
    }

    async fn create_operator_inner(
        &self,
        caller: &Caller,
        request: &CreateOperator,
        made_by: Option<&str>,
    ) -> Result<OperatorToken, Error> {
        caller.require(Role::Admin)?;
        let now = self.inner.clock.now();
        let expires_at = check(request, now)?;
        self.change_operators(|everybody| {
            let txn = match everybody.named(&request.name) {
                Some((hash, known)) if made_by.is_some() && known.made_by.as_deref() == made_by => {
                    everybody.txn().delete(codec::operator_path(hash))
                }
                None if request.name != BOOTSTRAP_ADMIN => everybody.txn(),
                _ => {
                    let name = &request.name;
                    return Err(Error::Conflict(format!(
                        "an operator named {name} exists: rotate its token"
                    )));
                }
            };
            if everybody.records.len() >= MAX_OPERATORS {
                return Err(Error::Conflict(format!("there are {MAX_OPERATORS} operators: revoke some")));
            }
            with_token(
                txn,
                &OperatorRecord {
                    name: request.name.clone(),
                    role: request.role,
                    created_at: now,
                    expires_at,
                    made_by: made_by.map(str::to_owned),
                },
            )
        })
        .await
    }

    /// Gives an operator that is as expected another token, shown this once; the one before opens
    /// nothing any more. Needs admin.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Precondition`]; [`Error::Conflict`] where no admin with a
    /// token that does not end would be left.
    pub async fn rotate_operator(
        &self,
        caller: &Caller,
        name: &str,
        ttl: Option<&str>,
        expected: &Expected,
    ) -> Result<OperatorToken, Error> {
        let result = async {
            caller.require(Role::Admin)?;
            let now = self.inner.clock.now();
            let expires_at = expiry(ttl, now)?;
            self.change_operators(|everybody| {
                let (hash, known) =
                    everybody.named(name).ok_or_else(|| Error::not_found("operator", name))?;
                expected.check(Some(&tag(hash, known)))?;
                if known.role == Role::Admin && expires_at.is_some() && !everybody.has_admin_beside(name) {
                    return Err(last_admin(name));
                }
                let fresh = OperatorRecord { created_at: now, expires_at, made_by: None, ..known.clone() };
                with_token(spent(everybody.txn(), hash, known), &fresh)
            })
            .await
        }
        .await;
        self.note(caller, "operator.rotate", name, &result);
        result
    }

    /// Takes an operator that is as expected away: its token opens nothing any more. Needs admin.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Precondition`]; [`Error::Conflict`] for the last admin.
    pub async fn revoke_operator(
        &self,
        caller: &Caller,
        name: &str,
        expected: &Expected,
    ) -> Result<(), Error> {
        let result = async {
            caller.require(Role::Admin)?;
            self.change_operators(|everybody| {
                let found = everybody.named(name);
                expected.check(found.map(|(hash, known)| tag(hash, known)).as_deref())?;
                let (hash, known) = found.ok_or_else(|| Error::not_found("operator", name))?;
                if known.role == Role::Admin && !everybody.has_admin_beside(name) {
                    return Err(last_admin(name));
                }
                Ok((spent(everybody.txn(), hash, known), ()))
            })
            .await
        }
        .await;
        self.note(caller, "operator.revoke", name, &result);
        result
    }

    /// Decides on everybody as they stand, and writes that over nothing else.
    async fn change_operators<T>(
        &self,
        decide: impl Fn(&Everybody) -> Result<(Txn, T), Error>,
    ) -> Result<T, Error> {
        for _ in 0..ATTEMPTS {
            let (txn, result) = decide(&self.everybody().await?)?;
            if let Outcome::Committed { .. } = self.inner.store.txn(txn).await? {
                return Ok(result);
            }
        }
        Err(keeps_changing())
    }

    async fn everybody(&self) -> Result<Everybody, Error> {
        // The guard first: a change between the two reads is noticed when it is compared.
        let guard = self.inner.store.get(codec::OPERATORS_REVISION).await?;
        let page = self.inner.store.list(codec::OPERATORS, PageRequest::first(MAX_OPERATORS + 1)).await?;
        let record = |entry: &crate::store::Entry| {
            let hash = entry.key.strip_prefix(codec::OPERATORS)?.to_owned();
            Some((hash, serde_json::from_slice(&entry.value).ok()?))
        };
        Ok(Everybody {
            guard: guard.map_or(0, |entry| entry.mod_revision),
            records: page.entries.iter().filter_map(record).collect(),
        })
    }
}

fn tag(hash: &str, record: &OperatorRecord) -> String {
    tag_of(&(hash, record.view()))
}

fn keeps_changing() -> Error {
    Error::Conflict("the operators keep changing: try again".to_owned())
}

fn last_admin(name: &str) -> Error {
    Error::Conflict(format!("{name} is the last admin whose token does not end: make another one first"))
}

/// Takes a token away; that of the bootstrap file for ever.
fn spent(txn: Txn, hash: &str, record: &OperatorRecord) -> Txn {
    let txn = txn.delete(codec::operator_path(hash));
    if record.name == BOOTSTRAP_ADMIN { txn.put(codec::spent_path(hash), "{}") } else { txn }
}

/// Adds a new token of this operator.
fn with_token(txn: Txn, record: &OperatorRecord) -> Result<(Txn, OperatorToken), Error> {
    let internal = |error: &dyn std::error::Error| Error::Internal(error.to_string());
    let secret = Secret::generate().map_err(|error| internal(&error))?;
    let token = format!("flo1.{}", secret.reveal());
    let value = serde_json::to_vec(record).map_err(|error| internal(&error))?;
    let txn = txn.put(codec::operator_path(&sha256_hex(token.as_bytes())), value);
    Ok((txn, OperatorToken { operator: record.view(), token }))
}

/// When the token ends; every mistake at once.
fn check(request: &CreateOperator, now: Timestamp) -> Result<Option<Timestamp>, Error> {
    let mut problems = Vec::new();
    match request.name.parse::<Name>() {
        Ok(name) if name.as_str().len() > MAX_NAME => {
            problems.push(Problem::new("name", format!("at most {MAX_NAME} characters")));
        }
        Ok(_) => {}
        Err(error) => problems.push(Problem::new("name", error.to_string())),
    }
    match expiry(request.ttl.as_deref(), now) {
        Ok(expires_at) if problems.is_empty() => Ok(expires_at),
        Ok(_) => Err(Problems(problems).into()),
        Err(Error::Invalid(Problems(more))) => Err(Problems([problems, more].concat()).into()),
        Err(error) => Err(error),
    }
}

fn expiry(ttl: Option<&str>, now: Timestamp) -> Result<Option<Timestamp>, Error> {
    let Some(text) = ttl else { return Ok(None) };
    let problem = |message: String| Error::Invalid(Problems(vec![Problem::new("ttl", message)]));
    match Span::written(text).ms() {
        Ok(0) => Err(problem("a token must live for some time".to_owned())),
        Ok(ms) if ms > MAX_TTL_MS => Err(problem("at most ten years, or leave it out".to_owned())),
        Ok(ms) => {
            let life = SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
            now.checked_add(life).map(Some).map_err(|error| problem(error.to_string()))
        }
        Err(error) => Err(problem(error.to_string())),
    }
}

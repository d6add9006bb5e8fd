//! Identifiers as types, so that a run id is never passed for a cluster id,
//! and so that no name from outside can escape the key or path it is put in.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {value:?} is not a valid name: use 1 to {max} characters of a-z, 0-9, '-' and '.', starting and ending with a letter or digit"
)]
pub struct InvalidName {
    what: &'static str,
    value: String,
    max: usize,
}

fn check(what: &'static str, value: &str, max: usize) -> Result<(), InvalidName> {
    let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = value.as_bytes();
    let ends = bytes.first().copied().is_some_and(alnum) && bytes.last().copied().is_some_and(alnum);
    if ends && bytes.len() <= max && bytes.iter().all(|&c| alnum(c) || c == b'-' || c == b'.') {
        return Ok(());
    }
    let value = value.chars().take(80).collect();
    Err(InvalidName { what, value, max })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                check($what, value, $max)?;
                Ok(Self(value.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(value: String) -> Result<Self, InvalidName> {
                check($what, &value, $max)?;
                Ok(Self(value))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::try_from(String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A member cluster's id, assigned by the centre together with its token.
    ClusterId, "cluster id", 63
);
id!(
    /// A run's id, assigned by the centre (UUIDv7 text).
    RunId, "run id", 63
);
id!(
    /// One fault on one target: `<run>.<cluster>.<fault>.<index>`.
    InjectionId, "injection id", 230
);
id!(
    /// A halt's id, chosen by who sets it or assigned.
    HaltId, "halt id", 63
);
id!(
    /// A Kubernetes object name (RFC 1123 subdomain) or a name of ours.
    Name, "name", 253
);

impl InjectionId {
    /// The id of the `index`th injection of a fault of a run in a cluster.
    /// Unique among all clusters: two may share a machine.
    pub fn of(run: &RunId, cluster: &ClusterId, fault: &Name, index: usize) -> Result<Self, InvalidName> {
        Self::try_from(format!("{run}.{cluster}.{fault}.{index}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_a_path_are_refused() {
        for bad in ["", "/", "a/b", "..", ".a", "a.", "-a", "A", "a b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad:?}");
        }
        for good in ["a", "c-1", "0199.x", &"a".repeat(63)] {
            assert!(good.parse::<ClusterId>().is_ok(), "{good:?}");
        }
    }
}

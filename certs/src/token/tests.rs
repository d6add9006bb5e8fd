//! Tables and properties of the join token.

use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;

use super::{Error, JoinToken, Secret, SecretHash, TokenId};
use crate::bundle::Pin;

fn token() -> JoinToken {
    JoinToken::generate("centre.example:7445", "c1", Pin::of_spki(b"root"), None).unwrap()
}

fn parse(text: &str) -> Result<JoinToken, Error> {
    text.parse()
}

#[test]
fn round_trips_also_when_pasted_with_white_space() {
    let token = token();
    assert_eq!(parse(&format!("  {}\n", token.reveal())).unwrap(), token);
    let named = JoinToken { server_name: Some("centre".to_owned()), ..token };
    assert_eq!(parse(&named.reveal()).unwrap(), named);
}

#[test]
fn debug_shows_no_secret() {
    let token = token();
    let shown = format!("{token:?} {:?}", token.secret);
    assert!(!shown.contains(&token.secret.reveal()) && shown.contains("Secret(..)"));
}

#[test]
fn the_hash_matches_its_secret_only() {
    let (one, two) = (token(), token());
    assert_ne!(one.id, two.id);
    let hash = one.secret.hash();
    let json = serde_json::to_string(&hash).unwrap();
    let stored: SecretHash = serde_json::from_str(&json).unwrap();
    assert!(stored.matches(&one.secret) && !stored.matches(&two.secret));
    assert!(stored.matches(&one.secret.reveal().parse().unwrap()));
    assert_eq!(json.len(), 66, "hexadecimal in quotes");
    assert!("short".parse::<Secret>().is_err());
    assert_eq!(one.id.to_string().parse::<TokenId>().unwrap(), one.id);
    assert_eq!("xyz".parse::<TokenId>(), Err(Error::Id));
}

#[test]
fn each_mistake_has_its_error() {
    let good = token().reveal();
    let parts: Vec<&str> = good.split('.').collect();
    assert_eq!(parse(""), Err(Error::Form));
    assert_eq!(parse("https://centre/token"), Err(Error::Form));
    assert_eq!(parse(&good.replace("flj1", "flj2")), Err(Error::Version("flj2".to_owned())));
    assert_eq!(parse(&good[..good.len() - 3]), Err(Error::Secret));
    assert_eq!(parse(&format!("{}.{}", parts[0], parts[1])), Err(Error::Form));
    assert_eq!(parse(&format!("{good}.x")), Err(Error::Form));
    assert_eq!(parse(&"x".repeat(5000)), Err(Error::TooLong));
    assert!(matches!(parse(&format!("flj1.!!!.{}", parts[2])), Err(Error::Payload(_))));
    let empty = BASE64URL_NOPAD.encode(b"{}");
    assert!(matches!(parse(&format!("flj1.{empty}.{}", parts[2])), Err(Error::Payload(_))));
}

#[test]
fn the_address_and_the_cluster_are_checked() {
    let make = |addr: &str, cluster: &str| JoinToken::generate(addr, cluster, Pin::of_spki(b"root"), None);
    for addr in ["centre", "centre:", ":1", "centre:0", "centre:99999", "a@b:1", "http://c:1", "c:1/x", ""] {
        assert_eq!(make(addr, "c1").unwrap_err(), Error::Address(addr.to_owned()));
    }
    for addr in ["centre:1", "10.0.0.1:7445", "[::1]:7445"] {
        assert!(make(addr, "c1").is_ok(), "{addr}");
    }
    assert!(matches!(make("c:1", "a/b"), Err(Error::Cluster(_))));
}

proptest! {
    #[test]
    fn any_token_round_trips(
        host in "[a-z0-9][a-z0-9.-]{0,30}", port in 1u16.., cluster in "[a-z0-9][a-z0-9-]{0,30}",
        name in proptest::option::of("\\PC{0,40}"), id: [u8; 8], secret: [u8; 32], root: Vec<u8>,
    ) {
        let token = JoinToken {
            addr: format!("{host}:{port}"), cluster, id: TokenId(id), pin: Pin::of_spki(&root),
            server_name: name, secret: Secret(secret),
        };
        prop_assert_eq!(parse(&token.reveal()), Ok(token));
    }

    #[test]
    fn junk_never_panics(text in prop_oneof!["\\PC{0,200}", "flj1\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,60}"]) {
        prop_assert!(parse(&text).is_err());
    }

    #[test]
    fn a_changed_token_is_never_taken_for_the_same(at in 0usize..400, with in "[A-Za-z0-9._-]") {
        let token = token();
        let mut text = token.reveal();
        let at = at % text.len();
        text.replace_range(at..=at, &with);
        if let Ok(other) = parse(&text) {
            prop_assert_eq!(other == token, text == token.reveal());
        }
    }
}

//! Names and messages that come from a control plane or a cluster never steer the terminal, and stay what they are
//! for programs.

use serde_json::{Value, json};

use crate::fake::{Fake, Says};
use crate::world::{World, steers};

/// Clears the screen, turns text around, rings, begins a new row, and is a name.
const HOSTILE: &str = "x\u{1b}[2J\u{9b}31m\u{202e}\u{7}\r\nevil  Connected";

fn experiment() -> Value {
    json!({ "name": HOSTILE, "origin": HOSTILE, "namespace": HOSTILE, "hash": HOSTILE, "spec": { "hypothesis": HOSTILE } })
}

fn operator() -> Value {
    json!({ "name": HOSTILE, "role": "viewer", "createdAt": "2026-11-02T12:00:00Z" })
}

fn audit() -> Value {
    json!({ "replica": HOSTILE, "seq": 1, "at": "2026-11-02T12:00:00Z", "by": HOSTILE, "action": HOSTILE,
        "subject": HOSTILE, "result": HOSTILE, "previous": "", "hash": "" })
}

fn answers(path: &str) -> Value {
    let list = |item: Value| json!({ "items": [item] });
    match path.split(['?']).next().unwrap_or_default() {
        "/v1/experiments" => list(experiment()),
        "/v1/operators" => list(operator()),
        "/v1/audit" => list(audit()),
        "/v1/whoami" => json!({ "name": HOSTILE, "role": "viewer" }),
        "/v1/ca" => json!({ "bundlePem": HOSTILE, "pin": HOSTILE }),
        "/v1/clusters" => {
            json!({ "cluster": "c-1", "name": HOSTILE, "token": HOSTILE, "expiresAt": "2026-11-02T12:00:00Z" })
        }
        _ => {
            json!({ "type": HOSTILE, "title": HOSTILE, "status": 403, "detail": HOSTILE, "code": "forbidden",
            "problems": [{ "path": HOSTILE, "message": HOSTILE }] })
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_elsewhere_is_shown_and_never_obeyed() {
    let fake = Fake::start(|asked| {
        let body = answers(&asked.path);
        let status = if body["status"] == 403 { "403 Forbidden" } else { "200 OK" };
        Says::answer(status, "application/json", &body.to_string())
    })
    .await;
    let world = World::new(&fake);
    let login = ["login", &fake.server, "--pin", &fake.pin, "--token-file", "token"];
    for args in [
        ["get", "experiments"].as_slice(),
        &["operators", "list"],
        &["audit", "list"],
        &["audit", "export"],
        &["audit", "ca"],
        &["get", "grants"],
        &["describe", "run", HOSTILE],
        &["stop", HOSTILE],
        &["clusters", "invite", "c9"],
        &["doctor"],
        &login,
    ] {
        for form in ["table", "json", "yaml"] {
            let ran = world.run(&[args, &["-o", form]].concat(), &[]).await;
            let said = format!("{}{}", ran.out, ran.err);
            assert!(!said.chars().any(steers), "{}: {said:?}", ran.line);
            // No row of its own, and no line that looks like another's; an error may have several.
            let is_forged = ran.out.lines().any(|line| line.starts_with("evil"));
            assert!(!is_forged, "{}: {said}", ran.line);
            let is_no_token = ["clusters", "audit"].contains(&args[0]) && ran.code == 1;
            assert!(is_no_token || said.contains("evil"), "{}: it is shown all the same: {said}", ran.line);
            assert!(!is_no_token || ran.out.is_empty(), "{}: {said}", ran.line);
        }
    }
    let ran = world.run(&["get", "experiments", "-o", "json"], &[]).await;
    let back: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(back, json!([experiment()]), "programs get the text as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_for_a_cluster_takes_nothing_else_from_the_control_plane() {
    let injected = "c9\"\n---\napiVersion: v1\nkind: Pod\n#";
    for (name, token) in [(injected, "flj1.x.y"), ("eu-1", "x\"\n---\nkind: Pod\n#"), ("eu-1", "")] {
        let invitation =
            json!({ "cluster": "c-1", "name": name, "token": token, "expiresAt": "2026-11-02T12:00:00Z" });
        let fake = Fake::start(move |asked| match asked.method.as_str() {
            "GET" => Says::json(r#"{"items": []}"#),
            _ => Says::json(&invitation.to_string()),
        })
        .await;
        let world = World::new(&fake);
        let ran = world.run(&["clusters", "invite", "-f", "members.yaml", "--out", "joins"], &[]).await;
        assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
        assert_eq!(std::fs::read_dir(world.path("joins")).expect("made").count(), 0, "{name} {token}");
    }
}

//! Many members at once, and one that was built anew.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Centre;

fn file(centre: &Centre, count: usize) -> String {
    let path = centre.path("clusters.yaml");
    let site = |index| format!("- name: site-{index:03}\n  labels: {{ site: \"{index:03}\" }}\n");
    let text: String = std::iter::once("clusters:\n".to_owned()).chain((0..count).map(site)).collect();
    std::fs::write(&path, text).expect("a file");
    path
}

fn token(path: &Path) -> certs::JoinToken {
    let text = std::fs::read_to_string(path).expect("a manifest");
    let line = text.lines().find(|line| line.trim_start().starts_with("token:")).expect("a token");
    let token = line.split_once(':').expect("a value").1.trim().trim_matches(['"', '\'']);
    token.parse().expect("a join token")
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_invited_at_once_and_a_second_call_goes_on() {
    let centre = Centre::start().await;
    centre.login().await;
    let (file, out) = (file(&centre, 120), centre.path("out"));
    let invite = [
        "clusters",
        "invite",
        "-f",
        &file,
        "--auto-accept",
        "--ttl",
        "24h",
        "--label",
        "env=test",
        "--out",
        &out,
    ];
    let (code, said, err) = centre.said(&invite).await;
    assert_eq!(code, 0, "{said}{err}");
    assert!(err.contains("50 of 120") && err.contains("100 of 120"), "progress: {err}");
    assert!(!said.contains("flj1.") && !err.contains("flj1."), "tokens are in the files only");
    let path = Path::new(&out).join("site-007.yaml");
    assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).expect("a manifest");
    assert!(text.contains("kind: Secret") && text.contains("name: faultline-join"), "{text}");
    let cluster = centre.json(&["describe", "cluster", "site-007"]).await;
    assert_eq!(cluster["spec"]["labels"], serde_json::json!({ "env": "test", "site": "007" }));
    assert_eq!(token(&path).cluster, cluster["spec"]["id"].as_str().expect("an id"));
    let tokens: std::collections::BTreeSet<String> =
        (0..120).map(|i| token(&Path::new(&out).join(format!("site-{i:03}.yaml"))).id.to_string()).collect();
    assert_eq!(tokens.len(), 120, "one token each");

    // Cut off: one manifest was never written, another is half there.
    std::fs::remove_file(Path::new(&out).join("site-003.yaml")).expect("it was there");
    std::fs::write(Path::new(&out).join("site-004.yaml"), "kind: Secret\n").expect("a file");
    let rows = centre.json(&invite).await;
    let rows = rows.as_array().expect("a list");
    let invited: Vec<&str> = rows
        .iter()
        .filter(|row| row["state"] == "invited")
        .map(|row| row["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(invited, ["site-003", "site-004"]);
    assert!(rows.iter().filter(|row| row["state"] == "invitedBefore").count() == 118);
    token(&Path::new(&out).join("site-004.yaml"));

    // A file with mistakes invites nobody.
    std::fs::write(&file, "clusters:\n- {name: new-one}\n- {nmae: x}\n- {name: new-one}\n").expect("a file");
    let (code, _, err) = centre.said(&invite).await;
    assert_eq!(code, 2);
    for problem in ["clusters[1].nmae", "clusters[1].name", "clusters[2].name: new-one is named twice"] {
        assert!(err.contains(problem), "{problem} in {err}");
    }
    assert_eq!(centre.json(&["clusters", "list"]).await.as_array().expect("a list").len(), 120);
    centre.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_cluster_gets_a_new_token_for_its_old_id() {
    let centre = Centre::start().await;
    centre.login().await;
    let first: certs::JoinToken = centre
        .ok(&["clusters", "invite", "c2", "--label", "env=test"])
        .await
        .trim()
        .parse()
        .expect("a token");
    centre.ok(&["clusters", "accept", "c2"]).await;
    let second: certs::JoinToken =
        centre.ok(&["clusters", "replace", "c2", "--ttl", "5m"]).await.trim().parse().expect("a token");
    assert_eq!(first.cluster, second.cluster);
    assert_ne!(first.id, second.id);
    let cluster = centre.json(&["describe", "cluster", "c2"]).await;
    assert_eq!(cluster["spec"]["accepted"], false, "it must be accepted again");
    assert_eq!(cluster["spec"]["labels"]["env"], "test");
    let (code, _, err) = centre.said(&["clusters", "replace", "nobody"]).await;
    assert_eq!(code, 1);
    assert!(err.starts_with("error: not found"), "{err}");
    centre.end().await;
}

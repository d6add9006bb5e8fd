//! The store backed up, changed, and brought back.

use control_plane::config::StoreChoice;
use serde_json::Value;
use tempfile::TempDir;

use super::Centre;

async fn on_disk(folder: TempDir) -> Centre {
    let data_dir = folder.path().join("data");
    let centre = Centre::start_in(folder, StoreChoice::Embedded { data_dir }).await;
    centre.login().await;
    centre
}

/// A command that needs no control plane.
fn offline(args: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_faultline"))
        .args(args)
        .env_clear()
        .output()
        .expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_back_halted_and_without_tokens() {
    let centre = on_disk(TempDir::new().expect("a folder")).await;
    centre.ok(&["clusters", "invite", "c2"]).await;
    centre.ok(&["clusters", "accept", "c2"]).await;
    centre.ok(&["apply", "-f", "good.yaml"]).await;
    let (data, backup) = (centre.path("data"), centre.path("backup.redb"));
    let (code, _, err) = offline(&["store", "backup", "--data-dir", &data, "--out", &backup]);
    assert_eq!(code, Some(1), "while it is served: {err}");
    assert!(!std::path::Path::new(&backup).exists());

    let folder = centre.stop().await;
    let (code, said, err) = offline(&["store", "backup", "--data-dir", &data, "--out", &backup]);
    assert_eq!(code, Some(0), "{said}{err}");
    let (code, ..) = offline(&["store", "backup", "--data-dir", &data, "--out", &backup]);
    assert_eq!(code, Some(2), "a backup is never overwritten");

    let centre = on_disk(folder).await;
    centre.ok(&["clusters", "invite", "c3"]).await;
    centre.ok(&["delete", "experiment", "slow-payments"]).await;
    let folder = centre.stop().await;
    let (code, said, err) =
        offline(&["store", "restore", "--data-dir", &data, "--from", &backup, "-o", "json"]);
    assert_eq!(code, Some(0), "{said}{err}");
    let restored: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(restored["clusters"], serde_json::json!(["c2"]));
    assert_eq!(restored["tokensBurnt"], 1);
    let halt = restored["halt"].as_str().expect("an id").to_owned();
    assert!(std::path::Path::new(&data).join("faultline.redb.before-restore-1").exists());

    let centre = on_disk(folder).await;
    assert_eq!(centre.json(&["halt", "status"]).await[0]["halt"]["id"], halt.as_str());
    assert_eq!(centre.json(&["clusters", "list"]).await.as_array().expect("a list").len(), 1);
    let (code, out, _) = centre.said(&["run", "slow-payments"]).await;
    assert_eq!(code, 5, "{out}");
    assert!(out.contains("Halted"), "{out}");
    centre.ok(&["halt", "release", &halt]).await;
    let (code, out, _) = centre.said(&["run", "slow-payments"]).await;
    assert_eq!(code, 5, "{out}");
    assert!(!out.contains("Halted"), "now for want of a connected cluster: {out}");
    centre.end().await;
}

#[test]
fn what_is_no_store_is_not_restored() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("no-store"), "not a store at all").expect("a file");
    for from in ["no-store", "absent"] {
        let (code, _, err) =
            offline(&["store", "restore", "--data-dir", &path("data"), "--from", &path(from)]);
        assert_eq!(code, Some(1), "{err}");
        assert!(!std::path::Path::new(&path("data")).join("faultline.redb").exists());
    }
    let (code, ..) = offline(&["store", "backup", "--data-dir", &path("data"), "--out", &path("out")]);
    assert_eq!(code, Some(1));
    assert!(!std::path::Path::new(&path("out")).exists(), "nothing is made up");
    let (code, _, err) = offline(&["store", "mark-restored"]);
    assert_eq!(code, Some(2), "{err}");
}

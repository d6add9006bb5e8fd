//! `apply -f DIR --owner NAME --prune`: what the owner declared is what is there, and what is another's stays.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Centre;

const GOOD: &str = include_str!("../files/good.yaml");

fn grant(name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: faultline.dev/v1alpha1\nkind: Grant\nmetadata: {{ name: {name} }}\nspec:\n  from: {{ operators: [\"*\"] }}\n  to: {{ clusters: {{ names: [c2] }}, namespaces: [{namespace}], kinds: [pod.kill], maxTargets: 3 }}\n"
    )
}

fn folder(centre: &Centre, name: &str, files: &[(&str, &str)]) -> String {
    let folder: PathBuf = Path::new(&centre.path(name)).to_owned();
    std::fs::create_dir_all(&folder).expect("a folder");
    for (file, text) in files {
        std::fs::write(folder.join(file), text).expect("a file");
    }
    folder.display().to_string()
}

async fn names(centre: &Centre, noun: &str) -> Vec<String> {
    let listed = centre.json(&["get", noun]).await;
    let names = listed.as_array().expect("a list").iter();
    names.map(|thing| thing["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_is_what_is_there() {
    let centre = Centre::start().await;
    centre.login().await;
    // By hand, and by another owner: never touched.
    let others = folder(&centre, "others", &[("g.yaml", &grant("theirs", "shop"))]);
    centre.ok(&["apply", "-f", &others, "--owner", "team-b"]).await;
    let by_hand = folder(&centre, "by-hand", &[("g.yaml", &grant("by-hand", "shop"))]);
    centre.ok(&["apply", "-f", &by_hand]).await;

    let files = [("a.yaml", GOOD), ("b.yml", &grant("one", "shop")), ("c.yaml", &grant("two", "shop"))];
    let ours = folder(&centre, "ours", &files);
    let apply = ["apply", "-f", &ours, "--owner", "team-a", "--prune"];
    let dry = [&apply[..], &["--dry-run"]].concat();
    let created = "experiment/slow-payments created\ngrant/one created\ngrant/two created\n";
    assert_eq!(centre.ok(&dry).await, created.replace('\n', " (dry run)\n"));
    assert_eq!(names(&centre, "grants").await, ["by-hand", "theirs"], "a dry run changes nothing");
    assert_eq!(centre.ok(&apply).await, created);
    let again = centre.ok(&apply).await;
    assert_eq!(again, created.replace("created", "unchanged"), "the second time there is nothing to do");
    let audited = |audit: &Value| {
        let records = audit.as_array().expect("a list").iter();
        records.filter(|record| record["action"] == "grant.put").count()
    };
    assert!(audited(&centre.json(&["get", "audit"]).await) <= 4, "and nothing is written");

    // One changes, one goes, the definition goes.
    std::fs::write(Path::new(&ours).join("b.yml"), grant("one", "web")).expect("a file");
    std::fs::remove_file(Path::new(&ours).join("a.yaml")).expect("it was there");
    std::fs::remove_file(Path::new(&ours).join("c.yaml")).expect("it was there");
    let changes = centre.json(&[&dry[..], &[]].concat()).await;
    let change = |index: usize| (changes[index]["name"].clone(), changes[index]["change"].clone());
    assert_eq!(change(0), ("one".into(), "changed".into()));
    assert_eq!(change(1), ("slow-payments".into(), "pruned".into()));
    assert_eq!(change(2), ("two".into(), "pruned".into()));
    let out = centre.ok(&apply).await;
    assert_eq!(out, "grant/one changed\nexperiment/slow-payments pruned\ngrant/two pruned\n");
    assert_eq!(names(&centre, "grants").await, ["by-hand", "one", "theirs"]);
    assert!(names(&centre, "experiments").await.is_empty());
    centre.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anothers_is_refused_before_anything_is_changed() {
    let centre = Centre::start().await;
    centre.login().await;
    let theirs = folder(&centre, "theirs", &[("g.yaml", &grant("shared", "shop"))]);
    centre.ok(&["apply", "-f", &theirs, "--owner", "team-b"]).await;
    let files = [("a.yaml", grant("aaa", "shop")), ("b.yaml", grant("shared", "web"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let ours = folder(&centre, "ours", &files);
    let (code, _, err) = centre.said(&["apply", "-f", &ours, "--owner", "team-a"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("grant/shared is owned by team-b") && err.contains("nothing was changed"), "{err}");
    assert_eq!(names(&centre, "grants").await, ["shared"]);

    // A change by hand keeps the owner, and the owner's next apply takes it back.
    let edited = folder(&centre, "edited", &[("g.yaml", &grant("shared", "web"))]);
    assert_eq!(centre.ok(&["apply", "-f", &edited]).await, "grant/shared changed\n");
    assert_eq!(centre.ok(&["apply", "-f", &theirs, "--owner", "team-b"]).await, "grant/shared changed\n");
    centre.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_of_every_file_is_told_at_once_and_an_empty_folder_prunes_nothing() {
    let centre = Centre::start().await;
    centre.login().await;
    let two = [
        ("a.yaml", grant("one", "shop")),
        ("b.yaml", grant("one", "web")),
        ("c.yaml", "kind: Grunt\n".to_owned()),
    ];
    let two: Vec<(&str, &str)> = two.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let ours = folder(&centre, "ours", &two);
    let (code, _, err) = centre.said(&["apply", "-f", &ours, "--owner", "team-a"]).await;
    assert_eq!(code, 1, "a file is wrong");
    assert!(err.contains("Grant one is declared in") && err.contains("c.yaml"), "{err}");

    let good = folder(&centre, "good", &[("a.yaml", &grant("one", "shop"))]);
    centre.ok(&["apply", "-f", &good, "--owner", "team-a"]).await;
    let empty = folder(&centre, "empty", &[("README.md", "nothing")]);
    let (code, _, err) = centre.said(&["apply", "-f", &empty, "--owner", "team-a", "--prune"]).await;
    assert_eq!(code, 2);
    assert!(err.contains("holds no *.yaml"), "{err}");
    assert_eq!(names(&centre, "grants").await, ["one"]);
    let (code, _, err) = centre.said(&["apply", "-f", &good, "--prune"]).await;
    assert_eq!(code, 2, "pruning needs an owner: {err}");
    let other = folder(&centre, "other", &[("a.yaml", &grant("two", "shop"))]);
    let (code, _, err) = centre.said(&["apply", "-f", &other, "--owner", "Not A Name"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("owner"), "{err}");
    centre.end().await;
}

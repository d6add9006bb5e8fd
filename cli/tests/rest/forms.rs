//! Every verb that says something in JSON says nothing but JSON.

use serde_json::Value;

use super::Centre;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_in_json_or_yaml_is_that_and_nothing_else() {
    let centre = Centre::start().await;
    centre.login().await;
    for args in [
        ["validate", "-f", "good.yaml"].as_slice(),
        &["apply", "-f", "good.yaml"],
        &["version"],
        &["faults"],
        &["context"],
        &[
            "grant",
            "g",
            "--from-operator",
            "ann",
            "--to-cluster",
            "c2",
            "--to-namespace",
            "shop",
            "--kind",
            "*",
        ],
        &["clusters", "invite", "c2"],
        &["clusters", "replace", "c2"],
        &["clusters", "accept", "c2"],
        &["clusters", "list"],
        &["describe", "cluster", "c2"],
        &["get", "clusters", "c2"],
        &["run", "slow-payments", "--run-name", "one", "--no-wait"],
        &["stop", "one"],
        &["describe", "run", "one"],
        &["get", "runs"],
        &["get", "experiments"],
        &["get", "grants"],
        &["get", "audit"],
        &["audit", "list"],
        &["audit", "verify"],
        &["halt", "set", "--fleet", "--id", "h1", "--no-wait"],
        &["halt", "status"],
        &["get", "halts"],
        &["halt", "release", "h1"],
        &["operators", "create", "ann", "--role", "viewer"],
        &["operators", "rotate", "ann"],
        &["operators", "list"],
        &["operators", "revoke", "ann"],
        &["clusters", "revoke", "c2"],
        &["clusters", "remove", "c2"],
        &["delete", "grant", "g"],
        &["delete", "experiment", "slow-payments"],
    ] {
        let value = centre.json(args).await;
        assert!(value.is_object() || value.is_array(), "{args:?}: {value}");
    }
    for args in [["version"].as_slice(), &["context"], &["get", "audit"], &["halt", "status"]] {
        let out = centre.ok(&[args, &["-o", "yaml"]].concat()).await;
        serde_saphyr::from_str::<Value>(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"));
    }
    centre.end().await;
}

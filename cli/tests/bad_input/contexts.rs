//! The file of contexts: broken, of the wrong kind, or open to others.

use crate::fake::{Fake, Says};
use crate::world::{Ran, TOKEN, World};

const WHO: &str = r#"{"name":"ann","role":"viewer"}"#;

async fn lists(world: &World) -> Ran {
    world.run(&["context", "-o", "json"], &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_named_with_the_way_out_and_nobody_is_asked() {
    let fake = Fake::start(|_| Says::json(WHO)).await;
    let world = World::new(&fake);
    let deep = "[".repeat(200_000);
    let token = format!(
        "{{\"current\":\"it\",\"contexts\":{{\"it\":{{\"server\":\"https://a\",\"token\":[\"{TOKEN}\"]}}}}}}"
    );
    let big = vec![b' '; 50 << 20];
    for bytes in [
        b"".as_slice(),
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{\"current\": 5}",
        deep.as_bytes(),
        token.as_bytes(),
        &big,
    ] {
        world.write("contexts.json", bytes);
        world.mode("contexts.json", 0o600);
        let login = ["login", &fake.server, "--pin", &fake.pin, "--token-file", "token"];
        for args in [["context"].as_slice(), &["get", "runs"], &["doctor"], &login] {
            let ran = world.run(args, &[]).await;
            assert_eq!(ran.flaws(), Vec::<String>::new());
            let said = format!("{}{}", ran.err, ran.out);
            assert!(said.contains("contexts.json"), "{}: {said}", ran.line);
        }
        let found = std::fs::read(world.path("contexts.json")).expect("it is there");
        assert!(found == bytes, "a file that cannot be read is never overwritten");
    }
    assert!(fake.asked().is_empty(), "{:?}", fake.asked());
    let (folder, none) = (world.path(""), world.path("token/below"));
    for path in [folder, none] {
        for args in [["context"].as_slice(), &["get", "runs"]] {
            let ran = world.run(args, &[("FAULTLINE_CONFIG", path.as_os_str())]).await;
            assert_eq!(ran.flaws(), Vec::<String>::new());
            assert!(ran.err.contains(&*path.to_string_lossy()), "{}: {}", ran.line, ran.err);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_others_may_write_is_refused_and_one_that_others_may_read_is_told() {
    let fake = Fake::start(|_| Says::json(WHO)).await;
    let world = World::new(&fake);
    for mode in [0o602, 0o620, 0o666] {
        world.mode("contexts.json", mode);
        let ran = world.run(&["get", "runs"], &[]).await;
        assert_eq!(ran.flaws(), Vec::<String>::new());
        assert!(ran.err.contains("chmod 600"), "{}", ran.err);
    }
    assert!(fake.asked().is_empty(), "the token went nowhere");
    for (mode, is_told) in [(0o644, true), (0o640, true), (0o604, true), (0o600, false), (0o400, false)] {
        world.mode("contexts.json", mode);
        let ran = lists(&world).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_eq!(ran.err.contains("chmod 600"), is_told, "{mode:o}: {}", ran.err);
        serde_json::from_str::<serde_json::Value>(&ran.out).expect("a warning is no data");
    }
    world.mode("contexts.json", 0o644);
    let login = ["login", &fake.server, "--pin", &fake.pin, "--token-file", "token"];
    assert_eq!(world.run(&login, &[]).await.code, 0);
    assert_eq!(lists(&world).await.err, "", "whoever logs in closes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_cannot_work_is_told_from_one_that_is_not_there() {
    let fake = Fake::start(|_| Says::json(WHO)).await;
    let world = World::new(&fake);
    for (server, pin, wanted) in [
        ("hub", fake.pin.as_str(), "https://host:port"),
        ("https://me:secret@hub", &fake.pin, "https://host:port"),
        ("https://hub/v1/", &fake.pin, "https://host:port"),
        (&fake.server, "sha256/x", "pin"),
    ] {
        world.context(server, pin);
        let ran = world.run(&["get", "runs"], &[]).await;
        assert_eq!(ran.flaws(), Vec::<String>::new());
        assert!(ran.err.contains(wanted), "{}", ran.err);
    }
    assert!(fake.asked().is_empty());
    let proxy = [("HTTPS_PROXY", "ftp://me:hunter2@h".as_ref())];
    world.context(&fake.server, &fake.pin);
    let ran = world.run(&["get", "runs"], &proxy).await;
    assert_eq!((ran.code, ran.flaws()), (2, Vec::new()));
    assert!(ran.err.contains("HTTPS_PROXY") && !ran.err.contains("hunter2"), "{}", ran.err);
    // What pipelines' tracers set is not ours to refuse.
    let odd = [("TRACEPARENT", "\u{1b}[31m".as_ref())];
    let login = ["login", fake.server.as_str(), "--pin", &fake.pin, "--token-file", "token"];
    let ran = world.run(&login, &odd).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(fake.asked().iter().all(|asked| asked.header("traceparent").is_none()));
}

//! Every command that talks to a control plane, and what answers in its place: nobody, something else, something
//! broken, something that never ends, somebody who wants the token.

use std::sync::Arc;
use std::time::Duration;

use crate::fake::{Asked, Fake, Says};
use crate::rows::{Needs, ROWS, Row};
use crate::world::{Ran, World, all, none};

/// The command of a row, as a person would type it.
fn line(row: &Row, world: &World, server: &str, pin: &str) -> Vec<String> {
    let mut args: Vec<String> = row.words.split(' ').map(str::to_owned).collect();
    let positional = ["name", "id", "noun", "server"];
    for (id, value) in row.good {
        let value = match *value {
            "SERVER" => server.to_owned(),
            "PIN" => pin.to_owned(),
            other => other.replace("DIR", &world.path("").display().to_string()),
        };
        let long = if *id == "operator" { "from-operator".to_owned() } else { id.replace('_', "-") };
        match (positional.contains(id), value.is_empty()) {
            (true, _) => args.push(value),
            (false, true) => args.push(format!("--{long}")),
            (false, false) => args.push(format!("--{long}={value}")),
        }
    }
    args
}

/// Every command against this; what is wrong with how it took it.
async fn against(
    world: World,
    server: &str,
    pin: &str,
    check: impl Fn(&Ran) -> bool + Clone + Send + 'static,
) -> Vec<String> {
    let world = Arc::new(world);
    world.context(server, pin);
    let rows = ROWS.iter().filter(|row| row.needs == Needs::Centre);
    let cases = rows.map(|row| {
        let (world, check, args) = (world.clone(), check.clone(), line(row, &world, server, pin));
        async move {
            let ran = world.run(&args, &[]).await;
            let mut flaws = ran.flaws();
            if !check(&ran) {
                flaws.push(format!("{}: {}{}", ran.line, ran.out, ran.err));
            }
            flaws
        }
    });
    all(cases).await
}

/// Asked again at most so often, and for one effect by one key.
fn repeats(fake: &Fake) -> Vec<String> {
    let changes: Vec<Asked> = fake.asked().into_iter().filter(Asked::changes).collect();
    let mut flaws = Vec::new();
    for asked in &changes {
        let key = asked.header("idempotency-key");
        let same = changes.iter().filter(|c| {
            c.path == asked.path && c.method == asked.method && c.header("idempotency-key") == key
        });
        let count = same.count();
        if count > 4 || (asked.method == "POST" && key.is_none()) {
            flaws.push(format!("{count} times {} {}", asked.method, asked.path));
        }
    }
    flaws
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_none_end_every_command_with_an_error() {
    let html = "<html><body>Welcome to the hotel. \u{1b}[2J</body></html>";
    let cut =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{\"items\": [";
    let answers: Vec<(&str, Says)> = vec![
        ("a page", Says::answer("200 OK", "text/html", html)),
        ("a page that says 502", Says::answer("502 Bad Gateway", "text/html", html)),
        ("500 without a body", Says::answer("500 Internal Server Error", "text/plain", "")),
        ("half of an answer", Says::Bytes(cut.as_bytes().to_vec())),
        ("half of a document", Says::json("{\"items\": [{\"name\":")),
        ("another document", Says::json("{}")),
        ("no document", Says::json("null")),
        ("a number", Says::json("7")),
        ("deep", Says::json(&"[".repeat(200_000))),
        ("no HTTP", Says::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())),
        ("nothing at all", Says::Bytes(Vec::new())),
        (
            "a huge head",
            Says::Bytes(format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", "a".repeat(4 << 20)).into_bytes()),
        ),
    ];
    let mut found = Vec::new();
    for (what, says) in answers {
        let fake = Fake::start(move |_| says.clone()).await;
        let flaws = against(World::new(&fake), &fake.server, &fake.pin, |_| true).await;
        found.extend(flaws.into_iter().chain(repeats(&fake)).map(|flaw| format!("{what}: {flaw}")));
    }
    none(&found);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_do_not_end_are_bounded_in_memory_and_time() {
    const CHUNKED: &str =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend(vec![b' '; 0x10000]);
    chunk.extend(b"\r\n");
    let answers: Vec<(&str, Says)> = vec![
        ("silence", Says::Nothing),
        ("a flood", Says::Endless(CHUNKED, chunk, Duration::ZERO)),
        ("drops", Says::Endless(CHUNKED, b"1\r\n \r\n".to_vec(), Duration::from_millis(100))),
        (
            "a head in drops",
            Says::Endless("HTTP/1.1 200 OK\r\n", b"X-A: b\r\n".to_vec(), Duration::from_millis(100)),
        ),
    ];
    let mut found = Vec::new();
    for (what, says) in answers {
        let fake = Fake::start(move |_| says.clone()).await;
        let flaws = against(World::in_vain(&fake), &fake.server, &fake.pin, |_| true).await;
        found.extend(flaws.into_iter().map(|flaw| format!("{what}: {flaw}")));
    }
    none(&found);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_to_nobody_else() {
    let thief = Arc::new(Fake::start(|_| Says::json("{}")).await);
    // A redirect leads nowhere.
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let answer =
            format!("HTTP/1.1 {status}\r\nLocation: {}/v1/runs\r\nContent-Length: 0\r\n\r\n", thief.server);
        let fake = Fake::start(move |_| Says::Bytes(answer.clone().into_bytes())).await;
        let is_told = |ran: &Ran| format!("{}{}", ran.err, ran.out).contains("redirects");
        none(&against(World::new(&fake), &fake.server, &fake.pin, is_told).await);
        none(&repeats(&fake));
    }
    // Another authority's server at the address.
    let other = Fake::start(|_| Says::json("{}")).await;
    none(&against(World::new(&thief), &thief.server, &other.pin, |_| true).await);
    // A server of the right authority under another name.
    let elsewhere = thief.server.replace("localhost", "127.0.0.1");
    none(&against(World::new(&thief), &elsewhere, &thief.pin, |_| true).await);
    assert!(thief.asked().is_empty(), "{:?}", thief.asked());
    assert!(other.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_or_something_else_listens() {
    let fake = Fake::start(|_| Says::json("{}")).await;
    // Held, or somebody else could get it; it never listens.
    let mute = tokio::net::TcpSocket::new_v4().expect("a socket");
    mute.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let refusing = format!("https://localhost:{}", mute.local_addr().expect("bound").port());
    let at = refusing.trim_start_matches("https://").to_owned();
    let is_named = move |ran: &Ran| format!("{}{}", ran.err, ran.out).contains(&at);
    none(&against(World::new(&fake), &refusing, &fake.pin, is_named).await);
    // Plain HTTP on the port.
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("https://localhost:{}", plain.local_addr().expect("bound").port());
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    none(&against(World::new(&fake), &address, &fake.pin, |_| true).await);
    assert!(fake.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_goes_round_in_a_circle_ends() {
    let fake = Fake::start(|_| Says::json(r#"{"items": [], "next": "again"}"#)).await;
    let is_told = |ran: &Ran| ran.code == 9 || !ran.err.contains("circle") || ran.err.contains("goes round");
    none(&against(World::new(&fake), &fake.server, &fake.pin, is_told).await);
    let world = World::new(&fake);
    let ran = world.run(&["get", "experiments"], &[]).await;
    assert!(ran.err.contains("circle"), "{}", ran.err);
}

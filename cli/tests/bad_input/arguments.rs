//! Every argument of every command with every kind of bad value, by the flag and by its variable.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use crate::fake::{Fake, Says};
use crate::rows::{Kind, Needs, Row, beside, kind, of};
use crate::tree::{Leaf, leaves};
use crate::world::{Ran, World, all, none, os};

const BROKEN: &str = "a\u{1b}[31mb\u{9b}2J\u{7}";

/// Not text at all.
fn no_utf8() -> OsString {
    OsString::from_vec(vec![b'a', 0xff, 0xfe])
}

fn long() -> String {
    "a".repeat(100_000)
}

/// Files of every bad kind, and where no file is.
fn bad_files(world: &World) -> Vec<OsString> {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for n in 1..40 {
        let list = vec![format!("*a{}", n - 1); 9].join(",");
        writeln!(bomb, "a{n}: &a{n} [{list}]").expect("a string");
    }
    let files: [(&str, Vec<u8>); 7] = [
        ("bad-empty", Vec::new()),
        ("bad-text", vec![b'a', 0xff, 0xfe, b'\n']),
        ("bad-mib", vec![b'a'; 1 << 20]),
        ("bad-fifty", vec![b'b'; 50 << 20]),
        ("bad-bomb", bomb.into_bytes()),
        ("bad-deep", "[".repeat(100_000).into_bytes()),
        ("bad-maps", "{a: ".repeat(100_000).into_bytes()),
    ];
    let mut paths: Vec<OsString> = Vec::new();
    for (name, bytes) in files {
        let path = world.path(name);
        if !path.exists() {
            world.write(name, &bytes);
        }
        paths.push(path.into());
    }
    paths.extend(absent(world));
    paths
}

fn absent(world: &World) -> Vec<OsString> {
    let folder = world.path("bad-folder");
    std::fs::create_dir_all(&folder).expect("a folder");
    [world.path("absent"), folder, world.path("token/below")].map(OsString::from).into()
}

fn bad_values(world: &World, row: &Row, kind: Kind, id: &str) -> Vec<OsString> {
    let texts: Vec<String> = match kind {
        Kind::Flag => vec!["1".to_owned()],
        Kind::Choice => ["", "nope", BROKEN].map(str::to_owned).into(),
        Kind::Name => {
            let mut names =
                ["", "a/b", "..", ".", "a b?c#d%2e", "../../v1/halts", BROKEN].map(str::to_owned).to_vec();
            names.push(long());
            names
        }
        Kind::Local => vec![String::new(), "Not A Name!".to_owned(), BROKEN.to_owned(), long()],
        Kind::Duration => {
            ["", "0s", "-1s", "1", "soon", "1.5h", "99999999999999h", BROKEN].map(str::to_owned).into()
        }
        Kind::DurationOrNone => ["", "-1s", "1", "soon", "99999999999999h", BROKEN].map(str::to_owned).into(),
        Kind::Instant => ["", "tomorrow", "2026-13-01T00:00:00Z", "-1", BROKEN].map(str::to_owned).into(),
        Kind::Count => {
            ["", "0", "-1", "ten", "1.5", "4294967296", "99999999999999999999"].map(str::to_owned).into()
        }
        Kind::Pair => ["", "=", "=v", "k", BROKEN].map(str::to_owned).into(),
        Kind::Override => ["", "a", "=1", BROKEN].map(str::to_owned).into(),
        Kind::Address => ["", "host", "1.2.3.4", "1.2.3.4:99999", "[::1", BROKEN].map(str::to_owned).into(),
        Kind::HostPort => {
            ["", "host", "host:0", "host:99999", ":1", "https://h:1", BROKEN].map(str::to_owned).into()
        }
        Kind::Url => ["hub", "ftp://x", "https://", "https://a b", BROKEN].map(str::to_owned).into(),
        Kind::Pin => {
            vec![String::new(), "sha256/x".to_owned(), "md5/abc".to_owned(), BROKEN.to_owned(), long()]
        }
        Kind::Free => vec![String::new(), BROKEN.to_owned(), long()],
        Kind::File | Kind::MaybeFile | Kind::Secret | Kind::Read | Kind::Out => Vec::new(),
    };
    let mut values: Vec<OsString> = texts.iter().map(|text| os(text)).collect();
    match kind {
        Kind::File => values.extend(bad_files(world)),
        Kind::MaybeFile => {
            values.extend(bad_files(world).into_iter().filter(|path| *path != world.path("absent")));
        }
        Kind::Secret => values.extend(absent(world).into_iter().chain([world.path("bad-empty").into()])),
        Kind::Read => values.extend(absent(world)),
        Kind::Out => values.extend([os(""), world.path("token/below").into(), world.path("token").into()]),
        _ => {}
    }
    if kind == Kind::File && row.needs != Needs::Role && id != "from" {
        // Never ends.
        values.push(os("/dev/zero"));
    }
    // A path may be any bytes.
    if !matches!(kind, Kind::Flag | Kind::MaybeFile | Kind::Out) {
        values.push(no_utf8());
    }
    values
}

/// The command line of these arguments.
fn line(leaf: &Leaf, given: &[(String, OsString)]) -> Vec<OsString> {
    let mut words: Vec<OsString> = leaf.words.split(' ').map(os).collect();
    let mut positional = Vec::new();
    for (id, value) in given {
        let argument = leaf.arguments().find(|argument| argument.get_id() == id.as_str()).expect("it has it");
        match argument.get_long() {
            Some(long) if argument.get_action().takes_values() || !value.is_empty() => {
                let mut word = os(&format!("--{long}="));
                word.push(value);
                words.push(word);
            }
            Some(long) => words.push(os(&format!("--{long}"))),
            None => positional.push((argument.get_index(), value.clone())),
        }
    }
    positional.sort();
    if !positional.is_empty() {
        words.push(os("--"));
    }
    words.extend(positional.into_iter().map(|(_, value)| value));
    words
}

fn conflicts(leaf: &Leaf, a: &clap::Arg, b: &str) -> bool {
    let has =
        |of: &clap::Arg, id: &str| leaf.command.get_arg_conflicts_with(of).iter().any(|c| c.get_id() == id);
    let other = leaf.arguments().find(|argument| argument.get_id() == b);
    has(a, b) || other.is_some_and(|other| has(other, a.get_id().as_str()))
}

/// Everything that the command needs beside this argument.
fn around(
    leaf: &Leaf,
    row: &Row,
    argument: &clap::Arg,
    world: &World,
    fake: &Fake,
) -> Vec<(String, OsString)> {
    let id = argument.get_id().as_str();
    let extra = beside(&leaf.words, id);
    let is_else = |other: &str| other != id && !conflicts(leaf, argument, other);
    let displaced = |other: &str| {
        extra.iter().any(|(beside, _)| {
            let beside_is =
                leaf.arguments().find(|argument| argument.get_id() == *beside).expect("it has it");
            *beside == other || conflicts(leaf, beside_is, other)
        })
    };
    let good = row.good.iter().filter(|(other, _)| is_else(other) && !displaced(other));
    let all = good.chain(extra.iter().filter(|(other, _)| *other != id));
    all.map(|(id, value)| ((*id).to_owned(), filled(value, world, fake))).collect()
}

fn filled(value: &str, world: &World, fake: &Fake) -> OsString {
    let value = match value {
        "SERVER" => fake.server.clone(),
        "PIN" => fake.pin.clone(),
        other => other.replace("DIR", &world.path("").display().to_string()),
    };
    os(&value)
}

/// Whether a message says what it is about: the flag, the argument, its variable, the value or the field.
fn names(ran: &Ran, argument: &clap::Arg, value: &OsStr) -> bool {
    let id = argument.get_id().as_str();
    let text = value.to_string_lossy();
    let said = format!("{}{}", ran.err, ran.out);
    let long = argument.get_long().is_some_and(|long| said.contains(&format!("--{long}")));
    let upper = said.contains(&format!("<{}>", id.to_uppercase()))
        || said.contains(&format!("[{}]", id.to_uppercase()));
    let start: String = text.chars().take(30).collect();
    let escaped = start.escape_debug().to_string();
    let is_shown = said.contains(&start) || said.contains(&escaped) || said.contains("not UTF-8");
    // A value that is larger than a whole definition is told as that.
    let quoted = !start.is_empty() && (is_shown || said.contains("spec: is "));
    long || upper
        || quoted
        || said.contains(id)
        || argument.get_env().is_some_and(|env| said.contains(&*env.to_string_lossy()))
}

/// What has to be named: what is looked at here. A name is the centre's to refuse.
fn must_be_named(kind: Kind) -> bool {
    !matches!(kind, Kind::Name | Kind::Free | Kind::Out)
}

struct Case {
    argument: clap::Arg,
    kind: Kind,
    value: OsString,
    args: Vec<OsString>,
    env: Option<(String, OsString)>,
}

impl Case {
    async fn flaws(self, world: Arc<World>) -> Vec<String> {
        let env: Vec<(&str, &OsStr)> =
            self.env.iter().map(|(name, value)| (name.as_str(), value.as_os_str())).collect();
        let ran = world.run(&self.args, &env).await;
        let mut flaws = ran.flaws();
        if must_be_named(self.kind) && !names(&ran, &self.argument, &self.value) {
            flaws.push(format!("{}: names neither flag, value nor field: {}", ran.line, ran.err));
        }
        flaws
    }
}

fn cases(world: &World, fake: &Fake) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut variables = std::collections::BTreeSet::new();
    for leaf in leaves() {
        let Some(row) = of(&leaf.words) else { continue };
        if row.needs == Needs::Skipped || leaf.words == "worker" {
            continue;
        }
        // The same arguments as of the role itself.
        if leaf.words.starts_with("doctor ") {
            continue;
        }
        for argument in leaf.arguments() {
            if argument.is_global_set() && leaf.words != "get" {
                continue;
            }
            // That there is one is tested beside the tree.
            let Some(kind) = kind(&leaf.words, argument) else { continue };
            let given = around(&leaf, row, argument, world, fake);
            let id = argument.get_id().to_string();
            for value in bad_values(world, row, kind, &id) {
                let (argument, with) =
                    (argument.clone(), [given.clone(), vec![(id.clone(), value.clone())]].concat());
                cases.push(Case { args: line(&leaf, &with), argument, kind, value, env: None });
            }
            let Some(name) = argument.get_env().filter(|_| kind != Kind::Flag) else { continue };
            let name = name.to_string_lossy().into_owned();
            if variables.insert((name.clone(), kind as u8)) {
                let value = bad_values(world, row, kind, &id)
                    .into_iter()
                    .find(|value| !value.is_empty())
                    .expect("one");
                let no_text = (kind != Kind::MaybeFile && kind != Kind::Out).then(no_utf8);
                for value in [Some(value), no_text].into_iter().flatten() {
                    let (args, env) = (line(&leaf, &given), Some((name.clone(), value.clone())));
                    cases.push(Case { args, argument: argument.clone(), kind, value, env });
                }
            }
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn every_argument_is_refused_when_it_is_bad() {
    let fake = Fake::start(|_| Says::not_found()).await;
    let world = Arc::new(World::new(&fake));
    let found = all(cases(&world, &fake).into_iter().map(|case| case.flaws(world.clone()))).await;
    // Whatever a name is, it stays one segment of a known path, and nobody gets the token in a path.
    let mut flaws = found;
    for asked in fake.asked() {
        let path = asked.path.split('?').next().unwrap_or_default().to_owned();
        let segments: Vec<&str> = path.split('/').collect();
        let is_known = segments.get(1) == Some(&"v1") && (3..=5).contains(&segments.len());
        let is_clean =
            segments[1..].iter().all(|segment| !segment.is_empty() && *segment != ".." && *segment != ".");
        if !is_known || !is_clean || !asked.path.is_ascii() {
            flaws.push(format!("{} {}", asked.method, asked.path));
        }
        let to_halts = segments.get(2) == Some(&"halts")
            && asked.method == "DELETE"
            && !asked.head.contains("DELETE /v1/halts/");
        if to_halts {
            flaws.push(format!("a name led elsewhere: {}", asked.path));
        }
    }
    none(&flaws);
    assert!(!world.path("data").join("restoring").exists(), "what cannot be restored leaves nothing");
    assert_eq!(
        std::fs::metadata(world.path("bad-empty")).expect("it is there").len(),
        0,
        "a backup is only read"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_in_conflict_is_named_and_nothing_is_asked() {
    let fake = Fake::start(|_| Says::not_found()).await;
    let world = Arc::new(World::new(&fake));
    let mut cases: Vec<(Vec<OsString>, Vec<String>)> = Vec::new();
    for leaf in leaves() {
        let Some(row) = of(&leaf.words) else { continue };
        if row.needs == Needs::Skipped || leaf.words == "worker" {
            continue;
        }
        let shown = |argument: &clap::Arg| {
            argument.get_long().map_or_else(
                || format!("<{}>", argument.get_id().as_str().to_uppercase()),
                |long| format!("--{long}"),
            )
        };
        for argument in leaf.arguments() {
            let given = around(&leaf, row, argument, &world, &fake);
            if argument.is_required_set() {
                cases.push((line(&leaf, &given), vec![shown(argument)]));
            }
            for other in leaf.command.get_arg_conflicts_with(argument) {
                let value = |argument: &clap::Arg| {
                    if argument.get_action().takes_values() { os("c1") } else { os("") }
                };
                let id = |argument: &clap::Arg| argument.get_id().to_string();
                let mut both = vec![(id(argument), value(argument)), (id(other), value(other))];
                both.extend(
                    beside(&leaf.words, other.get_id().as_str())
                        .iter()
                        .filter(|(beside, _)| argument.get_id() != beside)
                        .map(|(id, value)| ((*id).to_owned(), filled(value, &world, &fake))),
                );
                cases.push((line(&leaf, &both), vec![]));
            }
        }
    }
    assert!(cases.len() > 30, "{}", cases.len());
    let found = all(cases.into_iter().map(|(args, wanted)| {
        let world = world.clone();
        async move {
            let ran = world.run(&args, &[]).await;
            let mut flaws = ran.flaws();
            if ran.code != 2 || !wanted.iter().all(|word| ran.err.contains(word)) {
                flaws.push(format!("{}: exit {}, wanted {wanted:?}: {}", ran.line, ran.code, ran.err));
            }
            flaws
        }
    }))
    .await;
    none(&found);
    assert!(fake.asked().is_empty(), "{:?}", fake.asked());
}

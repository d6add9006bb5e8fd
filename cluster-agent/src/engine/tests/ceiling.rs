//! The Ceiling, beside the table of what it refuses: whom it lets in, where probes may go, what just fits, and that it
//! counts at the start as it did in the plan.

use std::sync::Arc;

use proto::assignment::{Intent, Outcome};
use proto::ceiling::{CeilingFrom, CeilingSpec};
use proto::plan::refusal;
use proto::quantity::Span;
use proto::selector::ClusterSelector;
use serde_json::{Value, json};

use super::tables::{ceil, refusals};
use super::world::{AT_MOST, World, delay};
use crate::cluster::CeilingSeen;
use crate::engine::{Effect, Event};

const NONE: [&str; 0] = [];

#[test]
fn what_just_fits_is_allowed_and_nothing_is_by_default() {
    let exact = |c: &mut CeilingSpec| {
        (c.max_targets, c.max_duration) = (Some(AT_MOST as i64), Some(Span::written("30s")));
        c.kinds = vec!["network.delay".into()];
    };
    assert_eq!(refusals(delay(), |w| ceil(w, exact)), NONE);
    for nothing in [
        |c: &mut CeilingSpec| c.kinds.clear(),
        |c: &mut CeilingSpec| c.namespaces.clear(),
        |c: &mut CeilingSpec| c.from.clear(),
        |c: &mut CeilingSpec| c.max_targets = Some(0),
        |c: &mut CeilingSpec| c.max_targets = Some(-1),
        |c: &mut CeilingSpec| c.max_duration = Some(Span::written("for ever")),
        |c: &mut CeilingSpec| c.kinds = vec!["network".into()],
        |c: &mut CeilingSpec| c.namespaces = vec!["sho".into()],
    ] {
        assert_eq!(refusals(delay(), |w| ceil(w, nothing)), [refusal::ABOVE_CEILING]);
    }
}

/// The codes of a plan that an author in namespace `shop` of cluster `hub` asks for.
fn authored(from: &[CeilingFrom]) -> Vec<String> {
    let mut world = World::new(delay());
    world.take(Event::LinkUp { accepted: true });
    world.node_up();
    ceil(&mut world, |c| c.from = from.to_vec());
    let mut desired = world.desired("r1", Intent::Plan);
    desired.origin.cluster = Some("hub".into());
    desired.origin.namespace = Some("shop".into());
    desired.origin.labels = [("env".to_owned(), "test".to_owned())].into();
    world.take(Event::Desired { desired: Box::new(desired), start_within_ms: 0 });
    world.settle();
    let plan = world.run("r1").plan.clone().expect("a plan");
    plan.refusals.into_iter().map(|r| r.code).collect()
}

#[test]
fn whom_it_lets_in() {
    let named = |name: &str| ClusterSelector { names: vec![name.into()], ..ClusterSelector::default() };
    let labelled = |env: &str| ClusterSelector {
        label_selector: Some(serde_json::from_value(json!({ "matchLabels": { "env": env } })).unwrap()),
        ..ClusterSelector::default()
    };
    let of = |clusters: ClusterSelector, namespaces: &[&str]| CeilingFrom {
        central: None,
        clusters: Some(clusters),
        namespaces: namespaces.iter().map(|n| (*n).to_owned()).collect(),
    };
    for good in [of(named("hub"), &["shop"]), of(named("hub"), &["*"]), of(labelled("test"), &["shop"])] {
        assert_eq!(authored(std::slice::from_ref(&good)), NONE, "{good:?}");
        let central = refusals(delay(), |w| ceil(w, |c| c.from = vec![good.clone()]));
        assert_eq!(central, [refusal::ABOVE_CEILING], "an operator is no author: {good:?}");
    }
    for bad in [
        of(named("other"), &["shop"]),
        of(named("hub"), &["bank"]),
        of(named("hub"), &[]),
        of(labelled("prod"), &["*"]),
        of(ClusterSelector::default(), &["*"]),
        CeilingFrom { central: Some(true), ..CeilingFrom::default() },
        CeilingFrom { namespaces: vec!["*".into()], ..CeilingFrom::default() },
    ] {
        assert_eq!(authored(std::slice::from_ref(&bad)), [refusal::ABOVE_CEILING], "{bad:?}");
    }
}

fn asking(url: &str) -> Value {
    let mut spec = delay();
    spec["steadyState"] = json!([{ "name": "answers", "http": { "url": url } }]);
    spec
}

#[test]
fn probes_go_to_the_targets_services_and_where_the_owner_says() {
    let own = asking("http://checkout.shop:8080/");
    assert_eq!(refusals(own, |_| {}), NONE);
    let other = || asking("http://status.example.com/");
    assert_eq!(refusals(other(), |_| {}), [refusal::PROBE_HOST]);
    let listed = |hosts: &[&str]| {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        refusals(other(), |w| ceil(w, |c| c.probe_hosts = hosts))
    };
    assert_eq!(listed(&["status.example.com:80"]), NONE);
    assert_eq!(listed(&["status.example.com:81", "example.com"]), [refusal::PROBE_HOST]);
    let metadata = refusals(asking("http://169.254.169.254/"), |w| {
        ceil(w, |c| c.probe_hosts = vec!["169.254.169.254".into()]);
    });
    assert_eq!(metadata, [refusal::PROBE_HOST], "whoever lists it");
}

/// The owner changes their mind between plan and start.
#[test]
fn a_ceiling_that_was_lowered_since_the_plan_denies_the_start() {
    let lowered = |change: fn(&mut CeilingSpec)| {
        let mut spec = super::world::ceiling_spec();
        change(&mut spec);
        CeilingSeen::Present(Arc::new(spec))
    };
    for (now, code) in [
        (CeilingSeen::Absent, refusal::NO_CEILING),
        (CeilingSeen::Unknown, refusal::NO_CEILING),
        (lowered(|c| c.kinds = vec!["pod.kill".into()]), refusal::ABOVE_CEILING),
        (lowered(|c| c.max_targets = Some(1)), refusal::ABOVE_CEILING),
        (lowered(|c| c.from.clear()), refusal::ABOVE_CEILING),
    ] {
        let mut world = World::new(delay());
        world.take(Event::LinkUp { accepted: true });
        world.node_up();
        world.want("r1", Intent::Plan, 0);
        world.settle();
        world.take(Event::Ceiling(now.clone()));
        world.want("r1", Intent::Start, 60_000);
        world.settle();
        let over = world.run("r1");
        assert_eq!((over.outcome, over.reason.as_str()), (Some(Outcome::Denied), code), "{now:?}");
        assert!(!world.log.iter().any(|effect| matches!(effect, Effect::Inject { .. })));
    }
}

//! Whatever goes wrong between a coordinator and its CA, at whichever request: it ends in a
//! certificate, or in one clear reason with its next attempt, and never in a second order for the
//! same intent.
//!
//! Each case is a row: one fault, at one kind of request. It has a gate, an issuer with an account
//! of its own, and a certificate; all rows of a test run side by side on one coordinator and one
//! Pebble, which refuses every fifth good nonce on top.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chancery_shared::clock::{Clock as _, SystemClock};
use chancery_tests::gate::{Answer, Endpoint, Gate, Hold, Moment};
use chancery_tests::scene::{self, Scene};
use chancery_tests::wait;
use chancery_tests::world::server_name;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::Value;
use tokio::time::Instant;

use crate::center::{Center, Event, Options, certificate, count};

/// All requests of an order, the one that makes its account included.
const REQUESTS: [Endpoint; 9] = [
    Endpoint::Directory,
    Endpoint::NewNonce,
    Endpoint::NewAccount,
    Endpoint::NewOrder,
    Endpoint::Authorization,
    Endpoint::Challenge,
    Endpoint::Order,
    Endpoint::Finalize,
    Endpoint::Certificate,
];

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// 429 with a Retry-After in seconds.
    RateLimited,
    /// 429 with a date in Retry-After.
    RateLimitedUntil,
    /// 503 with a Retry-After in seconds.
    Unavailable,
    /// 500, twice.
    Broken,
    /// Four good nonces refused, one after the other: more than the client library tries.
    BadNonces,
    /// The connection ends before the CA has got the request.
    Cut,
    /// The connection ends after the CA has done what was asked.
    AnswerCut,
    /// Half an answer, after the CA has done what was asked.
    Garbled,
    /// The sign-in page of a proxy, with status 200.
    Page,
    /// The CA has done what was asked, and says so long after the time-out.
    Slow,
    /// The order turns invalid.
    Invalid,
}

impl Fault {
    const EVERYWHERE: [Self; 10] = [
        Self::RateLimited,
        Self::RateLimitedUntil,
        Self::Unavailable,
        Self::Broken,
        Self::BadNonces,
        Self::Cut,
        Self::AnswerCut,
        Self::Garbled,
        Self::Page,
        Self::Slow,
    ];

    /// Whether it can strike there.
    fn strikes(self, at: Endpoint) -> bool {
        match self {
            // Only what is signed has a nonce.
            Self::BadNonces => !matches!(at, Endpoint::Directory | Endpoint::NewNonce),
            // The answer to a HEAD has no body.
            Self::Garbled | Self::Page => at != Endpoint::NewNonce,
            Self::Invalid => matches!(at, Endpoint::Order | Endpoint::Finalize),
            _ => true,
        }
    }

    /// Whether the CA may have done what it was asked to, for all that the coordinator knows.
    fn is_ambiguous(self) -> bool {
        matches!(self, Self::Cut | Self::AnswerCut | Self::Garbled | Self::Page | Self::Slow)
    }

    fn answer(self) -> Result<Option<(usize, Answer)>> {
        let retry_after = Some(PATIENCE_SECS.to_string());
        Ok(Some(match self {
            Self::RateLimited => (1, Answer::TooManyRequests { retry_after }),
            Self::RateLimitedUntil => {
                // Rounded down to a second. Far enough away that all cases have begun by then.
                let until = SystemClock::new().now() + Duration::from_secs(UNTIL_SECS + 1);
                let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&until)?;
                (1, Answer::TooManyRequests { retry_after: Some(date) })
            }
            Self::Unavailable => (1, Answer::Unavailable { retry_after }),
            Self::Broken => (2, Answer::ServerInternal),
            Self::BadNonces => (4, Answer::BadNonce),
            Self::Cut => (1, Answer::Cut),
            Self::AnswerCut => (1, Answer::CutAfter),
            Self::Garbled => (1, Answer::Garbled),
            Self::Page => (1, Answer::Instead { content_type: "text/html", body: PAGE.to_owned() }),
            Self::Invalid => {
                let body = INVALID_ORDER.to_owned();
                (1, Answer::Instead { content_type: "application/json", body })
            }
            Self::Slow => return Ok(None),
        }))
    }

    /// What the reason has to say when the fault stays.
    fn reason(self, at: Endpoint) -> &'static str {
        match self {
            // The answer to a HEAD has no body.
            Self::Broken if at == Endpoint::NewNonce => "500 Internal Server Error: no reason",
            Self::RateLimited | Self::RateLimitedUntil => "too many requests, says the gate",
            Self::Unavailable => "busy, says the gate",
            Self::Broken => "broken, says the gate",
            Self::BadNonces => "does not like this nonce",
            Self::Cut | Self::AnswerCut => "cannot talk to 127.0.0.1",
            Self::Garbled => "answer",
            Self::Page => "Sign in",
            Self::Slow => "no answer from 127.0.0.1",
            Self::Invalid => "turned invalid, says the gate",
        }
    }
}

/// One fault at one kind of request.
struct Case {
    name: String,
    fault: Fault,
    at: Endpoint,
    gate: Gate,
    /// Holds the answer back.
    slow: Option<Hold>,
    armed_at: (Instant, Timestamp),
}

impl Case {
    async fn new(center: &Center, fault: Fault, at: Endpoint) -> Result<Self> {
        let name = format!("{fault:?}-{at:?}").to_lowercase();
        let gate = Gate::open(center.pebble.address(), center.pebble.https_root()).await?;
        let armed_at = (Instant::now(), SystemClock::new().now());
        Ok(Self { name, fault, at, gate, slow: None, armed_at })
    }

    /// Lets the fault strike `times` times as often as it does by itself.
    fn arm(&mut self, times: usize) -> Result<()> {
        self.armed_at = (Instant::now(), SystemClock::new().now());
        match self.fault.answer()? {
            Some((each, answer)) => {
                self.gate.answer(self.at, each.saturating_mul(times), answer);
            }
            None => self.slow = Some(self.gate.hold(self.at, Moment::After)),
        }
        Ok(())
    }

    fn declaration(&self, center: &Center) -> Result<String> {
        let (ours, common) = (self.gate.directory(), center.gate.directory());
        let issuer = center.declaration(&[])?.replace(&common, &ours);
        let issuer = issuer.replace("\"pebble\"", &format!("{:?}", self.name));
        Ok(format!("{issuer}{}\n", certificate(&self.name, &self.name, "")))
    }

    /// How many intents to order there have to be when the fault has struck once.
    fn intents(&self) -> usize {
        let lost = self.at == Endpoint::NewOrder && self.fault.is_ambiguous();
        if lost || self.fault == Fault::Invalid { 2 } else { 1 }
    }

    /// Whether there can be a certificate in the end although the fault stays: what was asked was
    /// done, and another answer shows that.
    fn may_end_well(&self) -> bool {
        matches!(self.fault, Fault::AnswerCut | Fault::Garbled)
            && matches!(self.at, Endpoint::Challenge | Endpoint::Finalize)
    }

    /// Orders that the CA has really made, on behalf of this case.
    fn orders(&self) -> usize {
        self.gate.succeeded(Endpoint::NewOrder)
    }

    /// Whether the CA was left alone for as long as it has asked.
    fn check_patience(&self) -> Result<()> {
        let seen = self.gate.seen();
        let mut asked = seen.iter().filter(|seen| seen.endpoint == self.at);
        // The one in whose place the gate has answered, and the one after it.
        let Some(struck) = asked.find(|seen| seen.status.is_none()) else { return Ok(()) };
        let again = asked.next().context("not asked again")?;
        let not_before = match self.fault {
            Fault::RateLimited | Fault::Unavailable => {
                struck.at + Duration::from_secs(PATIENCE_SECS)
            }
            Fault::RateLimitedUntil => self.armed_at.0 + Duration::from_secs(UNTIL_SECS),
            _ => return Ok(()),
        };
        ensure!(again.at >= not_before, "asked again {:?} too early", not_before - again.at);
        Ok(())
    }
}

/// Starts a coordinator with one case for each pair, armed to strike `times` times.
async fn start(
    scene: &Scene,
    options: Options,
    pairs: impl Iterator<Item = (Fault, Endpoint)>,
    times: usize,
) -> Result<(Center, Vec<Case>)> {
    let mut center = Center::prepare(scene, options).await?;
    center.coordinator.run().await?;
    let mut cases = Vec::new();
    let mut toml = String::new();
    for (fault, at) in pairs {
        let case = Case::new(&center, fault, at).await?;
        toml.push_str(&case.declaration(&center)?);
        cases.push(case);
    }
    for case in &mut cases {
        case.arm(times)?;
    }
    center.apply(&toml).await?;
    Ok((center, cases))
}

fn options() -> Result<Options> {
    let mut options = Options::new()?;
    options.pebble.refused_nonces = 20;
    options.pebble.environment.push(("PEBBLE_CHAIN_LENGTH".to_owned(), "3".to_owned()));
    "warn".clone_into(&mut options.coordinator.log);
    Ok(options)
}

/// Every certificate as `cert list` has it, by name.
async fn listed(center: &Center) -> Result<BTreeMap<String, Value>> {
    let list = center.cli().json(&["cert", "list"]).await?;
    let list = list["certificates"].as_array().context("no certificates")?;
    let named = list.iter().map(|one| (one["name"].as_str().unwrap_or("").to_owned(), one.clone()));
    Ok(named.collect())
}

/// Possible orphans that are counted for the issuer of a case.
fn orphans(metrics: &str, case: &Case) -> usize {
    let start = format!("chancery_orders_possibly_orphaned_total{{issuer={:?}}} ", case.name);
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// What is so for every case, however it ended. All that is wrong is told at once.
fn check_all(cases: &[Case], check: impl Fn(&Case) -> Result<()>) -> Result<()> {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| Some(format!("{}: {:#}", case.name, check(case).err()?)))
        .collect();
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn a_fault_at_any_request_costs_neither_a_certificate_nor_a_second_order() {
    scene::play(async |scene| {
        let mut options = options()?;
        // For those that begin anew.
        "1s".clone_into(&mut options.coordinator.retry_first);
        let pairs = Fault::EVERYWHERE.into_iter().chain([Fault::Invalid]);
        let pairs = pairs.flat_map(|fault| REQUESTS.map(|at| (fault, at)));
        let pairs = pairs.filter(|(fault, at)| fault.strikes(*at));
        let (center, cases) = start(scene, options, pairs, 1).await?;
        wait::until("every certificate", TIME_OUT + wait::SOON, async || {
            let list = listed(&center).await?;
            let waits = |case: &&Case| list.get(&case.name).is_none_or(|c| c["state"] != "valid");
            let waiting: Vec<&str> = cases.iter().filter(waits).map(|c| c.name.as_str()).collect();
            ensure!(waiting.is_empty(), "waiting for {}", waiting.join(", "));
            anyhow::Ok(())
        })
        .await?;

        let metrics = center.coordinator.metrics().await?;
        let events = all_events(&center).await?;
        let none = Vec::new();
        check_all(&cases, |case| {
            ensure!(case.gate.has_answered(), "the fault did not strike");
            let events = events.get(&case.name).unwrap_or(&none);
            let intents = count(events, "order.started");
            ensure!(intents == case.intents(), "{intents} intents: {events:?}");
            ensure!(case.orders() <= intents, "{} orders, {intents} intents", case.orders());
            // One more if it could not begin for so long that it was told.
            let failed = count(events, "order.failed");
            ensure!([intents - 1, intents].contains(&failed), "{failed} failures: {events:?}");
            let (lost, counted) = (case.intents() == 2, orphans(&metrics, case));
            let may_be_lost = lost && case.fault != Fault::Invalid;
            ensure!(counted == usize::from(may_be_lost), "{counted} possible orphans");
            case.check_patience()
        })?;

        let bundles = center.join("web-1", &["role=web"]).await?.bundles().await?;
        ensure!(bundles.len() == cases.len(), "{} of {} bundles", bundles.len(), cases.len());
        for bundle in &bundles {
            ensure!(bundle.generation == 1, "{}: {}", bundle.certificate, bundle.generation);
            ensure!(bundle.chain_der.len() == 3, "{} in the chain", bundle.chain_der.len());
            center.check(bundle, &[&server_name(&bundle.certificate)]).await?;
        }
        Ok(())
    });
}

#[test]
fn a_fault_that_stays_is_told_with_its_next_attempt_and_makes_no_second_order() {
    scene::play(async |scene| {
        let mut options = options()?;
        "6s".clone_into(&mut options.coordinator.deadline);
        "1h".clone_into(&mut options.coordinator.retry_first);
        let faults =
            [Fault::Broken, Fault::BadNonces, Fault::AnswerCut, Fault::Garbled, Fault::Page];
        let pairs = faults.into_iter().flat_map(|fault| REQUESTS.map(|at| (fault, at)));
        let pairs = pairs.filter(|(fault, at)| fault.strikes(*at));
        let (center, cases) = start(scene, options, pairs, usize::MAX).await?;
        wait::until("an end of every case", wait::SOON * 2, async || {
            let list = listed(&center).await?;
            let waits = |case: &&Case| {
                list.get(&case.name)
                    .is_none_or(|one| one["state"] != "valid" && one["last_error"].is_null())
            };
            let waiting: Vec<&str> = cases.iter().filter(waits).map(|c| c.name.as_str()).collect();
            ensure!(waiting.is_empty(), "waiting for {}", waiting.join(", "));
            anyhow::Ok(())
        })
        .await?;

        let list = listed(&center).await?;
        let events = all_events(&center).await?;
        let mut failing = BTreeMap::new();
        for case in cases.iter().filter(|case| list[&case.name]["state"] != "valid") {
            failing.insert(case.name.clone(), center.cli().certificate(&case.name).await?);
        }
        let none = Vec::new();
        check_all(&cases, |case| {
            let events = events.get(&case.name).unwrap_or(&none);
            let intents = count(events, "order.started");
            ensure!(intents <= 1, "{intents} intents");
            ensure!(case.orders() <= intents, "{} orders, {intents} intents", case.orders());
            let told = count(events, "order.failed");
            ensure!(told == usize::from(failing.contains_key(&case.name)), "told {told} times");
            let Some(shown) = failing.get(&case.name) else {
                ensure!(case.may_end_well(), "there is a certificate");
                return Ok(());
            };
            let reason = list[&case.name]["last_error"].as_str().unwrap_or_default();
            ensure!(reason.contains(case.fault.reason(case.at)), "{reason}");
            ensure!(!reason.contains("docs.rs"), "{reason}");
            ensure!(shown["failures"] == 1 && shown["order"].is_null(), "{shown}");
            let next: Timestamp = shown["next_attempt"].as_str().context("no attempt")?.parse()?;
            let wait = next.duration_since(case.armed_at.1).as_secs();
            ensure!((3600..4000).contains(&wait), "the next attempt is in {wait} s");
            Ok(())
        })
    });
}

#[test]
fn authorizations_that_are_valid_still_are_not_asked_for_again() {
    scene::play(async |scene| {
        let mut options = options()?;
        options.pebble.environment = vec![("PEBBLE_AUTHZREUSE".to_owned(), "100".to_owned())];
        let mut center = Center::prepare(scene, options).await?;
        center.coordinator.run().await?;
        center.declare(&["www"]).await?;
        center.wait_until_issued("www", 1).await?;
        let told = center.gate.succeeded(Endpoint::Challenge);
        center.cli().text(&["cert", "renew", "www"]).await?;
        center.wait_until_issued("www", 2).await?;
        let again = center.gate.succeeded(Endpoint::Challenge);
        ensure!((told, again) == (1, 1), "told {told} times, then {again}");
        ensure!(center.new_orders() == 2, "{:?}", center.gate.orders());
        center.check_bundle("www").await?;
        Ok(())
    });
}

/// All events, by what they are about.
async fn all_events(center: &Center) -> Result<BTreeMap<String, Vec<Event>>> {
    let listed = center.cli().json(&["event", "list", "-n", "1000"]).await?;
    let mut events: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    for event in listed["events"].as_array().context("no events")? {
        let subject = event["subject"].as_str().unwrap_or_default().to_owned();
        events.entry(subject).or_default().push(serde_json::from_value(event.clone())?);
    }
    Ok(events)
}

/// What the gate asks for in Retry-After.
const PATIENCE_SECS: u64 = 2;
/// How far away the date is that it gives instead.
const UNTIL_SECS: u64 = 10;
/// After which the coordinator no longer waits for an answer.
const TIME_OUT: Duration = Duration::from_secs(30);
const PAGE: &str = "<html><head><title>Sign in</title></head><body>to the network</body></html>";
const INVALID_ORDER: &str = r#"{"status":"invalid","identifiers":[],"authorizations":[],
    "finalize":"https://127.0.0.1/none","error":{"type":"urn:ietf:params:acme:error:unauthorized",
    "detail":"turned invalid, says the gate","status":403}}"#;

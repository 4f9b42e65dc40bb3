//! `chancery cert renew` and `chancery cert switch`, and the wait for them.
//!
//! The wait survives a coordinator that restarts or hands over: the stream is opened
//! again until the time is up. Whether the renewal is at its end is decided in
//! [`crate::follow`], from states alone, so a state that was missed does no harm.

use std::time::Duration;

use chancery_proto::v1::{
    CertificateDetail, FollowCertificateRequest, RenewCertificateRequest, ShowCertificateRequest,
    SwitchCertificateRequest,
};
use chancery_shared::{
    clock::{Clock as _, Monotonic},
    retry::Policy,
};
use tokio::time::MissedTickBehavior;
use tonic::{Code, Status};

use super::Context;
use crate::{
    connect::{Client, answer},
    failure::{Exit, Failure},
    follow::{Goal, Verdict},
    output::Live,
    render::{json, progress},
};

/// Makes the certificate due, and returns.
pub(super) async fn renew(context: &Context<'_>, name: &str) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let renewal = request(context, &mut client, name).await?;
    context.output.answer(&renewal, || {
        let generation = renewal.generation;
        if renewal.already_running {
            format!("An order for {name} is under way already; it becomes generation {generation}.")
        } else {
            format!("{name} is being renewed; it becomes generation {generation}.")
        }
    })
}

/// Makes the certificate due, and returns when all agents serve the new one.
pub(super) async fn and_wait(context: &Context<'_>, name: &str) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let show = ShowCertificateRequest { name: name.to_owned() };
    let before = answer(context.answer_limit(), client.show_certificate(show)).await?;
    let renewal = request(context, &mut client, name).await?;
    let goal = Goal::new(renewal.generation, before.failures);
    Wait::new(context, name, "renewed", goal).until_served(client).await
}

/// Has the standby served in place of the newest bundle, and with `wait` returns when all agents do.
pub(super) async fn switch(context: &Context<'_>, name: &str, wait: bool) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let request = SwitchCertificateRequest { name: name.to_owned() };
    let switch = answer(context.answer_limit(), client.switch_certificate(request)).await?;
    if wait {
        // What was tried at a CA before is of no matter.
        let goal = Goal::new(switch.generation, u32::MAX);
        return Wait::new(context, name, "switched", goal).until_served(client).await;
    }
    let shown = json::Switch {
        name: name.to_owned(),
        generation: switch.generation,
        switched: switch.switched,
    };
    context.output.answer(&shown, || {
        let generation = switch.generation;
        if switch.switched {
            format!("The standby of {name} is generation {generation} now.")
        } else {
            format!("The standby of {name} becomes generation {generation}.")
        }
    })?;
    if switch.switched {
        Ok(())
    } else {
        Err(Failure::new(Exit::TimedOut, "it has not happened yet; the leader goes on"))
    }
}

async fn request(
    context: &Context<'_>,
    client: &mut Client,
    name: &str,
) -> Result<json::Renewal, Failure> {
    let request = RenewCertificateRequest { name: name.to_owned() };
    let renewal = answer(context.answer_limit(), client.renew_certificate(request)).await?;
    Ok(json::Renewal {
        name: name.to_owned(),
        generation: renewal.generation,
        already_running: renewal.already_running,
    })
}

/// A wait for one renewal.
struct Wait<'a> {
    context: &'a Context<'a>,
    name: &'a str,
    /// What has been done to it.
    deed: &'static str,
    goal: Goal,
    started: Monotonic,
    /// The newest state, which has been shown.
    shown: Option<CertificateDetail>,
    live: Live,
}

impl<'a> Wait<'a> {
    fn new(context: &'a Context<'a>, name: &'a str, deed: &'static str, goal: Goal) -> Self {
        let started = context.clock.monotonic();
        Self { context, name, deed, goal, started, shown: None, live: Live::default() }
    }

    /// Follows the certificate until it is served, or the time is up.
    async fn until_served(mut self, client: Client) -> Result<(), Failure> {
        let limit = self.context.wait_limit();
        let Ok(end) = tokio::time::timeout(limit, self.follow(client)).await else {
            return Err(self.time_is_up(limit)?);
        };
        end
    }

    /// Follows the certificate to the end of its renewal.
    async fn follow(&mut self, mut client: Client) -> Result<(), Failure> {
        let mut waits = RECONNECT.waits();
        let mut tick = tokio::time::interval(REDRAW);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let request = FollowCertificateRequest { name: self.name.to_owned() };
            let stream = client.follow_certificate(request).await;
            let broken = match stream.map(tonic::Response::into_inner) {
                Err(status) => Some(status),
                Ok(mut stream) => loop {
                    tokio::select! {
                        message = stream.message() => match message {
                            Ok(Some(detail)) => {
                                waits.reset();
                                if let Some(end) = self.take(detail)? {
                                    return end;
                                }
                            }
                            Ok(None) => break None,
                            Err(status) => break Some(status),
                        },
                        _ = tick.tick() => self.redraw()?,
                    }
                },
            };
            if let Some(status) = broken.filter(|status| !is_passing(status)) {
                return Err(status.into());
            }
            tokio::time::sleep(waits.next_wait()).await;
        }
    }

    /// Shows a new state; returns the end, if this is it.
    fn take(&mut self, detail: CertificateDetail) -> Result<Option<Result<(), Failure>>, Failure> {
        let verdict = self.goal.judge(&detail);
        let output = self.context.output;
        if output.is_json() {
            let (outcome, message) = match &verdict {
                Verdict::Running => ("running", self.goal.stage(&detail)),
                Verdict::Installed => ("installed", self.goal.stage(&detail)),
                Verdict::Failed(why) => ("failed", why.clone()),
            };
            output.json_line(&self.json(outcome, message, Some(&detail)))?;
        } else if !output.is_live() {
            let elapsed = self.elapsed().as_secs();
            for line in progress::changes(&self.goal, self.shown.as_ref(), &detail, elapsed) {
                output.print(&line)?;
            }
        }
        self.shown = Some(detail);
        self.redraw()?;
        match verdict {
            Verdict::Running => Ok(None),
            Verdict::Installed => {
                if !output.is_json() {
                    let secs = self.elapsed().as_secs_f64();
                    output.print(&format!("{} was {} in {secs:.1} s.", self.name, self.deed))?;
                }
                Ok(Some(Ok(())))
            }
            Verdict::Failed(why) => Ok(Some(Err(Failure::failed(format!(
                "{}: {why}\nit is tried again without you; see chancery cert show {}",
                self.name, self.name
            ))))),
        }
    }

    /// Draws the newest state with the time that has passed, where that can be done.
    fn redraw(&mut self) -> Result<(), Failure> {
        let Some(detail) = self.shown.as_ref().filter(|_| self.context.output.is_live()) else {
            return Ok(());
        };
        let elapsed = self.elapsed().as_secs();
        let lines = progress::block(&self.goal, detail, elapsed, &self.context.view());
        self.live.draw(&lines)
    }

    /// The failure to have waited long enough.
    fn time_is_up(&self, limit: Duration) -> Result<Failure, Failure> {
        let missing = match &self.shown {
            Some(detail) => self.goal.missing(detail),
            None => "the coordinator has said nothing of it".to_owned(),
        };
        let limit = humantime::format_duration(limit);
        if self.context.output.is_json() {
            let line = self.json("timed-out", missing.clone(), self.shown.as_ref());
            self.context.output.json_line(&line)?;
        }
        Ok(Failure::new(
            Exit::TimedOut,
            format!(
                "{} was not {} everywhere within {limit}: {missing}\n\
                 it goes on; see chancery cert show {}",
                self.name, self.deed, self.name
            ),
        ))
    }

    fn json(
        &self,
        outcome: &'static str,
        message: String,
        detail: Option<&CertificateDetail>,
    ) -> json::Progress {
        json::Progress {
            at: self.context.clock.now(),
            elapsed_seconds: self.elapsed().as_secs_f64(),
            wanted_generation: self.goal.generation,
            outcome,
            message,
            certificate: detail.map(json::CertificateDetail::from),
        }
    }

    fn elapsed(&self) -> Duration {
        self.context.clock.monotonic().since(self.started)
    }
}

/// Whether a stream that ended so may be opened again: the coordinator went away, and
/// comes back.
fn is_passing(status: &Status) -> bool {
    use std::error::Error as _;
    matches!(status.code(), Code::Unavailable | Code::Cancelled) || status.source().is_some()
}

/// One operator, one stream: quicker than a fleet's agents may be.
const RECONNECT: Policy =
    Policy { first: Duration::from_millis(100), most: Duration::from_secs(2), factor: 2 };

/// How often the seconds are drawn.
const REDRAW: Duration = Duration::from_millis(500);

//! `chancery lease show` and `chancery lease transfer`.

use std::time::Duration;

use chancery_proto::v1::{Lease, ShowLeaseRequest, TransferLeaseRequest, TransferLeaseResponse};
use chancery_shared::{
    clock::{Clock as _, Monotonic},
    name::NodeName,
};
use tokio::time::MissedTickBehavior;

use super::Context;
use crate::{
    args::LeaseCommand,
    connect::{Client, answer},
    failure::{Exit, Failure},
    output::Live,
    render::{self, json, lease as text},
};

pub(super) async fn lease(context: &Context<'_>, command: &LeaseCommand) -> Result<(), Failure> {
    match command {
        LeaseCommand::Show { watch: false } => {
            let mut client = context.client().await?;
            let lease = ask(context, &mut client).await?;
            context
                .output
                .answer(&json::Lease::from(&lease), || text::page(&lease, &context.view()))
        }
        LeaseCommand::Show { watch: true } => watch(context).await,
        LeaseCommand::Transfer { to } => transfer(context, to.as_ref()).await,
    }
}

async fn ask(context: &Context<'_>, client: &mut Client) -> Result<Lease, Failure> {
    answer(context.answer_limit(), client.show_lease(ShowLeaseRequest {})).await
}

/// Shows the lease until the program is ended. A coordinator that goes away is waited for: watching is
/// for the moments in which that happens.
async fn watch(context: &Context<'_>) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let mut shown = Shown::default();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match ask(context, &mut client).await {
            Ok(lease) => shown.show(context, &lease)?,
            Err(failure) if failure.exit() == Exit::Unreachable => {
                shown.lost(context, &failure)?;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// What was shown last.
#[derive(Default)]
struct Shown {
    live: Live,
    lease: Option<Lease>,
    lost: bool,
}

impl Shown {
    fn show(&mut self, context: &Context<'_>, lease: &Lease) -> Result<(), Failure> {
        let output = context.output;
        if output.is_live() {
            let page = text::page(lease, &context.view());
            let lines: Vec<String> = page.lines().map(str::to_owned).collect();
            self.live.draw(&lines)?;
        } else if self.lost || self.lease.as_ref().is_none_or(|old| text::differs(old, lease)) {
            if output.is_json() {
                output.json_line(&json::Lease::from(lease))?;
            } else {
                output.print(&text::line(lease, context.view().now))?;
            }
        }
        self.lease = Some(lease.clone());
        self.lost = false;
        Ok(())
    }

    fn lost(&mut self, context: &Context<'_>, failure: &Failure) -> Result<(), Failure> {
        let why = failure.message().unwrap_or_default();
        if context.output.is_live() {
            let width = context.view().width.unwrap_or(u16::MAX);
            self.live.draw(&[render::text::cut(&render::text::printable(why), width)])?;
        } else if !self.lost {
            context.output.warn(why);
        }
        self.lost = true;
        Ok(())
    }
}

async fn transfer(context: &Context<'_>, to: Option<&NodeName>) -> Result<(), Failure> {
    let began = context.clock.monotonic();
    let limit = context.args.global.timeout.unwrap_or(TRANSFER_LIMIT);
    let mut client = context.client().await?;
    // The term that is to end: if another operator is quicker, this does nothing.
    let before = answer(limit, client.show_lease(ShowLeaseRequest {})).await?;
    let request = TransferLeaseRequest {
        to: to.map(ToString::to_string).unwrap_or_default(),
        expected_epoch: if before.held { before.epoch } else { 0 },
    };
    let mut response = answer(limit, client.transfer_lease(request)).await?;
    if response.holder.is_empty() {
        let left = limit.saturating_sub(context.clock.monotonic().since(began));
        let waiting = successor(context, client, response.from_epoch);
        let Ok(lease) = tokio::time::timeout(left, waiting).await else {
            return Err(Failure::new(
                Exit::TimedOut,
                format!(
                    "{} has handed over, but nobody was seen to lead within {}; see chancery lease \
                     show, and chancery status for what is wrong",
                    response.from,
                    humantime::format_duration(limit)
                ),
            ));
        };
        (response.holder, response.epoch) = (lease.holder, lease.epoch);
    }
    conclude(context, to, &response, began)
}

/// The lease of a later term than `epoch`, whenever there is one.
async fn successor(context: &Context<'_>, mut client: Client, epoch: u64) -> Lease {
    loop {
        match ask(context, &mut client).await {
            Ok(lease) if lease.held && lease.epoch > epoch => return lease,
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

fn conclude(
    context: &Context<'_>,
    to: Option<&NodeName>,
    response: &TransferLeaseResponse,
    began: Monotonic,
) -> Result<(), Failure> {
    let elapsed = context.clock.monotonic().since(began);
    let transfer = json::Transfer::new(response, elapsed);
    context.output.answer(&transfer, || text::transferred(response, elapsed))?;
    match to {
        Some(to) if to.as_str() != response.holder => Err(Failure::failed(format!(
            "{} leads now, not {to}: {to} did not take over in time; look at its log, and try again",
            response.holder
        ))),
        None if response.holder == response.from => Err(Failure::failed(format!(
            "nobody else took over, so {} leads again; see chancery status",
            response.holder
        ))),
        _ => Ok(()),
    }
}

/// How often the lease is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// For a transfer, and what may go wrong in it.
const TRANSFER_LIMIT: Duration = Duration::from_secs(30);

//! `chancery drill`.

use std::{collections::BTreeMap, time::Duration};

use chancery_proto::v1::{
    CertificateSummary, DrillRevocationRequest, DrilledCertificate, ListCertificatesRequest,
};
use chancery_shared::clock::{Clock as _, Monotonic};

use super::Context;
use crate::{
    args::{DrillArgs, DrillCommand},
    connect::{Client, answer},
    failure::{Exit, Failure},
    render::{
        drill::{self as text, Progress},
        json,
    },
};

pub(super) async fn drill(context: &Context<'_>, command: &DrillCommand) -> Result<(), Failure> {
    let DrillCommand::Revocation(args) = command;
    let mut client = context.client().await?;
    let plan = ask(context, &mut client, args, true).await?;
    if args.dry_run || context.output.is_json() && !args.yes {
        return context
            .output
            .answer(&json::DrillPlan::from(&*plan), || text::plan(&plan, &context.view()));
    }
    if !context.output.is_json() {
        context.output.print(&text::plan(&plan, &context.view()))?;
    }
    let count = plan.iter().filter(|part| part.skipped.is_empty()).count();
    if count == 0 {
        return Err(Failure::failed("there is nothing to replace"));
    }
    context.confirm(args.yes, &format!("Replace {count} certificates now?"))?;
    let started = context.clock.monotonic();
    let begun = ask(context, &mut client, args, false).await?;
    let mut wait = Wait { context, started, parts: BTreeMap::new() };
    for part in begun.into_iter().filter(|part| part.skipped.is_empty()) {
        let progress = Progress { part, issued: None, served: None, error: String::new() };
        wait.parts.insert(progress.part.name.clone(), progress);
    }
    let limit = context.wait_limit();
    let ended = tokio::time::timeout(limit, wait.until_served(&mut client)).await;
    wait.report()?;
    match ended {
        Ok(result) => result,
        Err(_) => Err(Failure::new(
            Exit::TimedOut,
            format!(
                "not every agent had a replacement within {}; what has begun goes on",
                humantime::format_duration(limit)
            ),
        )),
    }
}

async fn ask(
    context: &Context<'_>,
    client: &mut Client,
    args: &DrillArgs,
    dry_run: bool,
) -> Result<Vec<DrilledCertificate>, Failure> {
    let certificates = args.certs.iter().map(ToString::to_string).collect();
    let request = DrillRevocationRequest { certificates, dry_run, ask_cas: args.ask_ca };
    Ok(answer(context.answer_limit(), client.drill_revocation(request)).await?.certificates)
}

/// A wait until all agents have the replacements.
struct Wait<'a> {
    context: &'a Context<'a>,
    started: Monotonic,
    parts: BTreeMap<String, Progress>,
}

impl Wait<'_> {
    async fn until_served(&mut self, client: &mut Client) -> Result<(), Failure> {
        loop {
            let asked = self.context.clock.monotonic();
            let listing = client.list_certificates(ListCertificatesRequest {});
            match answer(self.context.answer_limit(), listing).await {
                Ok(list) => self.take(&list.certificates)?,
                // A coordinator that goes away meanwhile comes back, or another one does.
                Err(failure) if failure.exit() == Exit::Unreachable => {}
                Err(failure) => return Err(failure),
            }
            if self.parts.values().all(|part| part.served.is_some()) {
                return Ok(());
            }
            // A long list is not asked for all the time.
            let took = self.context.clock.monotonic().since(asked);
            tokio::time::sleep(LOOK.max(took * 5)).await;
        }
    }

    fn take(&mut self, certificates: &[CertificateSummary]) -> Result<(), Failure> {
        let elapsed = self.context.clock.monotonic().since(self.started);
        let (mut issued, mut served) = (0, 0);
        for summary in certificates {
            let Some(progress) = self.parts.get_mut(&summary.name) else { continue };
            if summary.generation > progress.part.generation {
                let news = progress.issued.is_none();
                issued += usize::from(news);
                progress.issued.get_or_insert((summary.generation, elapsed));
                if progress.served.is_none() && summary.agents_installed >= summary.agents_entitled
                {
                    served += 1;
                    progress.served = Some(elapsed);
                }
            }
            progress.error.clone_from(&summary.last_error);
        }
        if issued + served > 0 && !self.context.output.is_json() {
            self.context.output.print(&text::line(&self.parts, elapsed))?;
        }
        Ok(())
    }

    fn report(&self) -> Result<(), Failure> {
        let elapsed = self.context.clock.monotonic().since(self.started);
        self.context.output.answer(&json::DrillReport::of(&self.parts, elapsed), || {
            text::report(&self.parts, elapsed, &self.context.view())
        })
    }
}

const LOOK: Duration = Duration::from_millis(500);

//! `chancery apply`: the plan first, then exactly that plan or nothing.

use chancery_proto::v1::ApplyRequest;

use super::Context;
use crate::{
    args::ApplyArgs,
    connect::answer,
    failure::{Exit, Failure},
    files,
    render::{self, json},
};

pub(super) async fn apply(context: &Context<'_>, args: &ApplyArgs) -> Result<(), Failure> {
    let output = context.output;
    let loaded = files::load(&args.files)?;
    let desired = &loaded.desired;
    let nothing_declared =
        desired.issuers.is_empty() && desired.certificates.is_empty() && desired.freezes.is_empty();
    if args.prune && args.yes && nothing_declared {
        // More often a template that came out empty than a wish.
        return Err(Failure::usage(
            "the files declare nothing, so --prune would delete every issuer and certificate; \
             if that is meant, run it on a terminal without --yes",
        ));
    }
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    for warning in &warnings {
        output.warn(warning);
    }

    let mut client = context.client().await?;
    let mut request = ApplyRequest {
        desired: Some(loaded.desired),
        dry_run: true,
        prune: args.prune,
        expected_plan: String::new(),
    };
    let plan = answer(context.apply_limit(), client.apply(request.clone())).await?;
    if !output.is_json() {
        output.print(&render::plan::plan(&plan, &context.view()))?;
    }
    if args.dry_run || plan.changes.is_empty() {
        return if output.is_json() {
            output.json(&json::Plan::new(&plan, warnings))
        } else {
            Ok(())
        };
    }

    context.confirm(args.yes, &render::plan::question(&plan))?;
    request.dry_run = false;
    request.expected_plan.clone_from(&plan.plan_id);
    let done = answer(context.apply_limit(), client.apply(request)).await.map_err(changed_plan)?;
    if output.is_json() {
        output.json(&json::Plan::new(&done, warnings))
    } else {
        output.print("Applied.")
    }
}

/// Says what to do when somebody else was quicker.
fn changed_plan(failure: Failure) -> Failure {
    match (failure.exit(), failure.message()) {
        (Exit::Conflict, Some(message)) => Failure::new(
            Exit::Conflict,
            format!(
                "{message}\nnothing was changed; run the command again to see the plan as it is now"
            ),
        ),
        _ => failure,
    }
}

//! `chancery issuer`.

use chancery_proto::v1::{
    ChangeAccountRequest, CheckIssuerRequest, IssuerDetail, ListBudgetsRequest, ListIssuersRequest,
    ShowDnsRecordsRequest, ShowIssuerRequest,
};
use chancery_shared::{name::IssuerName, wire::to_timestamp};

use super::Context;
use crate::{
    args::{AccountCommand, DnsRecordArgs, IssuerCommand},
    connect::answer,
    failure::{Exit, Failure},
    render::{self, json},
};

pub(super) async fn issuer(context: &Context<'_>, command: &IssuerCommand) -> Result<(), Failure> {
    match command {
        IssuerCommand::List => list(context).await,
        IssuerCommand::Show { name } => show(context, name).await,
        IssuerCommand::Check { name } => check(context, name).await,
        IssuerCommand::DnsRecord(args) => dns_records(context, args).await,
        IssuerCommand::Budget { name } => budget(context, name.as_ref()).await,
        IssuerCommand::Account(AccountCommand::Show { issuer }) => show(context, issuer).await,
        IssuerCommand::Account(AccountCommand::Roll { issuer }) => {
            change(context, issuer, "roll").await
        }
        IssuerCommand::Account(AccountCommand::Deactivate { issuer, yes }) => {
            let question = format!("Deactivate the account at issuer {issuer}, for good?");
            context.confirm(*yes, &question)?;
            change(context, issuer, "deactivate").await
        }
        IssuerCommand::Account(AccountCommand::Create { issuer }) => {
            change(context, issuer, "create").await
        }
    }
}

async fn list(context: &Context<'_>) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let list = answer(context.answer_limit(), client.list_issuers(ListIssuersRequest {})).await?;
    context.output.answer(&json::Issuers::from(&list), || {
        render::issuer::list(&list.issuers, &context.view())
    })
}

async fn show(context: &Context<'_>, name: &IssuerName) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let request = ShowIssuerRequest { name: name.to_string() };
    let issuer = answer(context.answer_limit(), client.show_issuer(request)).await?;
    print(context, &issuer)
}

fn print(context: &Context<'_>, issuer: &IssuerDetail) -> Result<(), Failure> {
    context
        .output
        .answer(&json::Issuer::from(issuer), || render::issuer::detail(issuer, &context.view()))
}

async fn budget(context: &Context<'_>, name: Option<&IssuerName>) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let request = ListBudgetsRequest { issuer: name.map(ToString::to_string).unwrap_or_default() };
    let budgets = answer(context.answer_limit(), client.list_budgets(request)).await?.budgets;
    context.output.answer(&json::Budgets::from(&*budgets), || {
        render::budget::budgets(&budgets, &context.view())
    })
}

async fn check(context: &Context<'_>, name: &IssuerName) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let request = CheckIssuerRequest { name: name.to_string() };
    let check = answer(context.check_limit(), client.check_issuer(request)).await?;
    context.output.answer(&json::IssuerCheck::new(name.as_str(), &check), || {
        render::issuer::check(name.as_str(), &check, &context.view())
    })?;
    if check.problems.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, "")) }
}

async fn dns_records(context: &Context<'_>, args: &DnsRecordArgs) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let request = ShowDnsRecordsRequest {
        issuer: args.name.to_string(),
        certificates: args.certs.iter().map(ToString::to_string).collect(),
        identifiers: args.identifiers.iter().map(ToString::to_string).collect(),
        wildcard: args.wildcard,
        persist_until: args.persist_until.map(to_timestamp),
        check: args.check,
    };
    let found = answer(context.check_limit(), client.show_dns_records(request)).await?;
    context.output.answer(&json::DnsRecords::from(&found), || {
        render::dns_record::records(&found, &context.view())
    })?;
    if found.records.iter().all(|record| record.missing.is_empty()) {
        Ok(())
    } else {
        Err(Failure::new(Exit::Failed, ""))
    }
}

async fn change(context: &Context<'_>, issuer: &IssuerName, change: &str) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let request = ChangeAccountRequest { issuer: issuer.to_string(), change: change.to_owned() };
    let issuer = answer(context.answer_limit(), client.change_account(request)).await?;
    print(context, &issuer)?;
    let last = issuer.account.and_then(|account| account.change);
    match last.filter(|last| last.what == change).map(|last| last.state).as_deref() {
        Some("refused") => Err(Failure::failed("the CA has refused")),
        Some("pending") => {
            Err(Failure::new(Exit::TimedOut, "it is not done yet; the leader goes on"))
        }
        _ => Ok(()),
    }
}

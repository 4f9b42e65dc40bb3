//! `chancery agent`.

use std::time::Duration;

use chancery_proto::v1::{
    CreateTokenRequest, ListAgentsRequest, RemoveAgentRequest, ShowAgentRequest,
};
use chancery_shared::{name::Labels, wire::from_timestamp};

use super::Context;
use crate::{
    args::{AgentCommand, TokenCommand},
    connect::answer,
    failure::Failure,
    render::{self, json, text},
};

pub(super) async fn agent(context: &Context<'_>, command: &AgentCommand) -> Result<(), Failure> {
    match command {
        AgentCommand::List => list(context).await,
        AgentCommand::Show { name } => show(context, name.as_str()).await,
        AgentCommand::Remove { name, yes } => remove(context, name.as_str(), *yes).await,
        AgentCommand::Token(TokenCommand::Create { name, labels, ttl }) => {
            create_token(context, name.as_str(), labels, *ttl).await
        }
    }
}

async fn list(context: &Context<'_>) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let list = answer(context.answer_limit(), client.list_agents(ListAgentsRequest {})).await?;
    context
        .output
        .answer(&json::Agents::from(&list), || render::agent::list(&list.agents, &context.view()))
}

async fn show(context: &Context<'_>, name: &str) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let request = ShowAgentRequest { name: name.to_owned() };
    let detail = answer(context.answer_limit(), client.show_agent(request)).await?;
    context.output.answer(&json::AgentDetail::from(&detail), || {
        render::agent::detail(&detail, &context.view())
    })
}

async fn remove(context: &Context<'_>, name: &str, yes: bool) -> Result<(), Failure> {
    let mut client = context.client().await?;
    // Looked at first, so that nobody is asked about an agent that is not there.
    let request = ShowAgentRequest { name: name.to_owned() };
    let agent = answer(context.answer_limit(), client.show_agent(request)).await?;
    let entitled = text::count(agent.entitled.len(), "certificate");
    let question = format!(
        "Remove agent {name}, which is entitled to {entitled}? It will be cut off at once, \
         and needs a new token to come back."
    );
    context.confirm(yes, &question)?;
    let request = RemoveAgentRequest { name: name.to_owned() };
    answer(context.answer_limit(), client.remove_agent(request)).await?;
    context.output.answer(&json::Removal { removed: name.to_owned() }, || {
        format!("Agent {name} was removed.")
    })
}

async fn create_token(
    context: &Context<'_>,
    name: &str,
    labels: &[String],
    ttl: Duration,
) -> Result<(), Failure> {
    if ttl > LONGEST_TTL {
        return Err(Failure::usage("--ttl may be at most 7 days"));
    }
    let labels = Labels::parse(labels.iter().map(String::as_str))
        .map_err(|error| Failure::usage(error.to_string()))?;
    if labels.is_empty() {
        context.output.warn(
            "without labels the agent will get no certificate; add for example --label role=web",
        );
    }
    let mut client = context.client().await?;
    let ttl = prost_types::Duration::try_from(ttl).expect("at most 7 days");
    let request =
        CreateTokenRequest { agent: name.to_owned(), labels: labels.to_map(), ttl: Some(ttl) };
    let token = answer(context.answer_limit(), client.create_token(request)).await?;
    let output = context.output;
    if output.is_json() {
        return output.json(&json::Token {
            agent: name.to_owned(),
            expires_at: from_timestamp(token.expires_at.as_ref()),
            token: token.token,
            ca_fingerprint: token.ca_fingerprint,
        });
    }
    output.note(&render::agent::token_note(name, &token, &context.view()));
    output.print(&token.token)
}

const LONGEST_TTL: Duration = Duration::from_hours(7 * 24);

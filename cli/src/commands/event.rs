//! `chancery event`.

use chancery_proto::v1::{Event, ListEventsRequest};

use super::Context;
use crate::{
    args::EventCommand,
    connect::answer,
    failure::Failure,
    render::{self, json},
};

pub(super) async fn event(context: &Context<'_>, command: &EventCommand) -> Result<(), Failure> {
    let EventCommand::List { limit, subject } = command;
    let events = newest(context, *limit, subject.as_deref().unwrap_or_default()).await?;
    context.output.answer(&json::Events::from(events.as_slice()), || {
        render::event::list(&events, &context.view())
    })
}

/// The `limit` newest, in as many answers as the coordinator gives them in.
async fn newest(context: &Context<'_>, limit: u32, subject: &str) -> Result<Vec<Event>, Failure> {
    let mut client = context.client().await?;
    let mut events: Vec<Event> = Vec::new();
    let mut before = 0;
    loop {
        let missing = limit - u32::try_from(events.len()).unwrap_or(limit);
        let request = ListEventsRequest { limit: missing, subject: subject.to_owned(), before };
        let page = answer(context.answer_limit(), client.list_events(request)).await?.events;
        let oldest = page.last().map_or(0, |event| event.sequence);
        events.extend(page.into_iter().take(missing as usize));
        // An answer without older events is the last.
        if oldest <= 1 || (before != 0 && oldest >= before) || events.len() >= limit as usize {
            return Ok(events);
        }
        before = oldest;
    }
}

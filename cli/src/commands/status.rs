//! `chancery status`.

use chancery_proto::v1::StatusRequest;

use super::Context;
use crate::{
    connect::answer,
    failure::{Exit, Failure},
    render::{self, json},
};

pub(super) async fn status(context: &Context<'_>) -> Result<Exit, Failure> {
    let mut client = context.client().await?;
    let status = answer(context.answer_limit(), client.status(StatusRequest {})).await?;
    let problems = render::status::problems(&status);
    let exit = if problems.is_empty() { Exit::Ok } else { Exit::Attention };
    context.output.answer(&json::Status::new(&status, problems.clone()), || {
        render::status::status(&status, &problems, &context.view())
    })?;
    Ok(exit)
}

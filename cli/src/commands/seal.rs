//! `chancery seal`.

use chancery_proto::v1::{RotateSealRequest, ShowSealRequest};

use super::Context;
use crate::{
    args::SealCommand,
    connect::answer,
    failure::Failure,
    render::{self, json},
};

pub(super) async fn seal(context: &Context<'_>, command: &SealCommand) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let limit = context.answer_limit();
    match command {
        SealCommand::Show => {
            let seal = answer(limit, client.show_seal(ShowSealRequest {})).await?;
            context
                .output
                .answer(&json::Seal::from(&seal), || render::seal::detail(&seal, &context.view()))
        }
        SealCommand::Rotate => {
            let rotation = answer(limit, client.rotate_seal(RotateSealRequest {})).await?;
            let key = rotation.active_key;
            context.output.answer(&json::Rotation { active_key: key }, || {
                format!(
                    "Data key {key} is active. Records are sealed anew under it in the background; \
                     follow it with chancery seal show."
                )
            })
        }
    }
}

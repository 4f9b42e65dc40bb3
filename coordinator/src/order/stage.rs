//! The next step of an order. Pure: what the journal says and what the CA says in, one
//! step out.
//!
//! The journal runs behind the CA by at most one step (it is written before the step), so a
//! successor may find the CA further on than the journal. Every such pair has
//! its row here, and none of them starts a second order.

use instant_acme::OrderStatus;

use crate::record::Stage;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send newOrder (RFC 8555 section 7.4).
    PlaceOrder,
    /// Put the answers of the pending challenges into the store.
    Present,
    /// Tell the CA that the challenges can be validated, and wait for it
    /// (RFC 8555 section 7.5.1).
    Validate,
    /// Record that all authorizations are valid.
    RecordValidated,
    /// Send the CSR (RFC 8555 section 7.4).
    Finalize,
    /// Record that the CA has the CSR.
    RecordFinalized,
    /// Wait until the CA has signed.
    AwaitIssuance,
    /// Fetch the chain (RFC 8555 section 7.4.2) and store the bundle.
    Collect,
    /// The CA has given the order up.
    Fail,
}

/// The step that follows `stage`, given the status of the order at the CA (RFC 8555 section
/// 7.1.6); `None` as long as there is no order URL.
pub fn next_step(stage: &Stage, status: Option<OrderStatus>) -> Step {
    use OrderStatus::{Invalid, Pending, Processing, Ready, Valid};
    let Some(status) = status else { return Step::PlaceOrder };
    match (stage, status) {
        (Stage::Intended, _) => Step::PlaceOrder,
        // Given up, or an authorization that was valid has expired or was revoked: start over.
        (_, Invalid) | (Stage::Validated { .. } | Stage::Finalized { .. }, Pending) => Step::Fail,
        (Stage::Placed { .. }, Pending) => Step::Present,
        (Stage::Presented { .. }, Pending) => Step::Validate,
        (Stage::Placed { .. } | Stage::Presented { .. }, Ready) => Step::RecordValidated,
        (Stage::Validated { .. } | Stage::Finalized { .. }, Ready) => Step::Finalize,
        // Our own CSR got through, but the answer or the journal entry did not.
        (
            Stage::Placed { .. } | Stage::Presented { .. } | Stage::Validated { .. },
            Processing | Valid,
        ) => Step::RecordFinalized,
        (Stage::Finalized { .. }, Processing) => Step::AwaitIssuance,
        (Stage::Finalized { .. }, Valid) => Step::Collect,
    }
}

#[cfg(test)]
mod tests {
    use OrderStatus::{Invalid, Pending, Processing, Ready, Valid};
    use Step::{
        AwaitIssuance, Collect, Fail, Finalize, Present, RecordFinalized, RecordValidated, Validate,
    };

    use super::*;

    fn stages() -> [Stage; 5] {
        let url = || "https://ca.example/order/1".to_owned();
        let tokens = || vec!["token".to_owned()];
        [
            Stage::Intended,
            Stage::Placed { url: url() },
            Stage::Presented { url: url(), tokens: tokens() },
            Stage::Validated { url: url(), tokens: tokens() },
            Stage::Finalized { url: url(), tokens: tokens() },
        ]
    }

    #[test]
    fn every_pair_of_stage_and_status_has_its_step() {
        let steps: Vec<Vec<Step>> = stages()[1..]
            .iter()
            .map(|stage| {
                [Pending, Ready, Processing, Valid, Invalid]
                    .map(|status| next_step(stage, Some(status)))
                    .to_vec()
            })
            .collect();
        assert_eq!(
            steps,
            [
                [Present, RecordValidated, RecordFinalized, RecordFinalized, Fail],
                [Validate, RecordValidated, RecordFinalized, RecordFinalized, Fail],
                [Fail, Finalize, RecordFinalized, RecordFinalized, Fail],
                [Fail, Finalize, AwaitIssuance, Collect, Fail],
            ]
        );
    }

    #[test]
    fn only_an_order_without_a_url_is_placed() {
        for stage in stages() {
            for status in [Pending, Ready, Processing, Valid, Invalid] {
                let places = next_step(&stage, Some(status)) == Step::PlaceOrder;
                assert_eq!(places, stage.url().is_none(), "{stage:?} {status:?}");
            }
        }
    }
}

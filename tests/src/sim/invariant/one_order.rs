//! Invariant 2: at most one live order per certificate is recorded; the intent is written before
//! newOrder and the order's URL right after; a new leader does not order again.
//!
//! A CA cannot be fenced: what a former leader had sent may arrive late, and an answer that is lost
//! leaves an orphan. So a second newOrder for one intent is let pass if something went wrong
//! since the first, and none is let pass without an intent, or by a leader that has the URL.

use std::collections::BTreeMap;

use chancery_coordinator::{
    record::{self, Order, Stage, key},
    store::Operation,
};
use chancery_shared::name::CertName;

use super::{super::event::Event, Invariant};

/// See the module.
#[derive(Default)]
pub(super) struct OneOrder {
    certificates: BTreeMap<CertName, Known>,
}

#[derive(Default)]
struct Known {
    live: Option<Order>,
    /// Intents that were ever written.
    intents: u64,
    /// How much had gone wrong when newOrder was last sent for the live intent.
    asked_at: Option<u64>,
    signed: u64,
}

impl Invariant for OneOrder {
    fn name(&self) -> &'static str {
        "2 one-order"
    }

    fn observe(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Committed(commit) => {
                commit.operations.iter().try_for_each(|operation| self.written(operation))
            }
            Event::OrderAsked { node, leads, certificate, disturbances } => {
                let known = self.certificates.entry((*certificate).clone()).or_default();
                known
                    .asked(*node, *leads, *disturbances)
                    .map_err(|why| format!("{certificate}: {why}"))
            }
            Event::Signed { certificate } => {
                let known = self.certificates.entry((*certificate).clone()).or_default();
                known.signed += 1;
                if known.signed > known.intents {
                    return Err(format!(
                        "{certificate}: the CA has signed {} times for {} intents",
                        known.signed, known.intents
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl OneOrder {
    fn written(&mut self, operation: &Operation) -> Result<(), String> {
        let Some(name) = operation.key().strip_prefix(key::ORDERS) else { return Ok(()) };
        let name: CertName = name.parse().map_err(|error| format!("{error}"))?;
        let known = self.certificates.entry(name.clone()).or_default();
        let Operation::Put(at, value) = operation else {
            known.live = None;
            return Ok(());
        };
        let order: Order = record::decode(at, value).map_err(|error| error.to_string())?;
        match &known.live {
            Some(live) if live.id != order.id => {
                return Err(format!("{name}: a second live order took the place of the first"));
            }
            Some(live) if rank(&order.stage) < rank(&live.stage) => {
                let (from, to) = (live.stage.name(), order.stage.name());
                return Err(format!("{name}: the order went back from {from} to {to}"));
            }
            Some(live) if live.stage.url().is_some() && live.stage.url() != order.stage.url() => {
                return Err(format!("{name}: the order has got another URL"));
            }
            Some(_) => {}
            None => {
                known.intents += 1;
                known.asked_at = None;
            }
        }
        known.live = Some(order);
        Ok(())
    }
}

impl Known {
    fn asked(&mut self, node: usize, leads: bool, disturbances: u64) -> Result<(), String> {
        if self.intents == 0 {
            return Err(format!("node {node} sent newOrder, and no intent was ever written"));
        }
        let live = self.live.as_ref();
        if leads && live.is_none_or(|live| live.stage.url().is_some()) {
            return Err(format!(
                "node {node}, which leads, sent newOrder, and the journal has {}",
                live.map_or("no intent", |_| "the order's URL already")
            ));
        }
        if leads {
            if self.asked_at.is_some_and(|before| before == disturbances) {
                return Err(format!("node {node} sent newOrder twice, and nothing had gone wrong"));
            }
            self.asked_at = Some(disturbances);
        }
        Ok(())
    }
}

fn rank(stage: &Stage) -> u8 {
    match stage {
        Stage::Intended => 0,
        Stage::Placed { .. } => 1,
        Stage::Presented { .. } => 2,
        Stage::Validated { .. } => 3,
        Stage::Finalized { .. } => 4,
    }
}

#[cfg(test)]
mod tests {
    use chancery_coordinator::record::Sealed;
    use chancery_shared::{
        key_type::KeyType,
        number::{Epoch, Generation},
    };
    use uuid::Uuid;

    use super::*;
    use crate::sim::{clock::beginning, invariant::testing::commit};

    fn order(id: u128, stage: Stage) -> [Operation; 1] {
        let order = Order {
            id: Uuid::from_u128(id),
            certificate: web(),
            generation: Generation(1),
            issuer: "main".parse().unwrap(),
            account: String::new(),
            identifiers: Vec::new(),
            key_type: KeyType::default(),
            profile: None,
            key: Sealed { data_key: 1, bytes: Vec::new() },
            challenges: Vec::new(),
            reason: String::new(),
            started_at: beginning(),
            deadline: beginning(),
            epoch: Epoch(1),
            resumed: 0,
            replaces: None,
            standby: false,
            stage,
        };
        [Operation::Put(key::order(&web()), record::encode(&order))]
    }

    fn web() -> CertName {
        "web".parse().unwrap()
    }

    fn placed() -> Stage {
        Stage::Placed { url: "https://ca/order/1".to_owned() }
    }

    fn ask(invariant: &mut OneOrder, leads: bool, disturbances: u64) -> Result<(), String> {
        let certificate = &web();
        invariant.observe(&Event::OrderAsked { node: 0, leads, certificate, disturbances })
    }

    fn write(invariant: &mut OneOrder, operations: &[Operation]) -> Result<(), String> {
        invariant.observe(&commit(Some(0), Some(1), 1, operations))
    }

    #[test]
    fn it_objects_to_orders_without_an_intent_and_to_second_ones() {
        let mut invariant = OneOrder::default();
        assert!(ask(&mut invariant, true, 0).unwrap_err().contains("no intent was ever"));
        write(&mut invariant, &order(1, Stage::Intended)).unwrap();
        ask(&mut invariant, true, 0).unwrap();
        assert!(ask(&mut invariant, true, 0).unwrap_err().contains("twice"));
        ask(&mut invariant, true, 1).unwrap();
        write(&mut invariant, &order(1, placed())).unwrap();
        assert!(ask(&mut invariant, true, 2).unwrap_err().contains("URL already"));
        ask(&mut invariant, false, 2).expect("a former leader could not know");
        assert!(write(&mut invariant, &order(2, Stage::Intended)).is_err());
        assert!(write(&mut invariant, &order(1, Stage::Intended)).is_err());
        write(&mut invariant, &[Operation::Delete(key::order(&web()))]).unwrap();
        assert!(ask(&mut invariant, true, 3).unwrap_err().contains("no intent"));
        let certificate = &web();
        invariant.observe(&Event::Signed { certificate }).unwrap();
        assert!(invariant.observe(&Event::Signed { certificate }).is_err());
    }
}

//! Orders that nobody wants any more: at an issuer that the certificate does not name, or for a standby while
//! the certificate itself is in need.
//!
//! Whoever takes an issuer out of a certificate has a reason to, most often that the issuer does not work.
//! Its order would hold the certificate up until the deadline, and bring what is not wanted. So it is given up,
//! and the next one is made at once.

use chancery_shared::{failpoint::crash_point, name::CertName};

use super::{Error, Orders, Tries, Wanted, journal::Entry};
use crate::{
    election::Leadership,
    plan::{self, Turn},
    record::EventKind,
};

impl Orders {
    /// Ends the live order of a certificate if its issuer is no longer among those that the
    /// certificate names. Returns the one that is live after that.
    pub(super) async fn give_up_unwanted(
        &self,
        leadership: &Leadership,
        certificate: &CertName,
        live: Option<Entry>,
        tries: &mut Tries,
    ) -> Result<Option<Entry>, Error> {
        let Some(entry) = live else { return Ok(None) };
        let issuer = &entry.order.issuer;
        let known = self.known(certificate).await?;
        let now = self.clock.now();
        // One of a certificate that is gone went with it.
        if known.is_none_or(|it| plan::standby::is_wanted(&it.facts(), &entry.order, now)) {
            return Ok(Some(entry));
        }
        let batch = self.journal.ending(leadership, &entry).await?;
        let revision = self.journal.commit(batch).await?;
        crash_point("order::given-up");
        *tries = Tries::default();
        self.metrics.order_finished(issuer, "given-up");
        let why = if entry.order.standby {
            "the certificate itself is more urgent, or needs no standby of that issuer any more"
        } else {
            "the certificate does not name that issuer any more"
        };
        let generation = entry.order.generation;
        let message =
            format!("the order for generation {generation} at {issuer} was given up: {why}");
        self.events.record(EventKind::OrderGivenUp, certificate.as_str(), message);
        self.shown(revision).await;
        Ok(None)
    }

    /// Resolves when what is being ordered is no longer wanted, or must not wait for the order: because the
    /// certificate no longer names the issuer, or its standby is to be served at once.
    pub(super) async fn until_unwanted(&self, certificate: &CertName, wanted: &Wanted) {
        let mut touched = self.mirror.touched();
        loop {
            if !self.is_still_wanted(certificate, wanted) {
                return;
            }
            // Lagging is as good a reason to look again.
            if let Err(tokio::sync::broadcast::error::RecvError::Closed) = touched.recv().await {
                return std::future::pending().await;
            }
        }
    }

    fn is_still_wanted(&self, certificate: &CertName, wanted: &Wanted) -> bool {
        let view = self.mirror.read();
        let now = self.clock.now();
        let issuer = &wanted.issuer.name;
        let is_wanted = view.decide(certificate, |facts| {
            plan::standby::is_wanted_at(facts, issuer, wanted.is_standby, now)
                && plan::turn(facts, now).0 != Turn::Switch
        });
        is_wanted.unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        order::{Outcome, testing::World},
        record::{CertificateSpec, Order, key},
    };

    #[tokio::test(start_paused = true)]
    async fn an_order_that_hangs_at_a_former_issuer_is_given_up_at_once() {
        let world = World::new().await;
        let name = world.declare("www", "main").await;
        world.main.stall("new-order", crate::order::testing::Moment::After);
        let running = tokio::spawn({
            let (orders, leadership) = (world.orders.clone(), world.leadership.clone());
            let name = name.clone();
            async move { orders.run(&leadership, &name, Tries::default()).await }
        });
        world.main.stalled().await;
        let spec: CertificateSpec = world.get(&key::certificate(&name)).await.unwrap();
        let issuers = vec!["spare".parse().unwrap()];
        world.put(key::certificate(&name), &CertificateSpec { issuers, ..spec }).await;
        let Outcome::Again { tries, .. } = running.await.unwrap() else { panic!("it is not over") };
        // What hung on goes on, too late.
        world.main.release();
        assert!(matches!(world.run(&name, tries).await, Outcome::Over));
        let issued = world.state(&name).await.issued.unwrap();
        assert_eq!(issued.issuer.as_str(), "spare");
        assert!(world.get::<Order>(&key::order(&name)).await.is_none());
        assert_eq!(world.state(&name).await.failures, 0);
    }
}

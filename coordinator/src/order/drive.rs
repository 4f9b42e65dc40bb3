//! One order, step after step, until it is over.

use std::time::Duration;

use chancery_shared::{failpoint::crash_point, number::Revision, retry::Policy, secret::Secret};
use instant_acme::{AuthorizationStatus, Identifier as AcmeIdentifier, NewOrder, OrderStatus};
use tracing::Instrument as _;

use super::{
    Error, Orders,
    account::Account,
    ca, chain, error,
    journal::{Entry, check_chain},
    problem, replaces,
    stage::{Step, next_step},
};
use crate::{
    election::Leadership,
    events::printable,
    record::{EventKind, IssuerSpec, Order, Problem, Stage},
    store,
};

/// An order being driven to its end.
pub(super) struct Drive<'a> {
    pub(super) orders: &'a Orders,
    pub(super) leadership: &'a Leadership,
    pub(super) issuer: &'a IssuerSpec,
    pub(super) account: &'a Account,
    pub(super) entry: Entry,
    /// The order as the CA last showed it.
    pub(super) at_ca: Option<instant_acme::Order>,
    /// Whether challenges were presented although the journal said that they were.
    pub(super) presented_again: bool,
}

impl<'a> Drive<'a> {
    pub(super) fn new(
        orders: &'a Orders,
        leadership: &'a Leadership,
        issuer: &'a IssuerSpec,
        account: &'a Account,
        entry: Entry,
    ) -> Self {
        Self { orders, leadership, issuer, account, entry, at_ca: None, presented_again: false }
    }

    /// Does step after step.
    pub(super) async fn finish(mut self) -> Result<Revision, Error> {
        loop {
            // Invariant 1: nothing leaves this process once the lease may be somebody else's.
            self.leadership.check().map_err(|_| Error::SteppedDown)?;
            let status = self.status().await?;
            let step = next_step(&self.entry.order.stage, status);
            tracing::debug!(stage = self.entry.order.stage.name(), ?status, ?step, "next step");
            match step {
                Step::PlaceOrder => self.place().await?,
                Step::Present => self.present().await?,
                Step::Validate => self.validate().await?,
                Step::RecordValidated => {
                    let (url, tokens) = self.journaled();
                    self.advance(Stage::Validated { url, tokens }).await?;
                    crash_point("order::validated");
                }
                Step::Finalize => self.finalize().await?,
                Step::RecordFinalized => {
                    let (url, tokens) = self.journaled();
                    self.advance(Stage::Finalized { url, tokens }).await?;
                    crash_point("order::finalized");
                }
                Step::AwaitIssuance => {
                    self.await_change(OrderStatus::Processing).await?;
                }
                Step::Collect => return self.collect().await,
                Step::Fail => return Err(self.why_invalid().await),
            }
        }
    }

    /// The order's status at the CA; `None` without an order URL.
    async fn status(&mut self) -> Result<Option<OrderStatus>, Error> {
        let Some(url) = self.entry.order.stage.url() else { return Ok(None) };
        let (ours, now) = (&self.entry.order.account, self.account.id());
        if ours != now {
            // The issuer's directory was changed, or the CA has lost the account: the order cannot be
            // asked for any more, least of all at another CA.
            return Err(Error::OrderUnknown(format!("{url} of account {ours}; it is now {now}")));
        }
        if self.at_ca.is_none() {
            let fetched = self.account.order(url.to_owned()).await.map_err(Error::from);
            let order = fetched.map_err(|error| match error {
                // The CA has forgotten it, or it belongs to an account that is gone.
                Error::Rejected { message, .. } => Error::OrderUnknown(format!("{url}: {message}")),
                other => other,
            })?;
            self.at_ca = Some(order);
        }
        Ok(self.at_ca.as_mut().map(|order| order.state().status))
    }

    /// Sends newOrder and journals the URL. Not ended by dropping, and held by a leader that hands over:
    /// an order whose answer nobody waits for would be lost at the CA.
    async fn place(&mut self) -> Result<(), Error> {
        let hold = self.leadership.hold().map_err(|_| Error::SteppedDown)?;
        let (journal, leadership) = (self.orders.journal.clone(), self.leadership.clone());
        let (account, mut entry) = (self.account.clone(), self.entry.clone());
        let metrics = self.orders.metrics.clone();
        let placing = async move {
            let _hold = hold;
            let identifiers = entry.order.identifiers.iter();
            let identifiers: Vec<_> = identifiers
                .map(|identifier| match identifier.ip() {
                    Some(address) => AcmeIdentifier::Ip(address),
                    None => AcmeIdentifier::Dns(identifier.as_str().to_owned()),
                })
                .collect();
            let replaced = entry.order.replaces.as_deref().and_then(replaces::parse);
            let mut request = NewOrder::new(&identifiers);
            if let Some(replaced) = &replaced {
                request = request.replaces(replaced.clone());
            }
            if let Some(profile) = &entry.order.profile {
                request = request.profile(profile);
            }
            let at_ca = replaces::new_order(&account, &request).await;
            if let (Some(_), Err(error)) = (&replaced, &at_ca)
                && let Some(reason) = replaces::refused(error)
            {
                return Err(Error::NotReplaceable(reason));
            }
            let (url, at_ca) = at_ca.map_err(|error| {
                if !ca::may_have_ordered(&error) {
                    return Error::from(error);
                }
                metrics.order_possibly_orphaned(&entry.order.issuer);
                // The intent ends here: no second order is made for it.
                match Error::from(error) {
                    Error::CaUnreachable(reason) => Error::AnswerLost(reason),
                    other => other,
                }
            })?;
            crash_point("order::before-placed");
            account.id().clone_into(&mut entry.order.account);
            let issuer = entry.order.issuer.clone();
            let entry = journal.advance(&leadership, entry, Stage::Placed { url }).await;
            let entry = entry.inspect_err(|error| {
                tracing::warn!(%error, "the CA has an order that could not be written down");
                // After a fenced write the successor counts it.
                if !matches!(error, Error::Store(store::Error::Fenced { .. })) {
                    metrics.order_possibly_orphaned(&issuer);
                }
            })?;
            Ok((at_ca, entry))
        };
        let placed = tokio::spawn(placing.in_current_span()).await;
        let placed = placed.unwrap_or_else(|error| Err(Error::CaUnreachable(error.to_string())));
        if let Err(Error::NotReplaceable(reason)) = &placed {
            tracing::info!(
                reason,
                "the CA does not take it as a replacement; it is ordered afresh"
            );
            let afresh = self.orders.without_replacing(self.leadership, self.entry.clone()).await;
            self.entry = afresh.map_err(|error| match error {
                // The intent ends here, and the next one, which replaces nothing, waits its turn.
                Error::BudgetSpent { .. } => Error::NotReplaceable(reason.clone()),
                other => other,
            })?;
            return Ok(());
        }
        let (at_ca, entry) = placed?;
        self.at_ca = at_ca;
        self.entry = entry;
        crash_point("order::placed");
        Ok(())
    }

    async fn finalize(&mut self) -> Result<(), Error> {
        let pkcs8 = self.orders.journal.private_key(&self.entry.order)?;
        let csr = request_der(&self.entry.order, &pkcs8)?;
        self.leadership.check().map_err(|_| Error::SteppedDown)?;
        known(&mut self.at_ca)?.finalize_csr(&csr).await?;
        crash_point("order::before-finalized");
        let (url, tokens) = self.journaled();
        self.advance(Stage::Finalized { url, tokens }).await?;
        crash_point("order::finalized");
        Ok(())
    }

    async fn collect(mut self) -> Result<Revision, Error> {
        let at_ca = known(&mut self.at_ca)?;
        let (pem, remark) = match &self.issuer.preferred_chain {
            Some(root) => chain::preferred(self.account, at_ca, root).await?,
            None => (at_ca.certificate().await?, None),
        };
        let pem = pem.ok_or_else(|| Error::CaUnreachable("the chain is not ready".to_owned()))?;
        let pkcs8 = self.orders.journal.private_key(&self.entry.order)?;
        let now = self.orders.clock.now();
        let collected = check_chain(&self.entry.order, &pkcs8, &pem, now)?;
        crash_point("order::collected");
        let Self { orders, leadership, entry, .. } = self;
        let (issued, revision) = orders.end_issued(leadership, &entry, collected).await?;
        crash_point("order::issued");
        let order = &entry.order;
        tracing::info!(generation = %order.generation, serial = issued.serial, "issued");
        orders.metrics.order_finished(&order.issuer, "issued");
        let (kind, what) = if order.standby {
            (EventKind::StandbyIssued, "standby, generation")
        } else {
            (EventKind::CertificateIssued, "generation")
        };
        let message = format!(
            "{what} {} issued by {}, serial {}, valid until {}{}",
            order.generation,
            issued.issued_by,
            issued.serial,
            issued.not_after,
            remark.unwrap_or_default()
        );
        orders.events.record(kind, order.certificate.as_str(), message);
        Ok(revision)
    }

    /// Asks the CA until the order is no longer in `status`. The order's deadline bounds it.
    pub(super) async fn await_change(&mut self, status: OrderStatus) -> Result<(), Error> {
        let mut waits = POLL.waits();
        loop {
            tokio::select! {
                biased;
                () = self.leadership.ended() => return Err(Error::SteppedDown),
                () = tokio::time::sleep(waits.next_wait()) => {}
            }
            if known(&mut self.at_ca)?.refresh().await?.status != status {
                return Ok(());
            }
        }
    }

    /// What the CA says of an order that it gave up.
    async fn why_invalid(&mut self) -> Error {
        let (mut reasons, mut failed) = (Vec::new(), Vec::new());
        let mut kept: Option<Problem> = None;
        if let Ok(order) = known(&mut self.at_ca) {
            if let Some(problem) = &order.state().error {
                reasons.push(error::describe(problem));
                kept = Some(problem::keep(problem));
            }
            let mut authorizations = order.authorizations();
            while let Some(Ok(authorization)) = authorizations.next().await {
                let identifier = authorization.identifier().to_string();
                let problems = authorization
                    .challenges
                    .iter()
                    .filter_map(|challenge| challenge.error.as_ref());
                if authorization.status == AuthorizationStatus::Invalid {
                    failed.extend(identifier.parse().ok());
                }
                for found in problems {
                    let kept = kept.get_or_insert_default();
                    let kind = found.r#type.as_deref().unwrap_or_default();
                    let detail = found.detail.as_deref().unwrap_or_default();
                    problem::add(kept, &identifier, kind, detail);
                    reasons.push(format!("{identifier}: {}", error::describe(found)));
                }
            }
        }
        if reasons.is_empty() {
            reasons.push("the order is no longer valid, and the CA does not say why".to_owned());
        }
        let message = printable(&reasons.join("; "), MOST_TOLD);
        Error::Rejected { message, failed, problem: kept.map(Box::new) }
    }

    async fn advance(&mut self, stage: Stage) -> Result<(), Error> {
        let entry = self.entry.clone();
        self.entry = self.orders.journal.advance(self.leadership, entry, stage).await?;
        Ok(())
    }

    /// URL and tokens for the next stage.
    fn journaled(&self) -> (String, Vec<String>) {
        let stage = &self.entry.order.stage;
        (stage.url().unwrap_or_default().to_owned(), stage.tokens().to_vec())
    }
}

/// The order as the CA last showed it: each step but the first has it.
pub(super) fn known(
    at_ca: &mut Option<instant_acme::Order>,
) -> Result<&mut instant_acme::Order, Error> {
    at_ca.as_mut().ok_or_else(|| Error::CaUnreachable("the order was not fetched".to_owned()))
}

/// The certificate signing request of an order (RFC 8555 section 7.4, RFC 2986), DER.
fn request_der(order: &Order, pkcs8: &Secret) -> Result<Vec<u8>, Error> {
    let crypto = |error: rcgen::Error| Error::Crypto(error.to_string());
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(pkcs8.expose_secret());
    let key = rcgen::KeyPair::try_from(&der).map_err(crypto)?;
    let names: Vec<String> = order.identifiers.iter().map(ToString::to_string).collect();
    let mut params = rcgen::CertificateParams::new(names).map_err(crypto)?;
    // The identifiers stand in the SAN extension; CAs ignore the subject.
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(&key).map_err(crypto)?.der().to_vec())
}

/// Bytes of all that a CA says about one order that are kept.
const MOST_TOLD: usize = 2000;
/// Between looks at an order that the CA is working on.
const POLL: Policy =
    Policy { first: Duration::from_millis(20), most: Duration::from_secs(5), factor: 2 };

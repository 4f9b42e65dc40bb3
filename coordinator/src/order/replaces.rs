//! Orders that say which certificate they replace (RFC 9773), and what a CA says about those.

use std::time::Duration;

use instant_acme::{Account, CertificateIdentifier, NewOrder};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use super::{Error, Orders, ca, error::describe};
use crate::{
    election::Leadership,
    record::{CertificateState, IssuerSpec, RenewalInfo},
};

/// When a CA suggests to renew a certificate (RFC 9773 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// The certificate's identifier in ACME (section 4.1).
    pub id: String,
    /// Start of the window.
    pub start: Timestamp,
    /// End of the window.
    pub end: Timestamp,
    /// A page that says why.
    pub explanation_url: Option<String>,
    /// How long to wait before asking again (section 4.3).
    pub retry_after: Duration,
}

impl Orders {
    /// Asks the CA when to renew what it issued. `None` if it does not say such things at all.
    pub async fn suggestion(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        leaf: &[u8],
    ) -> Result<Option<Suggestion>, Error> {
        self.budgets.open(leadership, issuer).await?.check_requests(self.clock.now())?;
        // The pauses of orders are obeyed, but neither begun nor ended: a CA that does not answer these
        // questions may issue all the same, and the other way round.
        self.pauses.check(&issuer.name, self.clock.monotonic())?;
        let visit = self.question_pauses.enter(&issuer.name, self.clock.monotonic())?;
        let suggestion = self.suggestion_of(leadership, issuer, leaf).await;
        visit.ended(&suggestion, self.clock.monotonic());
        if let Err(error @ Error::CaBusy { .. }) = &suggestion {
            self.note_refusal(leadership, issuer, &[], error).await?;
        }
        suggestion
    }

    async fn suggestion_of(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        leaf: &[u8],
    ) -> Result<Option<Suggestion>, Error> {
        let account = self.accounts.open(leadership, issuer, || Ok(())).await?;
        let leaf = CertificateDer::from(leaf);
        // Without an authority key identifier it has no name that a CA could be asked by.
        let Ok(id) = CertificateIdentifier::try_from(&leaf) else { return Ok(None) };
        let (info, retry_after) = match account.renewal_info(&id).await {
            Ok(answer) => answer,
            Err(instant_acme::Error::Unsupported(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let time = |time: time::OffsetDateTime| {
            Timestamp::from_nanosecond(time.unix_timestamp_nanos())
                .map_err(|error| Error::CaUnreachable(format!("its window is not one: {error}")))
        };
        let window = info.suggested_window;
        Ok(Some(Suggestion {
            id: id.to_string(),
            start: time(window.start)?,
            end: time(window.end)?,
            explanation_url: info.explanation_url,
            retry_after,
        }))
    }
}

/// The name by which a CA knows a certificate, DER (RFC 9773 section 4.1), if it has an authority key
/// identifier.
pub fn identifier_of(leaf: &[u8]) -> Option<String> {
    let leaf = CertificateDer::from(leaf);
    CertificateIdentifier::try_from(&leaf).ok().map(|id| id.to_string())
}

/// Whether an order would say what it replaces.
pub fn replaces(
    state: &CertificateState,
    issuer: &IssuerSpec,
    identifiers: &[chancery_shared::identifier::Identifier],
    info: Option<&RenewalInfo>,
) -> bool {
    replaced(state, issuer, identifiers, info).is_some()
}

/// What a new order of `issuer` replaces: what it issued last, if it knows that by name.
pub(super) fn replaced(
    state: &CertificateState,
    issuer: &IssuerSpec,
    identifiers: &[chancery_shared::identifier::Identifier],
    info: Option<&RenewalInfo>,
) -> Option<String> {
    if state.last_failure.as_ref().is_some_and(|failure| failure.code == NOT_REPLACEABLE) {
        return None;
    }
    let present = state.issued.as_ref().filter(|present| present.issuer == issuer.name)?;
    let info = crate::plan::ari::about(present, info)?;
    let shared = present.identifiers.iter().any(|identifier| identifiers.contains(identifier));
    (shared && !info.id.is_empty()).then(|| info.id.clone())
}

/// Sends newOrder, and returns the URL of what was made with what the CA said of it. One that takes an
/// order but does not say that it replaces what it should (RFC 9773 section 5 wants it to) has made one
/// all the same: that is the one, to be asked for, and no other is made.
pub(super) async fn new_order(
    account: &Account,
    request: &NewOrder<'_>,
) -> Result<(String, Option<instant_acme::Order>), instant_acme::Error> {
    match ca::noting_location(account.new_order(request)).await {
        (Err(instant_acme::Error::Other(error)), Some(url)) => {
            tracing::info!(%error, url, "the CA has made the order, but not as a replacement");
            Ok((url, None))
        }
        (answer, _) => answer.map(|order| (order.url().to_owned(), Some(order))),
    }
}

/// The code of a failure after which the next order does not say that it replaces anything.
pub(super) const NOT_REPLACEABLE: &str = "not-replaceable";

/// The identifier as the CA wants it.
pub(super) fn parse(id: &str) -> Option<CertificateIdentifier<'static>> {
    let (authority_key_identifier, serial) = id.split_once('.')?;
    Some(CertificateIdentifier {
        authority_key_identifier: authority_key_identifier.to_owned().into(),
        serial: serial.to_owned().into(),
    })
}

/// What the CA has against an order that says what it replaces, if it may have nothing against one that does not:
/// it has replaced that already (RFC 9773 section 7.4), another account had ordered it, or the CA has forgotten
/// it.
pub(super) fn refused(error: &instant_acme::Error) -> Option<String> {
    match error {
        instant_acme::Error::Api(problem) => {
            let kind = problem.r#type.as_deref().unwrap_or_default();
            let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind);
            matches!(kind, "alreadyReplaced" | "unauthorized" | "malformed" | "conflict")
                .then(|| describe(problem))
        }
        instant_acme::Error::Unsupported(what) => Some(format!("it does not support {what}")),
        _ => None,
    }
}

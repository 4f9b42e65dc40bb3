//! Revocation of a certificate (RFC 8555 section 7.6), by the account that has ordered it.

use chancery_shared::{failpoint::crash_point, revocation::RevocationReason};
use instant_acme::{RevocationReason as AcmeReason, RevocationRequest};
use rustls_pki_types::CertificateDer;

use super::{Error, Orders};
use crate::{
    election::Leadership,
    events::printable,
    record::{self, EventKind, Revocation, RevocationEnd, key},
};

impl Orders {
    /// Has the CA revoke a certificate, and writes down how that ended. May be repeated: one that is
    /// revoked already is revoked. An error has not ended it.
    pub async fn revoke(
        &self,
        leadership: &Leadership,
        revocation: &Revocation,
    ) -> Result<(), Error> {
        let Some(issuer) = self.journal.issuer(&revocation.issuer).await? else {
            let gone = format!("its issuer {} is no longer declared", revocation.issuer);
            return self.revocation_ended(leadership, revocation, Some(gone)).await;
        };
        let visit = self.pauses.enter(&issuer.name, self.clock.monotonic())?;
        let asked = async {
            let still = || visit.check(self.clock.monotonic());
            let account = self.accounts.open(leadership, &issuer, still).await?;
            leadership.check().map_err(|_| Error::SteppedDown)?;
            let certificate = CertificateDer::from(revocation.leaf.as_slice());
            let request =
                RevocationRequest { certificate: &certificate, reason: reason(revocation.reason) };
            let answer = account.revoke(&request).await;
            crash_point("revocation::told");
            match answer {
                Err(instant_acme::Error::Api(problem))
                    if problem.r#type.as_deref() == Some(ALREADY_REVOKED) =>
                {
                    Ok(())
                }
                answer => match answer.map_err(Error::from) {
                    Err(Error::AccountUnknown) => {
                        self.accounts.forget(leadership, &issuer.name, account.id()).await?;
                        Err(Error::AccountUnknown)
                    }
                    // It was signed by a key that has just been given up: asked for again.
                    Err(Error::Rejected { .. })
                        if !self.accounts.is_current(&issuer.name, &account).await =>
                    {
                        Err(Error::AccountChanged)
                    }
                    answer => answer,
                },
            }
        };
        let answer = asked.await;
        // A CA that does not revoke may issue all the same: its orders need not wait for that.
        if answer.is_ok() {
            visit.ended(&answer, self.clock.monotonic());
        }
        match answer {
            Ok(()) => self.revocation_ended(leadership, revocation, None).await,
            Err(Error::Rejected { message, .. }) => {
                self.revocation_ended(leadership, revocation, Some(message)).await
            }
            Err(error) => Err(error),
        }
    }

    async fn revocation_ended(
        &self,
        leadership: &Leadership,
        revocation: &Revocation,
        refused: Option<String>,
    ) -> Result<(), Error> {
        let Revocation { certificate, generation, serial, reason, requested_by, .. } = revocation;
        let at = key::revocation(certificate, *generation);
        let Some((stored, revision)) = self.journal.read::<Revocation>(&at).await? else {
            return Ok(());
        };
        if stored != *revocation {
            // Somebody has asked again; the next look sees it.
            return Ok(());
        }
        let refused = refused.map(|message| printable(&message, MOST_TOLD));
        let ended = Some(RevocationEnd { at: self.clock.now(), refused: refused.clone() });
        let ended = Revocation { ended, ..stored };
        let batch =
            leadership.batch().unchanged(&at, Some(revision)).put(&at, record::encode(&ended));
        let revision = self.journal.commit(batch).await?;
        let (kind, what) = match &refused {
            None => (EventKind::CertificateRevoked, "was revoked".to_owned()),
            Some(said) => (EventKind::RevocationRefused, format!("is not revoked: {said}")),
        };
        let message = format!(
            "generation {generation}, serial {serial}, {what} ({reason}, asked for by {requested_by})"
        );
        self.events.record(kind, certificate.as_str(), message);
        self.shown(revision).await;
        Ok(())
    }
}

fn reason(reason: RevocationReason) -> Option<AcmeReason> {
    // A CRL does not tell that none was told (RFC 5280 section 5.3.1).
    Some(match reason {
        RevocationReason::Unspecified => return None,
        RevocationReason::KeyCompromise => AcmeReason::KeyCompromise,
        RevocationReason::AffiliationChanged => AcmeReason::AffiliationChanged,
        RevocationReason::Superseded => AcmeReason::Superseded,
        RevocationReason::CessationOfOperation => AcmeReason::CessationOfOperation,
        RevocationReason::PrivilegeWithdrawn => AcmeReason::PrivilegeWithdrawn,
    })
}

const ALREADY_REVOKED: &str = "urn:ietf:params:acme:error:alreadyRevoked";
const MOST_TOLD: usize = 1000;

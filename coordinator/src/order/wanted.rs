//! What is to be ordered, and of whom.

use chancery_shared::name::CertName;

use super::{Error, Orders, Wanted, account::Account, journal::Entry, replaces};
use crate::plan;

impl Orders {
    /// What is to be ordered; `None` if nothing is. Decided upon what the store says, not the
    /// mirror, which may be behind: what was issued a moment ago is not ordered again.
    pub(super) async fn wanted(
        &self,
        certificate: &CertName,
        live: Option<&Entry>,
    ) -> Result<Option<Wanted>, Error> {
        let Some((spec, spec_revision)) = self.journal.spec(certificate).await? else {
            return Ok(None);
        };
        let (state, state_revision) = self.journal.state(certificate).await?;
        let now = self.clock.now();
        let (info, freezes) = {
            let view = self.mirror.read();
            let info = view.renewal_infos.get(certificate).map(|info| info.record.clone());
            (info, view.freezes_of(&spec))
        };
        let renewal_info = info.as_deref();
        let facts = plan::Facts {
            spec: &spec,
            state: Some(&state),
            order: None,
            renewal_info,
            freezes: &freezes,
        };
        let decision = plan::decide(&facts, now);
        let issuer = if let Some(entry) = live {
            entry.order.issuer.clone()
        } else if decision.is_due(now) {
            let issuer = plan::issuer_for(&spec, Some(&state));
            issuer.ok_or_else(|| Error::BadIssuer("none is named".to_owned()))?.clone()
        } else {
            return Ok(None);
        };
        let issuer = self.journal.issuer(&issuer).await?.ok_or_else(|| {
            Error::BadIssuer(format!("{issuer} is not declared; apply a file that declares it"))
        })?;
        let reason = decision.message;
        let replaces = replaces::replaced(&state, &issuer, &spec.identifiers, renewal_info);
        let urgent = plan::is_urgent(Some(&state), renewal_info, now);
        Ok(Some(Wanted {
            spec,
            spec_revision,
            state,
            state_revision,
            issuer,
            reason,
            replaces,
            urgent,
        }))
    }
}

impl Wanted {
    /// The profile to ask for: the certificate's own, or else the issuer's.
    pub(super) fn profile(&self) -> Option<&str> {
        self.spec.profile.as_deref().or(self.issuer.profile.as_deref())
    }

    /// Asks for no profile that the CA does not have: the order would be refused, or worse, made.
    pub(super) fn check_profile(&self, account: &Account) -> Result<(), Error> {
        let Some(wanted) = self.profile() else { return Ok(()) };
        let mut known: Vec<&str> = account.profiles().map(|profile| profile.name).collect();
        if known.contains(&wanted) {
            return Ok(());
        }
        known.sort_unstable();
        let remedy = if known.is_empty() {
            "it offers none: leave profile out".to_owned()
        } else {
            format!("it offers {}; name one of them in profile, or leave it out", known.join(", "))
        };
        let issuer = &self.issuer.name;
        Err(Error::UnknownProfile(format!("issuer {issuer} has no profile {wanted:?}: {remedy}")))
    }
}

//! What is to be ordered, and of whom.

use std::sync::Arc;

use chancery_shared::{
    name::CertName,
    number::{Generation, Revision},
};
use jiff::Timestamp;

use super::{Error, Orders, Wanted, account::Account, journal::Entry, replaces};
use crate::{
    plan::{self, Facts, Turn},
    record::{CertificateSpec, CertificateState, Freeze, IssuerSpec, RenewalInfo, Standby},
};

impl Orders {
    /// What is to be ordered; `None` if nothing is. Decided upon what the store says, not the
    /// mirror, which may be behind: what was issued a moment ago is not ordered again.
    pub(super) async fn wanted(
        &self,
        certificate: &CertName,
        live: Option<&Entry>,
    ) -> Result<Option<Wanted>, Error> {
        let Some(known) = self.known(certificate).await? else { return Ok(None) };
        let now = self.clock.now();
        let (turn, decision) = plan::turn(&known.facts(), now);
        let is_standby = match live {
            Some(entry) => entry.order.standby,
            None if !decision.is_due(now) || turn == Turn::Switch => return Ok(None),
            None => turn == Turn::Standby,
        };
        let Facts { spec, state, renewal_info, .. } = known.facts();
        let issuer = match live {
            Some(entry) => Some(&entry.order.issuer),
            None if is_standby => plan::standby::issuer_for(spec, state),
            None => plan::issuer_for(spec, state),
        };
        let issuer = issuer.ok_or_else(|| Error::BadIssuer("none is named".to_owned()))?;
        let issuer = self.journal.issuer(issuer).await?.ok_or_else(|| {
            Error::BadIssuer(format!("{issuer} is not declared; apply a file that declares it"))
        })?;
        if is_standby {
            return Ok(Some(known.wanted_standby(issuer, now)));
        }
        let replaces = replaces::replaced(&known.state, &issuer, &spec.identifiers, renewal_info);
        let urgent = plan::is_urgent(state, renewal_info, now);
        let decision = plan::decide(&known.facts(), now);
        let present = known.newest_number();
        Ok(Some(Wanted {
            spec: known.spec,
            spec_revision: known.spec_revision,
            state: known.state,
            state_revision: known.state_revision,
            present,
            is_standby,
            issuer,
            reason: decision.message,
            replaces,
            urgent,
        }))
    }

    /// Whether an order that could not begin would have been one for the standby.
    pub(super) async fn is_turn_of_standby(&self, certificate: &CertName) -> Result<bool, Error> {
        let Some(known) = self.known(certificate).await? else { return Ok(false) };
        Ok(plan::turn(&known.facts(), self.clock.now()).0 == Turn::Standby)
    }

    /// What the store has of a certificate, if it is declared.
    pub(super) async fn known(&self, certificate: &CertName) -> Result<Option<Known>, Error> {
        let Some((spec, spec_revision)) = self.journal.spec(certificate).await? else {
            return Ok(None);
        };
        let (state, state_revision) = self.journal.state(certificate).await?;
        let (renewal_info, freezes, had_standby) = {
            let view = self.mirror.read();
            let info = view.renewal_infos.get(certificate).map(|info| info.record.clone());
            (info, view.freezes_of(&spec), view.standbys.contains_key(certificate))
        };
        // Most have none, and need not be asked for it.
        let standby = if spec.standby.is_some() || had_standby {
            self.journal.standby(certificate).await?
        } else {
            None
        };
        let (standby, standby_revision) = standby.unzip();
        Ok(Some(Known {
            spec,
            spec_revision,
            state,
            state_revision,
            renewal_info,
            freezes,
            standby,
            standby_revision,
        }))
    }
}

/// What the store has of a certificate, and as of which revisions.
pub(super) struct Known {
    pub(super) spec: CertificateSpec,
    pub(super) spec_revision: Revision,
    pub(super) state: CertificateState,
    pub(super) state_revision: Option<Revision>,
    renewal_info: Option<Arc<RenewalInfo>>,
    freezes: Vec<Arc<Freeze>>,
    pub(super) standby: Option<Standby>,
    pub(super) standby_revision: Option<Revision>,
}

impl Known {
    /// For a decision, as if no order were under way.
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            spec: &self.spec,
            state: Some(&self.state),
            order: None,
            renewal_info: self.renewal_info.as_deref(),
            freezes: &self.freezes,
            standby: self.standby.as_ref(),
        }
    }

    /// The highest number that a bundle of it has.
    pub(super) fn newest_number(&self) -> Generation {
        let standby = self.standby.as_ref().map(|standby| standby.state.generation);
        self.state.generation.max(standby.unwrap_or_default())
    }

    /// Its standby, to be ordered as a certificate of its own.
    fn wanted_standby(self, issuer: IssuerSpec, now: Timestamp) -> Wanted {
        let reason = plan::standby::order(&self.facts(), now).map(|decision| decision.message);
        Wanted {
            present: self.newest_number(),
            spec: plan::standby::spec_from(&self.spec, &issuer.name),
            spec_revision: self.spec_revision,
            state: self.standby.map(|standby| standby.state).unwrap_or_default(),
            state_revision: self.standby_revision,
            is_standby: true,
            issuer,
            reason: format!("its standby: {}", reason.unwrap_or_default()),
            replaces: None,
            urgent: false,
        }
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

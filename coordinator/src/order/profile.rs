//! Which of a CA's profiles an order asks for.

use super::{Error, Wanted, account::Account};

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

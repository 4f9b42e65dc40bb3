//! Another key for an account, and its end.

use std::{sync::Arc, time::Duration};

use chancery_shared::{failpoint::crash_point, secret::Secret};
use instant_acme::Key;
use jiff::Timestamp;

use super::{Accounts, Stored};
use crate::{
    election::Leadership,
    events::printable,
    order::{
        Error, Orders,
        ca::WhileLeading,
        jose::{AccountKey, Requests},
    },
    record::{self, AccountChange, AccountChangeEnd, AccountDeed, EventKind, IssuerSpec},
    seal::Context,
};

impl Orders {
    /// Does to the account at an issuer what an operator wants, if that has not been done yet, and
    /// writes down how it ended. May be repeated; an error has not ended it.
    pub async fn change_account(
        &self,
        leadership: &Leadership,
        issuer: &chancery_shared::name::IssuerName,
    ) -> Result<(), Error> {
        let Some(issuer) = self.journal.issuer(issuer).await? else { return Ok(()) };
        // An order whose challenges are presented fails when the key under them changes.
        let mut touched = self.mirror.touched();
        let over = async {
            while self.has_orders_at(&issuer) {
                // Lagging is as good a reason to look again.
                let _ = touched.recv().await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, over).await;
        let now = || self.clock.now();
        let Some(change) = self.accounts.change(leadership, &issuer, &now).await? else {
            return Ok(());
        };
        let (deed, by) = (change.what, &change.requested_by);
        let message = match change.ended.and_then(|ended| ended.refused) {
            None => match deed {
                AccountDeed::Create => format!("the CA has the account ({by})"),
                AccountDeed::Roll => format!("the account has another key ({by})"),
                AccountDeed::Deactivate => format!("the account is deactivated ({by})"),
            },
            Some(said) => format!("the CA did not {} the account ({by}): {said}", deed.name()),
        };
        self.events.record(EventKind::AccountChanged, issuer.name.as_str(), message);
        Ok(())
    }

    fn has_orders_at(&self, issuer: &IssuerSpec) -> bool {
        let view = self.mirror.read();
        view.orders.values().any(|order| order.record.issuer == issuer.name)
    }
}

impl Accounts {
    /// Does what is asked for; `None` if nothing is.
    async fn change(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        now: &(dyn Fn() -> Timestamp + Send + Sync),
    ) -> Result<Option<AccountChange>, Error> {
        let slot = self.slot(&issuer.name);
        let mut slot = slot.lock().await;
        let Some(stored) = self.stored(&issuer.name).await? else { return Ok(None) };
        let Some(change) = stored.account.change.clone().filter(|change| change.ended.is_none())
        else {
            return Ok(None);
        };
        // Whatever comes of it, nobody goes on with the key of before without a look.
        slot.take();
        let done = match change.what {
            AccountDeed::Create => self.restore_or_create(leadership, issuer).await.map(|_| stored),
            AccountDeed::Roll => self.roll(leadership, issuer, stored).await,
            AccountDeed::Deactivate => self.deactivate(leadership, issuer, stored, now()).await,
        };
        let refused = match done {
            Ok(_) => None,
            Err(Error::Rejected { message, .. } | Error::AccountBinding(message)) => {
                Some(printable(&message, MOST_TOLD))
            }
            Err(error) => return Err(error),
        };
        let Some(Stored { account, revision }) = self.stored(&issuer.name).await? else {
            return Ok(None);
        };
        let ended = Some(AccountChangeEnd { at: now(), refused });
        let change = AccountChange { ended, ..change };
        let account = record::Account { change: Some(change.clone()), ..account };
        self.write(leadership, &issuer.name, &account, Some(revision)).await?;
        Ok(Some(change))
    }

    /// Gives the account another key. What the CA refuses is undone.
    pub(super) async fn roll(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        stored: Stored,
    ) -> Result<Stored, Error> {
        let name = &issuer.name;
        let Stored { mut account, mut revision } = stored;
        let Some(url) = account.url.clone() else { return Err(no_account()) };
        let requests = self.requests(leadership, issuer)?;
        let old = self.sealer.open(&Context::account(name), &account.key)?;
        let (next, is_new) = if let Some(next) = &account.next_key {
            (self.sealer.open(&Context::next_account(name), next)?, false)
        } else {
            let (_, pkcs8) = Key::generate_pkcs8()?;
            let next = Secret::new(pkcs8.secret_pkcs8_der().to_vec());
            let sealed = self.sealer.seal(&Context::next_account(name), next.expose_secret());
            account.next_key = Some(sealed);
            revision = self.write(leadership, name, &account, Some(revision)).await?;
            (next, true)
        };
        crash_point("account::next-key");
        let new = AccountKey::of(&next)?;
        leadership.check().map_err(|_| Error::SteppedDown)?;
        let is_known =
            !is_new && requests.find_account(&new).await?.is_some_and(|found| found.url == url);
        let changed = if is_known {
            Ok(())
        } else {
            requests.change_key(&AccountKey::of(&old)?, &new, &url).await
        };
        crash_point("account::rolled");
        account.next_key = None;
        match changed {
            Ok(()) => {
                let before = AccountKey::of(&old)?.thumbprint();
                account.former_thumbprints.insert(0, before);
                account.key = self.sealer.seal(&Context::account(name), next.expose_secret());
                let revision = self.write(leadership, name, &account, Some(revision)).await?;
                tracing::info!(issuer = %name, account = url, "the account has another key");
                Ok(Stored { account, revision })
            }
            Err(error @ Error::Rejected { .. }) => {
                self.write(leadership, name, &account, Some(revision)).await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn deactivate(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        stored: Stored,
        now: Timestamp,
    ) -> Result<Stored, Error> {
        let Stored { account, revision } = stored;
        let Some(url) = account.url.clone() else { return Err(no_account()) };
        let pkcs8 = self.sealer.open(&Context::account(&issuer.name), &account.key)?;
        let requests = self.requests(leadership, issuer)?;
        leadership.check().map_err(|_| Error::SteppedDown)?;
        match requests.deactivate(&AccountKey::of(&pkcs8)?, &url).await {
            Ok(()) => {}
            // A former try has got through, and its answer has not.
            Err(Error::Rejected { message, .. }) if message.contains("deactivated") => {}
            Err(error) => return Err(error),
        }
        crash_point("account::deactivated");
        let account = record::Account { deactivated_at: Some(now), ..account };
        let revision = self.write(leadership, &issuer.name, &account, Some(revision)).await?;
        tracing::info!(issuer = %issuer.name, account = url, "the account is deactivated");
        Ok(Stored { account, revision })
    }

    fn requests(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
    ) -> Result<Arc<Requests>, Error> {
        let http = WhileLeading::new((self.connect)(issuer)?, leadership.clone());
        Ok(Arc::new(Requests::new(http, &issuer.directory)))
    }
}

fn no_account() -> Error {
    let message = "there is no account yet".to_owned();
    Error::Rejected { message, failed: Vec::new(), problem: None }
}

/// For orders that are under way.
const PATIENCE: Duration = Duration::from_secs(30);
const MOST_TOLD: usize = 1000;

//! ACME accounts (RFC 8555 section 7.1.2): one for each issuer, shared by all coordinators.
//!
//! The key is stored, sealed, before the CA hears of it. newAccount with a key that the CA
//! knows returns the account that it has (RFC 8555 section 7.3.1), so a coordinator that dies between the
//! two steps leaves nothing behind that its successor does not pick up, and no
//! second account.
//!
//! # External account bindings
//!
//! A CA takes a binding (section 7.3.4) once. So it is written down before it is sent, beside the one key
//! that it is sent with. Whoever finds it there does not know whether the CA has seen it, and asks for
//! the account of that key first: if there is one the binding has done its work, and if there is none it
//! can be sent again, for the same key. No key but that one is ever bound with it.
//!
//! # Another key
//!
//! In a rollover (section 7.3.5) the new key is written down beside the old one before the CA hears of it.
//! Whoever finds two keys asks the CA by the new one: if it has the account, the rollover has got
//! through, and if not it is sent again.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex},
};

use chancery_shared::{
    failpoint::crash_point,
    name::IssuerName,
    number::{Epoch, Revision},
};
use instant_acme::{HttpClient, Key};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::{
    Error,
    ca::WhileLeading,
    jose::{AccountKey, Binding, Directory, Found, Reply, Requests},
};
use crate::{
    challenge::dns_persist01::Holder,
    election::Leadership,
    record::{self, IssuerSpec, key},
    seal::{Context, Sealer},
    store::{self, Store},
};

mod change;

/// The accounts in use, opened once.
pub struct Accounts {
    store: Arc<dyn Store>,
    sealer: Sealer,
    connect: Connect,
    open: Mutex<HashMap<IssuerName, Slot>>,
}

/// Makes the client for an issuer.
pub type Connect = Arc<dyn Fn(&IssuerSpec) -> Result<Box<dyn HttpClient>, Error> + Send + Sync>;

/// One issuer's place. Its lock is held while the account is being opened, so that orders that
/// start together open it once, and a hanging CA holds up its own orders only.
type Slot = Arc<tokio::sync::Mutex<Option<Open>>>;

/// An account in use, for one term: its requests end with that.
struct Open {
    spec: IssuerSpec,
    epoch: Epoch,
    account: Account,
}

/// An account that the CA has, for requests.
#[derive(Clone)]
pub struct Account {
    acme: instant_acme::Account,
    key: Arc<AccountKey>,
    former_thumbprints: Arc<[String]>,
    requests: Arc<Requests>,
}

impl Account {
    /// What is at `url`, as the account sees it: POST-as-GET (RFC 8555 section 6.3).
    pub(super) async fn get(&self, url: &str) -> Result<Reply, Error> {
        self.requests.get(&self.key, self.acme.id(), url).await
    }

    /// What the CA says of itself.
    pub(super) async fn directory(&self) -> Result<&Directory, Error> {
        self.requests.directory().await
    }

    /// The account, as records in the DNS name it.
    pub(super) fn holder(&self) -> Holder {
        holder(self.acme.id(), &self.key, &self.former_thumbprints)
    }
}

impl Deref for Account {
    type Target = instant_acme::Account;

    fn deref(&self) -> &instant_acme::Account {
        &self.acme
    }
}

fn holder(url: &str, key: &AccountKey, former: &[String]) -> Holder {
    let thumbprints = std::iter::once(key.thumbprint()).chain(former.iter().cloned());
    Holder { url: url.to_owned(), thumbprints: thumbprints.collect() }
}

/// The account in `account`, as records in the DNS name it; `None` before the CA has confirmed it.
pub(crate) fn holder_of(
    sealer: &Sealer,
    issuer: &IssuerName,
    account: &record::Account,
) -> Result<Option<Holder>, Error> {
    let Some(url) = &account.url else { return Ok(None) };
    let key = AccountKey::of(&sealer.open(&Context::account(issuer), &account.key)?)?;
    Ok(Some(holder(url, &key, &account.former_thumbprints)))
}

/// An account that the CA has not heard of, with a key of its own.
pub(crate) fn fresh(sealer: &Sealer, issuer: &IssuerSpec) -> Result<record::Account, Error> {
    let (_, pkcs8) = Key::generate_pkcs8()?;
    Ok(record::Account {
        directory: issuer.directory.clone(),
        key: sealer.seal(&Context::account(&issuer.name), pkcs8.secret_pkcs8_der()),
        url: None,
        contacts: None,
        bound: None,
        next_key: None,
        former_thumbprints: Vec::new(),
        deactivated_at: None,
        change: None,
    })
}

/// An account record and when it was written.
struct Stored {
    account: record::Account,
    revision: Revision,
}

impl Accounts {
    /// Accounts kept in `store`, their keys sealed by `sealer`; CAs are reached through `connect`.
    pub fn new(store: Arc<dyn Store>, sealer: Sealer, connect: Connect) -> Self {
        Self { store, sealer, connect, open: Mutex::default() }
    }

    /// The account at `issuer`, made if there is none. `still` is asked after having waited
    /// for somebody else who opens it, who may have failed.
    pub async fn open(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        still: impl Fn() -> Result<(), Error>,
    ) -> Result<Account, Error> {
        let slot = self.slot(&issuer.name);
        let mut slot = slot.lock().await;
        let epoch = leadership.epoch();
        if let Some(open) = &*slot
            && open.spec == *issuer
            && open.epoch == epoch
        {
            return Ok(open.account.clone());
        }
        still()?;
        let account = self.restore_or_create(leadership, issuer).await?;
        *slot = Some(Open { spec: issuer.clone(), epoch, account: account.clone() });
        Ok(account)
    }

    /// Forgets that the CA knew the account with this URL, because it says that it does not: the
    /// next use makes it again with the same key. Does nothing if somebody else has done so.
    pub async fn forget(
        &self,
        leadership: &Leadership,
        issuer: &IssuerName,
        url: &str,
    ) -> Result<(), Error> {
        let slot = self.slot(issuer);
        let mut slot = slot.lock().await;
        slot.take_if(|open| open.account.id() == url);
        if let Some(mut stored) = self.stored(issuer).await?
            && stored.account.url.take_if(|known| known == url).is_some()
        {
            self.write(leadership, issuer, &stored.account, Some(stored.revision)).await?;
        }
        Ok(())
    }

    /// Whether `account` is the one that is in use; waits for what is being done to it.
    pub(super) async fn is_current(&self, issuer: &IssuerName, account: &Account) -> bool {
        let slot = self.slot(issuer);
        let slot = slot.lock().await;
        slot.as_ref().is_some_and(|open| Arc::ptr_eq(&open.account.key, &account.key))
    }

    /// Has the account opened anew by whoever uses it next, with what the CA says of itself then.
    pub(super) async fn close(&self, issuer: &IssuerName) {
        self.slot(issuer).lock().await.take();
    }

    fn slot(&self, issuer: &IssuerName) -> Slot {
        self.open.lock().expect("no holder panics").entry(issuer.clone()).or_default().clone()
    }

    async fn restore_or_create(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
    ) -> Result<Account, Error> {
        let mut stored = match self.stored(&issuer.name).await? {
            Some(stored) if stored.account.directory == issuer.directory => stored,
            other => self.intend(leadership, issuer, other.map(|stored| stored.revision)).await?,
        };
        if stored.account.deactivated_at.is_some() {
            return Err(Error::AccountDeactivated(issuer.name.clone()));
        }
        if stored.account.next_key.is_some() {
            // Which of the two keys the CA knows has to be found out first.
            stored = self.roll(leadership, issuer, stored).await?;
        }
        let pkcs8 = self.sealer.open(&Context::account(&issuer.name), &stored.account.key)?;
        let key = Arc::new(AccountKey::of(&pkcs8)?);
        let http = WhileLeading::new((self.connect)(issuer)?, leadership.clone());
        let requests = Arc::new(Requests::new(http.clone(), &issuer.directory));
        if stored.account.url.is_none() {
            leadership.check().map_err(|_| Error::SteppedDown)?;
            stored = self.make(leadership, issuer, stored, &key, &requests).await?;
        }
        let url = stored.account.url.clone().unwrap_or_default();
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.expose_secret());
        let acme = instant_acme::Account::builder_with_http(Box::new(http))
            .from_parts(url, pkcs8, issuer.directory.clone())
            .await?;
        let former_thumbprints = stored.account.former_thumbprints.clone().into();
        let account = Account { acme, key, former_thumbprints, requests };
        self.tell_contacts(leadership, issuer, stored, &account).await?;
        Ok(account)
    }

    /// Asks the CA for the account of a key that it may have seen before.
    async fn make(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        stored: Stored,
        key: &AccountKey,
        requests: &Requests,
    ) -> Result<Stored, Error> {
        let Stored { account, revision } = stored;
        let (account, revision, found) = match &issuer.external_account {
            None => {
                let made = requests.make_account(key, &issuer.contacts, None).await;
                (account, revision, made?)
            }
            Some(declared) => {
                let hmac_key =
                    self.sealer.open(&Context::external_account(&issuer.name), &declared.key)?;
                let binding = Binding { key_id: &declared.key_id, hmac_key };
                let stored = Stored { account, revision };
                self.bind(leadership, issuer, stored, &binding, key, requests).await?
            }
        };
        let told = if found.is_old { account.contacts } else { Some(issuer.contacts.clone()) };
        let account = record::Account { url: Some(found.url), contacts: told, ..account };
        let revision = self.write(leadership, &issuer.name, &account, Some(revision)).await?;
        let url = account.url.as_deref();
        tracing::info!(issuer = %issuer.name, account = url, "the CA has the account");
        Ok(Stored { account, revision })
    }

    /// As [`Self::make`], with an external account binding.
    async fn bind(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        stored: Stored,
        binding: &Binding<'_>,
        key: &AccountKey,
        requests: &Requests,
    ) -> Result<(record::Account, Revision, Found), Error> {
        let Stored { mut account, mut revision } = stored;
        if account.bound.is_some()
            && let Some(found) = requests.find_account(key).await?
        {
            return Ok((account, revision, found));
        }
        if account.bound.as_deref() != Some(binding.key_id) {
            account.bound = Some(binding.key_id.to_owned());
            revision = self.write(leadership, &issuer.name, &account, Some(revision)).await?;
        }
        crash_point("account::binding");
        leadership.check().map_err(|_| Error::SteppedDown)?;
        let made = requests.make_account(key, &issuer.contacts, Some(binding)).await;
        let found = made.map_err(|error| match error {
            Error::Rejected { message, .. } => Error::AccountBinding(format!(
                "the CA refused the external account binding with key id {}: {message}; if it has \
                 been used before or is mistyped, get a new one from the CA and put it into \
                 external_account",
                binding.key_id
            )),
            other => other,
        })?;
        crash_point("account::bound");
        Ok((account, revision, found))
    }

    /// Tells the CA the contacts that are declared, if they are not those that it knows (RFC 8555 section
    /// 7.3.2). A CA that does not want them still issues: that is told in the log, and no more.
    async fn tell_contacts(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        stored: Stored,
        account: &Account,
    ) -> Result<(), Error> {
        if stored.account.contacts.as_deref().unwrap_or_default() == issuer.contacts {
            return Ok(());
        }
        leadership.check().map_err(|_| Error::SteppedDown)?;
        let contacts: Vec<&str> = issuer.contacts.iter().map(String::as_str).collect();
        match account.update_contacts(&contacts).await.map_err(Error::from) {
            Ok(()) => {}
            Err(Error::SteppedDown) => return Err(Error::SteppedDown),
            Err(Error::AccountUnknown) => return Err(Error::AccountUnknown),
            Err(error) => {
                tracing::warn!(issuer = %issuer.name, %error, "the CA did not take the contacts");
                return Ok(());
            }
        }
        let told = Some(issuer.contacts.clone());
        let record = record::Account { contacts: told, ..stored.account };
        self.write(leadership, &issuer.name, &record, Some(stored.revision)).await?;
        tracing::info!(issuer = %issuer.name, "the CA has the contacts");
        Ok(())
    }

    /// Stores a fresh key for an account that the CA is to be asked for.
    async fn intend(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        former: Option<Revision>,
    ) -> Result<Stored, Error> {
        let account = fresh(&self.sealer, issuer)?;
        let revision = self.write(leadership, &issuer.name, &account, former).await?;
        Ok(Stored { account, revision })
    }

    async fn stored(&self, issuer: &IssuerName) -> Result<Option<Stored>, Error> {
        let Some(entry) = self.store.get(&key::account(issuer)).await? else { return Ok(None) };
        let account = record::decode(&entry.key, &entry.value)
            .map_err(|error| store::Error::Damaged(error.to_string()))?;
        Ok(Some(Stored { account, revision: entry.revision }))
    }

    async fn write(
        &self,
        leadership: &Leadership,
        issuer: &IssuerName,
        account: &record::Account,
        former: Option<Revision>,
    ) -> Result<Revision, Error> {
        let key = key::account(issuer);
        let batch = leadership.batch().unchanged(&key, former).put(&key, record::encode(account));
        Ok(self.store.commit(batch).await?)
    }
}

//! ACME accounts (RFC 8555 section 7.1.2): one for each issuer, shared by all coordinators.
//!
//! The key is stored, sealed, before the CA hears of it. newAccount with a key that the CA
//! knows returns the account that it has (RFC 8555 section 7.3.1), so a coordinator that dies between the
//! two steps leaves nothing behind that its successor does not pick up, and no
//! second account.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use chancery_shared::{
    name::IssuerName,
    number::{Epoch, Revision},
};
use instant_acme::{Account, HttpClient, Key};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Error, ca::WhileLeading};
use crate::{
    election::Leadership,
    record::{self, IssuerSpec, key},
    seal::{Context, Sealer},
    store::{self, Store},
};

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
        let pkcs8 = self.sealer.open(&Context::account(&issuer.name), &stored.account.key)?;
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.expose_secret());
        let client = WhileLeading::new((self.connect)(issuer)?, leadership.clone());
        let builder = Account::builder_with_http(Box::new(client));
        if let Some(url) = stored.account.url {
            let account =
                builder.from_parts(url, pkcs8.clone_key(), issuer.directory.clone()).await?;
            return Ok(account);
        }
        leadership.check().map_err(|_| Error::SteppedDown)?;
        let key = Key::from_pkcs8_der(pkcs8.clone_key())?;
        let (account, _) = builder
            .create_from_key(
                (key, PrivateKeyDer::Pkcs8(pkcs8.clone_key())),
                issuer.directory.clone(),
            )
            .await?;
        if !issuer.contacts.is_empty() {
            leadership.check().map_err(|_| Error::SteppedDown)?;
            let contacts: Vec<&str> = issuer.contacts.iter().map(String::as_str).collect();
            account.update_contacts(&contacts).await?;
        }
        stored.account.url = Some(account.id().to_owned());
        self.write(leadership, &issuer.name, &stored.account, Some(stored.revision)).await?;
        tracing::info!(issuer = %issuer.name, account = account.id(), "the CA has the account");
        Ok(account)
    }

    /// Stores a fresh key for an account that the CA is to be asked for.
    async fn intend(
        &self,
        leadership: &Leadership,
        issuer: &IssuerSpec,
        former: Option<Revision>,
    ) -> Result<Stored, Error> {
        let (_, pkcs8) = Key::generate_pkcs8()?;
        let account = record::Account {
            directory: issuer.directory.clone(),
            key: self.sealer.seal(&Context::account(&issuer.name), pkcs8.secret_pkcs8_der()),
            url: None,
        };
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

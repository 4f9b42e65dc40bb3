//! A look at an issuer, and changes of its account. The leader sees to those: [`crate::errands`].

use std::time::Duration;

use chancery_proto::v1::{ChangeAccountRequest, IssuerCheck, IssuerDetail};
use chancery_shared::name::IssuerName;
use tonic::Status;

use super::{super::Api, name, not_found};
use crate::{
    order::{account, ca},
    record::{self, Account, AccountChange, AccountDeed, EventKind, IssuerSpec, key},
};

impl Api {
    /// Asks the CA what it says of itself.
    pub(super) async fn check_issuer(&self, name: &IssuerName) -> Result<IssuerCheck, Status> {
        let issuer = self.mirror.read().issuers.get(name).map(|issuer| issuer.record.clone());
        let issuer = issuer.ok_or_else(|| not_found("issuer", name))?;
        let began = self.clock.monotonic();
        let directory = match ca::look(&issuer).await {
            Ok(directory) => directory,
            Err(error) => {
                return Ok(IssuerCheck { problems: vec![error.to_string()], ..Default::default() });
            }
        };
        let took = self.clock.monotonic().since(began);
        let meta = directory.meta;
        let mut problems = Vec::new();
        if let Some(profile) = &issuer.profile
            && !meta.profiles.contains_key(profile)
        {
            let known: Vec<&str> = meta.profiles.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            problems.push(format!("the CA has no profile {profile:?}; it offers {known}"));
        }
        if meta.external_account_required && issuer.external_account.is_none() {
            problems.push(
                "the CA wants an external account binding, and the issuer declares no \
                 external_account"
                    .to_owned(),
            );
        }
        if self
            .status
            .issuer(name)
            .and_then(|it| it.account)
            .is_some_and(|it| it.state == DEACTIVATED)
        {
            problems.push(format!(
                "its account was deactivated; chancery issuer account create {name} makes another"
            ));
        }
        Ok(IssuerCheck {
            problems,
            took: took.try_into().ok(),
            profiles: meta.profiles,
            external_account_required: meta.external_account_required,
            terms_of_service: meta.terms_of_service.unwrap_or_default(),
            website: meta.website.unwrap_or_default(),
            caa_identities: meta.caa_identities,
        })
    }

    /// Writes down what is to be done to an account, and waits a little until it is.
    pub(super) async fn change_account(
        &self,
        request: &ChangeAccountRequest,
        who: &str,
    ) -> Result<IssuerDetail, Status> {
        let issuer: IssuerName = name(&request.issuer)?;
        let leadership = self.lead().await?;
        let Some((spec, _)) = self.get::<IssuerSpec>(&key::issuer(&issuer)).await? else {
            return Err(not_found("issuer", &issuer));
        };
        let at = key::account(&issuer);
        let stored = self.get::<Account>(&at).await?;
        let revision = stored.as_ref().map(|(_, revision)| *revision);
        let stored = stored.map(|(account, _)| account);
        let (deed, what) = match request.change.as_str() {
            "create" => (AccountDeed::Create, "an account"),
            "roll" => (AccountDeed::Roll, "another key for the account"),
            "deactivate" => (AccountDeed::Deactivate, "the end of the account"),
            other => {
                return Err(Status::invalid_argument(format!(
                    "{other:?} cannot be done to an account: use create, roll or deactivate"
                )));
            }
        };
        let account = match deed {
            AccountDeed::Create => self.to_create(&spec, stored)?,
            AccountDeed::Roll | AccountDeed::Deactivate => to_change(&issuer, stored, deed)?,
        };
        let (requested_at, requested_by) = (self.clock.now(), who.to_owned());
        let change = AccountChange { what: deed, requested_at, requested_by, ended: None };
        let account = Account { change: Some(change), ..account };
        let batch = leadership.batch().unchanged(&*at, revision);
        let batch = batch.put(&at, record::encode(&account));
        self.commit(batch).await?;
        let message = format!("{who} asked for {what}");
        self.events.record(EventKind::AccountChangeRequested, issuer.as_str(), message);
        self.account_changed(&issuer).await
    }

    /// The account that is to be made: one that the CA has not confirmed yet, or a fresh one in
    /// place of what is of no use.
    fn to_create(&self, issuer: &IssuerSpec, stored: Option<Account>) -> Result<Account, Status> {
        match stored {
            Some(account)
                if account.deactivated_at.is_none() && account.directory == issuer.directory =>
            {
                if account.url.is_some() {
                    return Err(Status::failed_precondition(format!(
                        "the account at issuer {} is in use; deactivate it before you make another",
                        issuer.name
                    )));
                }
                Ok(account)
            }
            _ => account::fresh(&self.sealer, issuer)
                .map_err(|error| Status::internal(error.to_string())),
        }
    }

    /// The issuer, once nothing is left to be done to its account, or after a while.
    async fn account_changed(&self, issuer: &IssuerName) -> Result<IssuerDetail, Status> {
        let mut touched = self.mirror.touched();
        let is_done = || {
            let view = self.mirror.read();
            let account = view.accounts.get(issuer).map(|account| &account.record);
            let change = account.and_then(|account| account.change.as_ref());
            change.is_none_or(|change| change.ended.is_some())
        };
        let done = async {
            while !is_done() {
                // Lagging is as good a reason to look again.
                let _ = touched.recv().await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, done).await;
        self.status.issuer(issuer).ok_or_else(|| not_found("issuer", issuer))
    }
}

/// The account that something is to be done to.
fn to_change(
    issuer: &IssuerName,
    account: Option<Account>,
    what: AccountDeed,
) -> Result<Account, Status> {
    let Some(account) = account else {
        return Err(Status::failed_precondition(format!(
            "there is no account at issuer {issuer} yet; it is made for the first order, or with \
             chancery issuer account create {issuer}"
        )));
    };
    if account.deactivated_at.is_some() {
        return Err(Status::failed_precondition("the account was deactivated already"));
    }
    if account.url.is_none() {
        return Err(Status::failed_precondition("the CA has not confirmed the account yet"));
    }
    let pending = account.change.as_ref().filter(|change| change.ended.is_none());
    if let Some(pending) = pending
        && pending.what != what
    {
        return Err(Status::failed_precondition(format!(
            "{} was asked for and is not done yet; nothing was changed",
            pending.what.name()
        )));
    }
    Ok(account)
}

const DEACTIVATED: &str = "deactivated";
/// For a CA that answers. Less than clients wait for an answer of ours.
const PATIENCE: Duration = Duration::from_secs(6);

//! `issuer list`, `issuer show`, `issuer check` and `issuer account`.

use std::collections::BTreeMap;

use chancery_proto::v1;
use chancery_shared::wire::from_timestamp;
use jiff::Timestamp;
use serde::Serialize;

use super::some;

/// `issuer list`.
#[derive(Debug, Serialize)]
pub(crate) struct Issuers {
    issuers: Vec<Issuer>,
}

impl From<&v1::ListIssuersResponse> for Issuers {
    fn from(list: &v1::ListIssuersResponse) -> Self {
        Self { issuers: list.issuers.iter().map(Issuer::from).collect() }
    }
}

/// `issuer show`, one of `issuer list`, and the answer to `issuer account`.
#[derive(Debug, Serialize)]
pub(crate) struct Issuer {
    name: String,
    directory: String,
    contacts: Vec<String>,
    profile: Option<String>,
    preferred_chain: Option<String>,
    external_account: Option<String>,
    certificates: u32,
    issued: u32,
    orders: u32,
    account: Option<Account>,
}

impl From<&v1::IssuerDetail> for Issuer {
    fn from(issuer: &v1::IssuerDetail) -> Self {
        Self {
            name: issuer.name.clone(),
            directory: issuer.directory.clone(),
            contacts: issuer.contacts.clone(),
            profile: some(&issuer.profile),
            preferred_chain: some(&issuer.preferred_chain),
            external_account: some(&issuer.external_account),
            certificates: issuer.certificates,
            issued: issuer.issued,
            orders: issuer.orders,
            account: issuer.account.as_ref().map(Account::from),
        }
    }
}

#[derive(Debug, Serialize)]
struct Account {
    url: Option<String>,
    state: String,
    bound: Option<String>,
    contacts: Vec<String>,
    change: Option<Change>,
}

impl From<&v1::AccountDetail> for Account {
    fn from(account: &v1::AccountDetail) -> Self {
        Self {
            url: some(&account.url),
            state: account.state.clone(),
            bound: some(&account.bound),
            contacts: account.contacts.clone(),
            change: account.change.as_ref().map(Change::from),
        }
    }
}

#[derive(Debug, Serialize)]
struct Change {
    what: String,
    state: String,
    message: Option<String>,
    requested_at: Option<Timestamp>,
    requested_by: String,
    ended_at: Option<Timestamp>,
}

impl From<&v1::AccountChange> for Change {
    fn from(change: &v1::AccountChange) -> Self {
        Self {
            what: change.what.clone(),
            state: change.state.clone(),
            message: some(&change.message),
            requested_at: from_timestamp(change.requested_at.as_ref()),
            requested_by: change.requested_by.clone(),
            ended_at: from_timestamp(change.ended_at.as_ref()),
        }
    }
}

/// `issuer check`.
#[derive(Debug, Serialize)]
pub(crate) struct IssuerCheck {
    name: String,
    reachable: bool,
    problems: Vec<String>,
    took_seconds: Option<f64>,
    profiles: BTreeMap<String, String>,
    external_account_required: bool,
    terms_of_service: Option<String>,
    website: Option<String>,
    caa_identities: Vec<String>,
}

impl IssuerCheck {
    pub(crate) fn new(name: &str, check: &v1::IssuerCheck) -> Self {
        let took = check.took.as_ref().and_then(|took| std::time::Duration::try_from(*took).ok());
        Self {
            name: name.to_owned(),
            reachable: check.took.is_some(),
            problems: check.problems.clone(),
            took_seconds: took.map(|took| took.as_secs_f64()),
            profiles: check.profiles.clone(),
            external_account_required: check.external_account_required,
            terms_of_service: some(&check.terms_of_service),
            website: some(&check.website),
            caa_identities: check.caa_identities.clone(),
        }
    }
}

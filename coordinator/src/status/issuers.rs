//! Issuers as operators see them.

use chancery_proto::v1::{AccountChange as WireChange, AccountDetail, IssuerDetail};
use chancery_shared::{name::IssuerName, wire::to_timestamp};

use super::Status;
use crate::{
    mirror::View,
    record::{Account, IssuerSpec},
};

impl Status {
    /// All issuers, by name.
    pub fn issuers(&self) -> Vec<IssuerDetail> {
        let view = self.mirror.read();
        view.issuers.values().map(|issuer| detail(&view, &issuer.record)).collect()
    }

    /// One issuer; `None` if there is none of that name.
    pub fn issuer(&self, name: &IssuerName) -> Option<IssuerDetail> {
        let view = self.mirror.read();
        view.issuers.get(name).map(|issuer| detail(&view, &issuer.record))
    }
}

fn detail(view: &View, issuer: &IssuerSpec) -> IssuerDetail {
    let name = &issuer.name;
    let naming = view.certificates.values().filter(|spec| {
        spec.record.issuers.contains(name) || spec.record.standby.as_ref() == Some(name)
    });
    let own = view.certificates.keys().filter(|certificate| {
        let state = view.states.get(*certificate);
        state.and_then(|state| state.record.issued.as_ref()).is_some_and(|it| it.issuer == *name)
    });
    let orders = view.orders.values().filter(|order| order.record.issuer == *name);
    // What was made at another directory is of no use here.
    let account = view.accounts.get(name).map(|account| &*account.record);
    let account = account.filter(|account| account.directory == issuer.directory);
    let bound = issuer.external_account.as_ref();
    IssuerDetail {
        name: name.to_string(),
        directory: issuer.directory.clone(),
        contacts: issuer.contacts.clone(),
        profile: issuer.profile.clone().unwrap_or_default(),
        preferred_chain: issuer.preferred_chain.clone().unwrap_or_default(),
        external_account: bound.map(|bound| bound.key_id.clone()).unwrap_or_default(),
        certificates: super::count(naming.count()),
        issued: super::count(own.count()),
        orders: super::count(orders.count()),
        account: account.map(account_detail),
    }
}

fn account_detail(account: &Account) -> AccountDetail {
    let state = match (&account.deactivated_at, &account.url) {
        (Some(_), _) => "deactivated",
        (None, Some(_)) => "valid",
        (None, None) => "pending",
    };
    AccountDetail {
        url: account.url.clone().unwrap_or_default(),
        state: state.to_owned(),
        bound: account.bound.clone().unwrap_or_default(),
        contacts: account.contacts.clone().unwrap_or_default(),
        change: account.change.as_ref().map(|change| {
            let ended = change.ended.as_ref();
            let refused = ended.and_then(|ended| ended.refused.clone());
            let state = match (ended, &refused) {
                (None, _) => "pending",
                (Some(_), None) => "done",
                (Some(_), Some(_)) => "refused",
            };
            WireChange {
                what: change.what.name().to_owned(),
                state: state.to_owned(),
                message: refused.unwrap_or_default(),
                requested_at: Some(to_timestamp(change.requested_at)),
                requested_by: change.requested_by.clone(),
                ended_at: ended.map(|ended| to_timestamp(ended.at)),
            }
        }),
    }
}

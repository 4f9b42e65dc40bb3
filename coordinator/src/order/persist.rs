//! What a CA wants to see for dns-persist-01. The ACME library knows the challenge by its name alone, so the
//! authorization is fetched once more and read here.

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chancery_shared::{challenge_type::ChallengeType, identifier::Identifier};
use serde::Deserialize;

use super::{Error, account::Account};
use crate::record::StandingRecord;

/// An authorization (RFC 8555 section 7.1.4), as far as it is of use here.
#[derive(Debug, Deserialize)]
struct Authorization {
    challenges: Vec<Offered>,
}

/// A challenge in it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Offered {
    r#type: String,
    /// The names that the CA goes by; spelt otherwise up to version 01 of the draft.
    #[serde(default, alias = "issuer-domain-names")]
    issuer_domain_names: Vec<String>,
}

/// The record that has to stand in the DNS for the authorization at `url`.
pub(super) async fn standing(
    account: &Account,
    url: &str,
    identifier: &Identifier,
) -> Result<StandingRecord, Error> {
    let reply = account.get(url).await?;
    let authorization: Authorization = serde_json::from_slice(&reply.body).map_err(|error| {
        Error::CaUnreachable(format!("{url} is no authorization of an ACME CA: {error}"))
    })?;
    let meta = &account.directory().await?.meta;
    let wanted = ChallengeType::DnsPersist01.as_str();
    let offered = authorization.challenges.iter().find(|offered| offered.r#type == wanted);
    let issuers = offered.map(|offered| offered.issuer_domain_names.as_slice()).unwrap_or_default();
    let prefix = meta.account_hash_prefix.as_deref();
    StandingRecord::new(identifier, issuers, &account.holder(), prefix).ok_or_else(|| {
        Error::BadIssuance(format!(
            "its dns-persist-01 challenge for {identifier} names no CA that a record could be for: \
             {issuers:?}"
        ))
    })
}

/// Stands in the journal in place of the token, which these challenges do not have.
pub(super) fn token(url: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, url.as_bytes()))
}

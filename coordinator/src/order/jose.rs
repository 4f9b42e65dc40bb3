//! Signed requests that the ACME library does not make: an account for a key that was stored before, with or
//! without an external account binding (RFC 8555 section 7.3.4), another key for an account (section
//! 7.3.5), and chains beside the default one (section 7.4.2).
//!
//! The library makes the key and the request in one step, so that a crash between the two would
//! lose either. Here the key comes first, from the store.

use std::collections::BTreeMap;

use aws_lc_rs::{
    digest, hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use chancery_shared::secret::Secret;
use http::{HeaderMap, Method, Request, StatusCode, header};
use instant_acme::{BodyWrapper, HttpClient, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{Error, ca::WhileLeading};

/// What a CA says of itself (RFC 8555 section 7.1.1).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    new_nonce: String,
    new_account: String,
    #[serde(default)]
    key_change: Option<String>,
    /// What is not a URL of its own.
    #[serde(default)]
    pub meta: Meta,
}

/// See [`Directory::meta`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Whether accounts need an external account binding.
    pub external_account_required: bool,
    /// Names of the profiles that orders may ask for, each with a description.
    pub profiles: BTreeMap<String, String>,
    /// What was agreed to.
    pub terms_of_service: Option<String>,
    /// The CA's page.
    pub website: Option<String>,
    /// The names that CAA records (RFC 8659) allow it by.
    pub caa_identities: Vec<String>,
    /// The names that records for dns-persist-01 may have (draft-ietf-acme-dns-persist section 3.2).
    pub issuer_domain_names: Vec<String>,
    /// What hashed account URIs begin with (section 4.1 there).
    pub account_hash_prefix: Option<String>,
}

/// The key of an account: ECDSA P-256.
pub(super) struct AccountKey {
    pair: EcdsaKeyPair,
}

impl AccountKey {
    /// From PKCS#8 DER.
    pub(super) fn of(pkcs8: &Secret) -> Result<Self, Error> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.expose_secret())
                .map_err(|_| Error::Crypto("the account key cannot be read".to_owned()))?;
        Ok(Self { pair })
    }

    /// The thumbprint of the public key (RFC 7638), in base64url.
    pub(super) fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        // The members in their order, without white space (section 3).
        let canonical = format!(
            r#"{{"crv":{},"kty":{},"x":{},"y":{}}}"#,
            jwk["crv"], jwk["kty"], jwk["x"], jwk["y"]
        );
        encode(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
    }

    /// The public key (RFC 7517).
    fn jwk(&self) -> Value {
        // 0x04, then both coordinates.
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)})
    }

    /// `payload` under this key (RFC 7515), with what `header` says more. `None` is POST-as-GET.
    fn sign(&self, mut header: Value, payload: Option<&Value>) -> Result<Value, Error> {
        header["alg"] = "ES256".into();
        let (protected, payload) = parts(&header, payload);
        let signature = self
            .pair
            .sign(&SystemRandom::new(), format!("{protected}.{payload}").as_bytes())
            .map_err(|_| Error::Crypto("signing failed".to_owned()))?;
        let signature = encode(signature.as_ref());
        Ok(json!({"protected": protected, "payload": payload, "signature": signature}))
    }
}

/// What binds an account to one that its holder has with the CA in another way.
pub(super) struct Binding<'a> {
    /// As the CA has told it.
    pub(super) key_id: &'a str,
    /// The key of the HMAC, as the CA has told it.
    pub(super) hmac_key: Secret,
}

impl Binding<'_> {
    /// The account key under the CA's key (RFC 8555 section 7.3.4).
    fn sign(&self, account_key: &AccountKey, url: &str) -> Value {
        let header = json!({"alg": "HS256", "kid": self.key_id, "url": url});
        let (protected, payload) = parts(&header, Some(&account_key.jwk()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.hmac_key.expose_secret());
        let tag = hmac::sign(&key, format!("{protected}.{payload}").as_bytes());
        json!({"protected": protected, "payload": payload, "signature": encode(tag.as_ref())})
    }
}

/// Who a request is from.
#[derive(Clone, Copy)]
enum Sender<'a> {
    /// A key, of which the CA may not know.
    Key(&'a AccountKey),
    /// An account, by its URL.
    Account(&'a AccountKey, &'a str),
}

/// An answer that is not an error.
pub(super) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Reply {
    /// The URLs that it points to as `rel` (RFC 8288).
    pub(super) fn links(&self, rel: &str) -> Vec<String> {
        let values = self.headers.get_all(header::LINK).into_iter();
        let links =
            values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        links
            .filter_map(|link| {
                let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
                let is_meant = parameters.split(';').any(|parameter| {
                    let Some((name, value)) = parameter.trim().split_once('=') else {
                        return false;
                    };
                    name.eq_ignore_ascii_case("rel") && value.trim_matches('"') == rel
                });
                is_meant.then(|| url.to_owned())
            })
            .collect()
    }
}

/// An account as the CA answers to a request for one.
pub(super) struct Found {
    /// Its URL.
    pub(super) url: String,
    /// Whether the CA had it before.
    pub(super) is_old: bool,
}

/// Makes signed requests to one CA.
pub(super) struct Requests {
    http: WhileLeading,
    directory_url: String,
    directory: OnceCell<Directory>,
}

impl Requests {
    /// Requests to the CA with this directory.
    pub(super) fn new(http: WhileLeading, directory_url: &str) -> Self {
        Self { http, directory_url: directory_url.to_owned(), directory: OnceCell::new() }
    }

    /// Asks for the account of `key`, which is made if there is none (RFC 8555 section 7.3).
    pub(super) async fn make_account(
        &self,
        key: &AccountKey,
        contacts: &[String],
        binding: Option<&Binding<'_>>,
    ) -> Result<Found, Error> {
        let mut payload = json!({"termsOfServiceAgreed": true});
        if !contacts.is_empty() {
            payload["contact"] = contacts.into();
        }
        if let Some(binding) = binding {
            let url = &self.directory().await?.new_account;
            payload["externalAccountBinding"] = binding.sign(key, url);
        }
        self.account(key, &payload).await
    }

    /// The account of `key`, if the CA has one (RFC 8555 section 7.3.1).
    pub(super) async fn find_account(&self, key: &AccountKey) -> Result<Option<Found>, Error> {
        match self.account(key, &json!({"onlyReturnExisting": true})).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::AccountUnknown) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the account answer to another key from now on (RFC 8555 section 7.3.5).
    pub(super) async fn change_key(
        &self,
        old: &AccountKey,
        new: &AccountKey,
        account: &str,
    ) -> Result<(), Error> {
        let url = self.directory().await?.key_change.clone().ok_or_else(|| Error::Rejected {
            message: "it does not change the keys of accounts".to_owned(),
            failed: Vec::new(),
            problem: None,
        })?;
        let payload = json!({"account": account, "oldKey": old.jwk()});
        let inner = new.sign(json!({"jwk": new.jwk(), "url": url}), Some(&payload))?;
        self.post(Sender::Account(old, account), &url, Some(&inner)).await.map(drop)
    }

    /// Gives the account up for good (RFC 8555 section 7.3.6).
    pub(super) async fn deactivate(&self, key: &AccountKey, account: &str) -> Result<(), Error> {
        let payload = json!({"status": "deactivated"});
        self.post(Sender::Account(key, account), account, Some(&payload)).await.map(drop)
    }

    /// The certificate at `url`, as the account sees it (RFC 8555 section 7.4.2).
    pub(super) async fn get(
        &self,
        key: &AccountKey,
        account: &str,
        url: &str,
    ) -> Result<Reply, Error> {
        self.post(Sender::Account(key, account), url, None).await
    }

    async fn account(&self, key: &AccountKey, payload: &Value) -> Result<Found, Error> {
        let url = self.directory().await?.new_account.clone();
        let reply = self.post(Sender::Key(key), &url, Some(payload)).await?;
        let url = reply.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let url = url.filter(|url| !url.is_empty()).ok_or_else(|| {
            Error::CaUnreachable("the answer to newAccount has no account URL".to_owned())
        })?;
        Ok(Found { url: url.to_owned(), is_old: reply.status != StatusCode::CREATED })
    }

    /// What the CA says of itself; asked for once.
    pub(super) async fn directory(&self) -> Result<&Directory, Error> {
        self.directory.get_or_try_init(|| fetch_directory(&self.http, &self.directory_url)).await
    }

    /// Sends a signed request, and again if all that was wrong with it was its nonce (RFC 8555
    /// section 6.5).
    async fn post(
        &self,
        from: Sender<'_>,
        url: &str,
        payload: Option<&Value>,
    ) -> Result<Reply, Error> {
        let mut tries = 0;
        let mut nonce = None;
        loop {
            let fresh = match nonce.take() {
                Some(nonce) => nonce,
                None => self.nonce().await?,
            };
            let reply = self.post_once(from, url, payload, &fresh).await?;
            if !reply.status.is_client_error() {
                return Ok(reply);
            }
            let problem: Problem = serde_json::from_slice(&reply.body).map_err(|error| {
                Error::CaUnreachable(format!("{}: no problem document: {error}", reply.status))
            })?;
            let is_nonce = problem.r#type.as_deref() == Some(BAD_NONCE);
            tries += 1;
            if !is_nonce || tries == TRIES {
                return Err(instant_acme::Error::Api(problem).into());
            }
            nonce = nonce_of(&reply.headers);
        }
    }

    async fn post_once(
        &self,
        from: Sender<'_>,
        url: &str,
        payload: Option<&Value>,
        nonce: &str,
    ) -> Result<Reply, Error> {
        let mut header = json!({"nonce": nonce, "url": url});
        let key = match from {
            Sender::Key(key) => {
                header["jwk"] = key.jwk();
                key
            }
            Sender::Account(key, account) => {
                header["kid"] = account.into();
                key
            }
        };
        let body = serde_json::to_vec(&key.sign(header, payload)?).expect("JSON has text keys");
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(header::CONTENT_TYPE, "application/jose+json")
            .header(header::USER_AGENT, USER_AGENT)
            .body(BodyWrapper::from(body))
            .map_err(instant_acme::Error::from)?;
        send(&self.http, request).await
    }

    async fn nonce(&self) -> Result<String, Error> {
        let request = Request::builder()
            .method(Method::HEAD)
            .uri(&self.directory().await?.new_nonce)
            .header(header::USER_AGENT, USER_AGENT)
            .body(BodyWrapper::default())
            .map_err(instant_acme::Error::from)?;
        let reply = send(&self.http, request).await?;
        nonce_of(&reply.headers)
            .ok_or_else(|| Error::CaUnreachable("the CA gave no nonce".to_owned()))
    }
}

/// Fetches a directory (RFC 8555 section 7.1.1).
pub(super) async fn fetch_directory(http: &dyn HttpClient, url: &str) -> Result<Directory, Error> {
    let request = Request::builder()
        .uri(url)
        .header(header::USER_AGENT, USER_AGENT)
        .body(BodyWrapper::default())
        .map_err(instant_acme::Error::from)?;
    let reply = send(http, request).await?;
    serde_json::from_slice(&reply.body).map_err(|error| {
        Error::CaUnreachable(format!("{url} is not the directory of an ACME CA: {error}"))
    })
}

async fn send(http: &dyn HttpClient, request: Request<BodyWrapper<Bytes>>) -> Result<Reply, Error> {
    let mut response = http.request(request).await?;
    let body = response.body.into_bytes().await.map_err(instant_acme::Error::Other)?;
    Ok(Reply { status: response.parts.status, headers: response.parts.headers, body })
}

fn nonce_of(headers: &HeaderMap) -> Option<String> {
    headers.get("replay-nonce").and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn parts(header: &Value, payload: Option<&Value>) -> (String, String) {
    let payload = payload.map(|payload| encode(payload.to_string().as_bytes()));
    (encode(header.to_string().as_bytes()), payload.unwrap_or_default())
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

const BAD_NONCE: &str = "urn:ietf:params:acme:error:badNonce";
/// For one request.
const TRIES: u32 = 3;
const USER_AGENT: &str = concat!("chancery/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> AccountKey {
        let (_, pkcs8) = instant_acme::Key::generate_pkcs8().unwrap();
        AccountKey::of(&Secret::new(pkcs8.secret_pkcs8_der().to_vec())).unwrap()
    }

    fn decoded(text: &Value) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap()
    }

    #[test]
    fn a_signature_is_over_the_header_and_the_payload() {
        let key = key();
        let signed = key.sign(json!({"url": "u"}), Some(&json!({"a": 1}))).unwrap();
        let text = |name: &str| signed[name].as_str().unwrap().to_owned();
        let message = format!("{}.{}", text("protected"), text("payload"));
        let verifier = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED,
            key.pair.public_key().as_ref(),
        );
        verifier.verify(message.as_bytes(), &decoded(&signed["signature"])).unwrap();
        let header: Value = serde_json::from_slice(&decoded(&signed["protected"])).unwrap();
        assert_eq!(header, json!({"alg": "ES256", "url": "u"}));
        // POST-as-GET has an empty payload (RFC 8555 section 6.3).
        assert_eq!(key.sign(json!({}), None).unwrap()["payload"], "");
    }

    #[test]
    fn a_thumbprint_is_over_the_members_in_their_order() {
        let key = key();
        let thumbprint = key.thumbprint();
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(&thumbprint).unwrap().len(), 32);
        let sorted: BTreeMap<String, Value> = serde_json::from_value(key.jwk()).unwrap();
        let canonical = serde_json::to_vec(&sorted).unwrap();
        assert_eq!(thumbprint, encode(digest::digest(&digest::SHA256, &canonical).as_ref()));
    }

    #[test]
    fn a_binding_is_the_account_key_under_the_key_of_the_ca() {
        let (key, hmac_key) = (key(), Secret::new(vec![7; 32]));
        let binding = Binding { key_id: "kid-1", hmac_key: hmac_key.clone() };
        let signed = binding.sign(&key, "https://ca/new-account");
        let header: Value = serde_json::from_slice(&decoded(&signed["protected"])).unwrap();
        let expected = json!({"alg": "HS256", "kid": "kid-1", "url": "https://ca/new-account"});
        assert_eq!(header, expected);
        let bound: Value = serde_json::from_slice(&decoded(&signed["payload"])).unwrap();
        assert_eq!(bound, key.jwk());
        let text = |name: &str| signed[name].as_str().unwrap();
        let message = format!("{}.{}", text("protected"), text("payload"));
        let mac = hmac::Key::new(hmac::HMAC_SHA256, hmac_key.expose_secret());
        hmac::verify(&mac, message.as_bytes(), &decoded(&signed["signature"])).unwrap();
    }

    #[test]
    fn links_are_found_by_their_relation_in_one_header_or_several() {
        let mut headers = HeaderMap::new();
        headers.append("link", "<https://ca/dir>;rel=\"index\"".parse().unwrap());
        let two = "<https://ca/1>; title=x; rel=\"alternate\", <https://ca/2>;rel=alternate";
        headers.append("link", two.parse().unwrap());
        let reply = Reply { status: StatusCode::OK, headers, body: Bytes::new() };
        assert_eq!(reply.links("alternate"), ["https://ca/1", "https://ca/2"]);
        assert!(reply.links("up").is_empty());
    }
}

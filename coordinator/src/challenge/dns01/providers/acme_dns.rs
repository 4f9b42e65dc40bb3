//! acme-dns: a small server that keeps nothing but proofs. `_acme-challenge` of each domain is a CNAME to
//! the name that it gave at registration.
//!
//! It keeps the last two values of each name, and removes none: two are enough for an apex and its
//! wildcard in one order, not for several orders at once.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;

use super::{
    super::{Failure, Provider, Txt},
    Kind, Settings, read_secret, text_of,
};

pub(super) const KIND: Kind = Kind {
    name: "acme-dns",
    required: &[
        ("url", "url = \"https://auth.example.org\""),
        ("accounts_file", "accounts_file = \"/etc/chancery/acme-dns.json\""),
    ],
    optional: &[],
    build,
};

/// An acme-dns server and our accounts there.
#[derive(Debug)]
struct AcmeDns {
    url: String,
    accounts_file: PathBuf,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// An account, as the server tells it at registration, and as lego keeps it.
#[derive(Clone, Deserialize)]
struct Account {
    username: String,
    password: String,
    subdomain: String,
    #[serde(alias = "fulldomain")]
    full_domain: String,
}

fn build(settings: &Settings) -> Result<Box<dyn Provider>, Vec<String>> {
    let url = settings.required("url").trim_end_matches('/').to_owned();
    let accounts_file = PathBuf::from(settings.required("accounts_file"));
    accounts(&accounts_file).map_err(|problem| vec![problem])?;
    let client = client().map_err(|problem| vec![problem])?;
    Ok(Box::new(AcmeDns { url, accounts_file, client }))
}

fn client() -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = rustls::ClientConfig::builder_with_provider(chancery_shared::tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// The accounts by domain.
fn accounts(file: &std::path::Path) -> Result<BTreeMap<String, Account>, String> {
    let text = read_secret(file)?;
    serde_json::from_str(text_of(&text)?).map_err(|error| {
        format!(
            "{}, line {}: it is not of the form {{\"example.org\": {{\"username\": …, \"password\": …, \
             \"subdomain\": …, \"fulldomain\": …}}}}",
            file.display(),
            error.line()
        )
    })
}

#[async_trait]
impl Provider for AcmeDns {
    async fn present(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        let shown = self.accounts_file.display();
        let accounts = accounts(&self.accounts_file).map_err(Failure::Refused)?;
        let account =
            accounts.into_values().find(|account| plain(&account.full_domain) == txt.name);
        let account = account.ok_or_else(|| {
            Failure::NoZone(format!("no account in {shown} has the name {}", txt.name))
        })?;
        let body = serde_json::json!({ "subdomain": account.subdomain, "txt": txt.value });
        let request = Request::post(format!("{}/update", self.url))
            .header("x-api-user", account.username)
            .header("x-api-key", account.password)
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
            .map_err(|_| {
                Failure::Refused(format!("{shown} or url has characters that no HTTP request can"))
            })?;
        let (status, said) = self.send(request).await?;
        match status {
            StatusCode::OK => Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                Err(Failure::Refused(format!(
                    "{} does not accept the account for {} in {shown} ({status}: {said}): register it \
                     again, and see whether its allowfrom has this machine",
                    self.url, txt.name
                )))
            }
            status => Err(Failure::Unavailable(format!("{} answers {status}: {said}", self.url))),
        }
    }

    /// The names of the accounts, as they stand in the file now.
    fn zones(&self) -> Option<Vec<String>> {
        let accounts = accounts(&self.accounts_file).unwrap_or_else(|problem| {
            tracing::warn!(problem, "there are no accounts at acme-dns for now");
            BTreeMap::new()
        });
        Some(accounts.into_values().map(|account| plain(&account.full_domain)).collect())
    }

    /// There is no way to remove a value; the next two take its place.
    async fn cleanup(&self, _: &Txt<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

impl AcmeDns {
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, String), Failure> {
        let unavailable = |reason: String| {
            Failure::Unavailable(format!("{} cannot be reached: {reason}", self.url))
        };
        let exchange = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| unavailable(format!("{error:?}")))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
            let body = body.map_err(|error| unavailable(error.to_string()))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let answered = tokio::time::timeout(TIMEOUT, exchange).await;
        answered.unwrap_or_else(|_| Err(unavailable("no answer in time".to_owned())))
    }
}

/// As names are compared.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

const TIMEOUT: Duration = Duration::from_secs(30);
const LARGEST_ANSWER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_account_is_known_at_once_and_without_accounts_no_name_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("accounts.json");
        std::fs::write(&file, "{}").unwrap();
        let url = "https://auth.example.org".to_owned();
        let values =
            [("url", url), ("accounts_file", file.display().to_string())].into_iter().collect();
        let provider = build(&Settings { kind: &KIND, values }).unwrap();
        assert_eq!(provider.zones(), Some(Vec::new()));
        let account = serde_json::json!({ "example.org": {
            "username": "u", "password": "p", "subdomain": "s", "fulldomain": "S.auth.example.org."
        }});
        std::fs::write(&file, account.to_string()).unwrap();
        assert_eq!(provider.zones(), Some(vec!["s.auth.example.org".to_owned()]));
        std::fs::write(&file, "{").unwrap();
        assert_eq!(provider.zones(), Some(Vec::new()));
    }
}

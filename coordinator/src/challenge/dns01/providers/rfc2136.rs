//! Dynamic updates (RFC 2136), authenticated by TSIG (RFC 8945): BIND, Knot, PowerDNS, Windows, and others.

use std::path::PathBuf;

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chancery_shared::secret::Secret;
use dns_update::{DnsUpdater, TsigAlgorithm};

use super::{
    super::{Failure, Provider, Txt},
    Kind, Settings, text_of,
    through::{Manners, Updater},
};

pub(super) const KIND: Kind = Kind {
    name: "rfc2136",
    required: &[
        ("server", "server = \"192.0.2.53\""),
        ("tsig_key_file", "tsig_key_file = \"/etc/chancery/tsig.key\""),
    ],
    optional: &["ttl"],
    build,
};

/// A primary name server that takes updates.
#[derive(Debug)]
struct Rfc2136 {
    updater: Updater,
    server: String,
    key_file: PathBuf,
}

fn build(settings: &Settings) -> Result<Box<dyn Provider>, Vec<String>> {
    Ok(Box::new(provider(settings)?))
}

fn provider(settings: &Settings) -> Result<Rfc2136, Vec<String>> {
    let key_file = PathBuf::from(settings.required("tsig_key_file"));
    let address = address(settings.required("server")).map_err(|problem| vec![problem])?;
    let (server, shown) = (address.clone(), key_file.display().to_string());
    let make = move |secrets: &[Secret]| {
        let key = secrets.first().ok_or_else(|| "there is no key".to_owned())?;
        let key = TsigKey::parse(text_of(key)?).map_err(|reason| format!("{shown}: {reason}"))?;
        let TsigKey { name, algorithm, secret } = key;
        DnsUpdater::new_rfc2136_tsig(server.as_str(), name, secret.expose_secret(), algorithm)
            .map_err(|error| format!("{shown}: the key cannot be used: {error:?}"))
    };
    let manners = Manners { is_primary: true, ..Manners::default() };
    let updater = Updater::new(settings, vec![key_file.clone()], manners, make);
    let updater = updater.map_err(|problem| vec![problem])?;
    let server = address.trim_start_matches("tcp://").to_owned();
    Ok(Rfc2136 { updater, server, key_file })
}

#[async_trait]
impl Provider for Rfc2136 {
    async fn present(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.updater.add(txt).await.map_err(|failure| self.explain(failure, txt))
    }

    async fn cleanup(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.updater.remove(txt).await.map_err(|failure| self.explain(failure, txt))
    }
}

impl Rfc2136 {
    /// What the server's answer means, and what to do.
    fn explain(&self, failure: Failure, txt: &Txt<'_>) -> Failure {
        let Failure::Refused(said) = failure else { return failure };
        let (server, key) = (&self.server, self.key_file.display().to_string());
        let (zone, name) = (txt.zone, txt.name);
        match said.as_str() {
            NOT_AUTH | NOT_ZONE => Failure::NoZone(format!(
                "{server} is not the primary server of the zone {zone}, or its clock and this machine's \
                 differ: correct `server` or the provider's zones, and compare the clocks"
            )),
            REFUSED => Failure::Refused(format!(
                "{server} does not let the TSIG key in {key} change {name}: allow it in the \
                 zone's update policy (BIND: update-policy, Knot: acl)"
            )),
            NOT_IMPLEMENTED | FORM_ERROR => {
                Failure::Refused(format!("{server} does not take dynamic updates ({said})"))
            }
            // What the answer to a key that it does not know looks like to the library: one that
            // is signed with nothing.
            said if said.starts_with("protocol error") => Failure::Refused(format!(
                "{server} does not accept the TSIG key in {key}: its name, algorithm and secret \
                 have to be the same there, and the clocks within 60 seconds"
            )),
            // About the file itself.
            said if said.contains(&key) => Failure::Refused(said.to_owned()),
            said => Failure::Unavailable(format!("{server}: {said}")),
        }
    }
}

/// `HOST`, `HOST:PORT` or `udp://…`, as the crate wants it. Over TCP, unless it is said otherwise: a
/// server that is not there is noticed at once.
fn address(server: &str) -> Result<String, String> {
    let (scheme, rest) = match server.split_once("://") {
        Some((scheme @ ("udp" | "tcp"), rest)) => (scheme, rest),
        Some(_) => return Err(format!("server = {server:?}: it can begin with tcp:// or udp://")),
        None => ("tcp", server),
    };
    let address = rest.parse::<std::net::SocketAddr>().or_else(|_| {
        rest.trim_matches(['[', ']']).parse().map(|ip| std::net::SocketAddr::new(ip, 53))
    });
    match address {
        Ok(address) => Ok(format!("{scheme}://{address}")),
        Err(_) => {
            Err(format!("server = {server:?}: write its IP address, with a port if that is not 53"))
        }
    }
}

/// A TSIG key.
struct TsigKey {
    name: String,
    algorithm: TsigAlgorithm,
    secret: Secret,
}

impl TsigKey {
    /// Reads what `tsig-keygen` writes (`key "NAME" { algorithm hmac-sha256; secret "…"; };`), or
    /// `hmac-sha256:NAME:SECRET` as for `nsupdate -y` and in the first line of `keymgr -t`.
    fn parse(text: &str) -> Result<Self, String> {
        let (name, algorithm, secret) = if text.starts_with("key") {
            let words: Vec<&str> = text
                .split(|c: char| c.is_whitespace() || "{};\"".contains(c))
                .filter(|word| !word.is_empty())
                .collect();
            let after = |key: &str| {
                let at = words.iter().position(|word| *word == key)?;
                words.get(at + 1).copied()
            };
            (after("key"), after("algorithm"), after("secret"))
        } else {
            let line = text.lines().next().unwrap_or_default().trim_start_matches(['#', ' ']);
            let mut parts = line.splitn(3, ':');
            let (algorithm, name) = (parts.next(), parts.next());
            (name, algorithm, parts.next())
        };
        let (Some(name), Some(algorithm), Some(secret)) = (name, algorithm, secret) else {
            return Err("it holds no TSIG key: make one with `tsig-keygen NAME`".to_owned());
        };
        let algorithm = match algorithm.trim_end_matches('.').to_ascii_lowercase().as_str() {
            "hmac-sha224" => TsigAlgorithm::HmacSha224,
            "hmac-sha256" => TsigAlgorithm::HmacSha256,
            "hmac-sha384" => TsigAlgorithm::HmacSha384,
            "hmac-sha512" => TsigAlgorithm::HmacSha512,
            other => {
                return Err(format!(
                    "the algorithm {other:?} is not supported: use hmac-sha256, hmac-sha384 or hmac-sha512"
                ));
            }
        };
        let secret = BASE64_STANDARD
            .decode(secret.trim())
            .map_err(|_| "its secret is not base64: make a key with `tsig-keygen NAME`")?;
        Ok(Self { name: name.to_owned(), algorithm, secret: Secret::new(secret) })
    }
}

// Response codes (RFC 1035 section 4.1.1, RFC 2136 section 2.2), as the library shows them.
const FORM_ERROR: &str = "Form Error";
const NOT_IMPLEMENTED: &str = "Not Implemented";
const REFUSED: &str = "Query Refused";
const NOT_AUTH: &str = "Not authorized";
const NOT_ZONE: &str = "Name not in zone";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_the_tools_write_them() {
        for text in [
            "key \"chancery\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0\";\n};",
            "key chancery. { algorithm HMAC-SHA256; secret c2VjcmV0; };",
            "hmac-sha256:chancery:c2VjcmV0",
            "# hmac-sha256:chancery:c2VjcmV0\nkey:\n  - id: chancery\n",
        ] {
            let key = TsigKey::parse(text).unwrap();
            assert_eq!(key.name.trim_end_matches('.'), "chancery");
            assert!(matches!(key.algorithm, TsigAlgorithm::HmacSha256));
            assert_eq!(key.secret.expose_secret(), b"secret");
        }
    }

    #[test]
    fn what_is_no_key_is_told_without_it() {
        for (text, expected) in [
            ("c2VjcmV0", "tsig-keygen"),
            ("key \"a\" { secret \"c2VjcmV0\"; };", "tsig-keygen"),
            ("hmac-md5:a:c2VjcmV0", "hmac-md5"),
            ("hmac-sha256:a:c2Vjcm?", "base64"),
        ] {
            let error = TsigKey::parse(text).err().unwrap();
            assert!(error.contains(expected) && !error.contains("c2Vjcm"), "{error}");
        }
    }

    #[test]
    fn a_clock_that_is_wrong_is_thought_of() {
        let folder = tempfile::tempdir().unwrap();
        let key_file = folder.path().join("tsig.key");
        std::fs::write(&key_file, "hmac-sha256:a:c2VjcmV0").unwrap();
        let key = key_file.display().to_string();
        let values = [("server", "192.0.2.1".to_owned()), ("tsig_key_file", key)].into();
        let settings = Settings { kind: &KIND, values };
        let provider = provider(&settings).unwrap();
        let identifier = "a.example.org".parse().unwrap();
        let txt = Txt {
            zone: "example.org",
            name: "_acme-challenge.a.example.org",
            value: "value",
            identifier: &identifier,
            token: "token",
            key_authorization: "token.thumbprint",
        };
        // A server answers so to what was signed too long ago, or will be (RFC 8945 section 5.2.3).
        let refused = Failure::Refused(NOT_AUTH.to_owned());
        let Failure::NoZone(said) = provider.explain(refused, &txt) else { panic!() };
        assert!(said.contains("compare the clocks") && said.contains("primary"), "{said}");
    }

    #[test]
    fn a_server_is_an_address() {
        assert_eq!(address("192.0.2.1").unwrap(), "tcp://192.0.2.1:53");
        assert_eq!(address("[2001:db8::1]").unwrap(), "tcp://[2001:db8::1]:53");
        assert_eq!(address("2001:db8::1").unwrap(), "tcp://[2001:db8::1]:53");
        assert_eq!(address("udp://192.0.2.1:5353").unwrap(), "udp://192.0.2.1:5353");
        assert!(address("ns1.example.org").unwrap_err().contains("IP address"));
    }
}

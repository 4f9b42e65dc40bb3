//! PowerDNS, through its HTTP API.

use chancery_shared::secret::Secret;
use dns_update::DnsUpdater;

use super::{
    super::Failure,
    Kind, Provider, Settings, text_of,
    through::{API_TIMEOUT, Manners, api},
};

pub(super) const KIND: Kind = Kind {
    name: "powerdns",
    required: &[
        ("url", "url = \"http://192.0.2.53:8081\""),
        ("api_key_file", "api_key_file = \"/etc/chancery/powerdns.key\""),
    ],
    optional: &["server_id", "ttl"],
    build,
};

fn build(settings: &Settings) -> Result<Box<dyn Provider>, Vec<String>> {
    let (url, server) = (settings.required("url").to_owned(), settings.owned("server_id"));
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(vec![format!("url = {url:?}: it begins with neither http:// nor https://")]);
    }
    let make = move |secrets: &[Secret]| {
        DnsUpdater::new_pdns(text_of(&secrets[0])?, Some(&url), server.as_ref(), API_TIMEOUT)
            .map_err(|error| format!("{error:?}"))
    };
    api(settings, &["api_key_file"], Manners { explain, ..Manners::default() }, make)
}

/// It says that a zone is not there in several ways.
fn explain(said: &str) -> Option<Failure> {
    let unknown = said.contains("Could not find domain") || said.contains("Not Found");
    unknown.then(|| {
        Failure::NoZone(format!(
            "it does not have that zone: create it there, or correct the provider's zones ({said})"
        ))
    })
}

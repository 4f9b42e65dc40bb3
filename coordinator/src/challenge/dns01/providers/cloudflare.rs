//! Cloudflare, with an API token that may edit DNS in the zones.

use chancery_shared::secret::Secret;
use dns_update::DnsUpdater;

use super::{
    super::Failure,
    Kind, Provider, Settings, text_of,
    through::{API_TIMEOUT, Manners, api},
};

pub(super) const KIND: Kind = Kind {
    name: "cloudflare",
    required: &[("api_token_file", "api_token_file = \"/etc/chancery/cloudflare.token\"")],
    optional: &["ttl"],
    build,
};

fn build(settings: &Settings) -> Result<Box<dyn Provider>, Vec<String>> {
    let make = |secrets: &[Secret]| {
        DnsUpdater::new_cloudflare(text_of(&secrets[0])?, API_TIMEOUT)
            .map_err(|error| format!("{error:?}"))
    };
    api(settings, &["api_token_file"], Manners { explain, ..Manners::default() }, make)
}

/// Cloudflare's own error codes, as its API documentation has them.
fn explain(said: &str) -> Option<Failure> {
    let refused = ["6003", "6111", "9109", "10000"].iter().any(|code| {
        said.contains(&format!("\"code\":{code}")) || said.contains(&format!("code: {code},"))
    });
    if refused {
        return Some(Failure::Refused(format!(
            "the API token is not accepted, or lacks a right: it needs Zone:Read and DNS:Edit for \
             the zone ({said})"
        )));
    }
    said.contains("No Cloudflare zone found").then(|| {
        Failure::NoZone(format!(
            "{said}: see whether the zone is in that account and the API token includes it"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cloudflares_codes_say_what_is_missing() {
        let said = r#"HTTP 403: {"success":false,"errors":[{"code":10000,"message":"Authentication error"}]}"#;
        assert!(matches!(explain(said), Some(Failure::Refused(text)) if text.contains("DNS:Edit")));
        let said = "No Cloudflare zone found for example.org";
        assert!(matches!(explain(said), Some(Failure::NoZone(_))));
        assert_eq!(explain("HTTP 500"), None);
    }
}

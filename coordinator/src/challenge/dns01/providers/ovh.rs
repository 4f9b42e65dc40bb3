//! OVH, with an application's key and secret, and a consumer key with rights on `/domain/zone/`.

use chancery_shared::secret::Secret;
use dns_update::{DnsUpdater, providers::ovh::OvhEndpoint};

use super::{
    super::Failure,
    Kind, Provider, Settings, text_of,
    through::{API_TIMEOUT, Manners, api},
};

pub(super) const KIND: Kind = Kind {
    name: "ovh",
    required: &[
        ("endpoint", "endpoint = \"ovh-eu\""),
        ("application_key_file", "application_key_file = \"/etc/chancery/ovh.key\""),
        ("application_secret_file", "application_secret_file = \"/etc/chancery/ovh.secret\""),
        ("consumer_key_file", "consumer_key_file = \"/etc/chancery/ovh.consumer\""),
    ],
    optional: &["ttl"],
    build,
};

fn build(settings: &Settings) -> Result<Box<dyn Provider>, Vec<String>> {
    let endpoint = settings.required("endpoint").to_owned();
    let make = move |secrets: &[Secret]| {
        let endpoint: OvhEndpoint = endpoint.parse().map_err(|_| {
            format!("endpoint = {endpoint:?}: write ovh-eu, ovh-us or ovh-ca, or that of a brand")
        })?;
        let (key, secret) = (text_of(&secrets[0])?, text_of(&secrets[1])?);
        DnsUpdater::new_ovh(key, secret, text_of(&secrets[2])?, endpoint, API_TIMEOUT)
            .map_err(|error| format!("{error:?}"))
    };
    let files = ["application_key_file", "application_secret_file", "consumer_key_file"];
    // Since late in 2025 it puts quotes around whatever TXT record it is given.
    let manners = Manners { is_quoting: true, is_lazy: true, explain, ..Manners::default() };
    api(settings, &files, manners, make)
}

/// The crate tells so whatever happens when it looks for the zone: no such zone, no right, an outage. The last
/// passes by itself.
fn explain(said: &str) -> Option<Failure> {
    said.contains("not found or not accessible").then(|| {
        Failure::Unavailable(format!(
            "{said}: OVH is away, or see whether the zone is in that account, and the consumer key has \
             rights on /domain/zone/"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_ends_no_order() {
        let said = "Zone example.org not found or not accessible";
        let Some(Failure::Unavailable(told)) = explain(said) else { panic!() };
        assert!(told.contains("consumer key"), "{told}");
        assert_eq!(explain("HTTP 500"), None);
    }
}

//! Google Cloud DNS, with the key of a service account that has the role `roles/dns.admin`.

use chancery_shared::secret::Secret;
use dns_update::{DnsUpdater, providers::google_cloud_dns::GoogleCloudDnsConfig};

use super::{
    super::Failure,
    Kind, Provider, Settings, text_of,
    through::{API_TIMEOUT, Manners, api},
};

pub(super) const KIND: Kind = Kind {
    name: "google-cloud-dns",
    required: &[(
        "service_account_file",
        "service_account_file = \"/etc/chancery/google-service-account.json\"",
    )],
    optional: &["project", "managed_zone", "ttl"],
    build,
};

fn build(settings: &Settings) -> Result<Box<dyn Provider>, Vec<String>> {
    let (project, managed_zone) = (settings.owned("project"), settings.owned("managed_zone"));
    let make = move |secrets: &[Secret]| {
        let text = text_of(&secrets[0])?;
        let account: serde_json::Value = serde_json::from_str(text)
            .map_err(|_| "the service account file is not JSON".to_owned())?;
        let own = account["project_id"].as_str().map(str::to_owned);
        let project_id = project.clone().or(own).ok_or("project is missing")?;
        DnsUpdater::new_google_cloud_dns(GoogleCloudDnsConfig {
            service_account_json: text.to_owned(),
            project_id,
            managed_zone: managed_zone.clone(),
            private_zone: false,
            impersonate_service_account: None,
            request_timeout: API_TIMEOUT,
        })
        .map_err(|error| format!("{error:?}"))
    };
    api(settings, &["service_account_file"], Manners { explain, ..Manners::default() }, make)
}

fn explain(said: &str) -> Option<Failure> {
    if said.contains("No matching managed zone") {
        return Some(Failure::NoZone(format!(
            "{said}: see whether the zone is in that project, or set managed_zone"
        )));
    }
    if said.contains("error sending request") {
        return Some(Failure::Unavailable(said.to_owned()));
    }
    let refused = ["Token exchange failed", "Failed to create JWT", "service account JSON"];
    refused
        .iter()
        .any(|word| said.contains(word))
        .then(|| Failure::Refused(format!("the service account's key is not accepted: {said}")))
}

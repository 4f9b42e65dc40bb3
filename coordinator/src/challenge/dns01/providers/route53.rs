//! Amazon Route 53, with credentials from a file in the format of `~/.aws/credentials`, or those that
//! AWS's own tools would find: in the environment, in profiles, by a web identity, from the container
//! or from the instance.

use chancery_shared::secret::Secret;
use dns_update::{DnsUpdater, providers::route53::Route53Config};

use super::{
    super::Failure,
    Kind, Provider, Settings, text_of,
    through::{Manners, api},
};

#[cfg(feature = "aws")]
mod chain;

pub(super) const KIND: Kind = Kind {
    name: "route53",
    required: &[],
    optional: &["credentials_file", "profile", "region", "hosted_zone_id", "endpoint", "ttl"],
    build,
};

fn build(settings: &Settings) -> Result<Box<dyn Provider>, Vec<String>> {
    let manners = Manners { explain, ..Manners::default() };
    if settings.optional("credentials_file").is_none() {
        #[cfg(feature = "aws")]
        return chain::build(settings, manners);
        #[cfg(not(feature = "aws"))]
        return Err(vec![
            "credentials_file is missing, such as \"/etc/chancery/aws-credentials\": this program \
             was built without the feature `aws`, and cannot find credentials by itself"
                .to_owned(),
        ]);
    }
    let profile = settings.owned("profile").unwrap_or_else(|| "default".to_owned());
    let updater = updater(settings);
    let make = move |secrets: &[Secret]| {
        let text = text_of(&secrets[0])?;
        let value = |key: &str| {
            let found = value(text, &profile, key);
            found.ok_or_else(|| format!("the profile [{profile}] of the credentials has no {key}"))
        };
        let (id, secret) = (value("aws_access_key_id")?, value("aws_secret_access_key")?);
        updater(id, secret, value("aws_session_token").ok())
    };
    api(settings, &["credentials_file"], manners, make)
}

/// What makes an updater from an access key's id and secret, and a session token.
fn updater(
    settings: &Settings,
) -> impl Fn(String, String, Option<String>) -> Result<DnsUpdater, String> + use<> {
    let (region, endpoint) = (settings.owned("region"), settings.owned("endpoint"));
    let hosted_zone_id = settings.owned("hosted_zone_id");
    move |access_key_id, secret_access_key, session_token| {
        // Never printed: its Debug shows the secrets.
        let config = Route53Config {
            access_key_id,
            secret_access_key,
            session_token,
            region: region.clone(),
            hosted_zone_id: hosted_zone_id.clone(),
            private_zone_only: None,
            endpoint: endpoint.clone(),
        };
        DnsUpdater::new_route53(config).map_err(|_| "region: there is no such region".to_owned())
    }
}

/// The value of `key` in a section of a file of AWS credentials.
fn value(text: &str, profile: &str, key: &str) -> Option<String> {
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = section.trim() == profile;
        } else if inside
            && let Some((found, value)) = line.split_once('=')
            && found.trim() == key
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

/// AWS's own words.
fn explain(said: &str) -> Option<Failure> {
    if said.contains("No suitable hosted zone") {
        return Some(Failure::NoZone(format!(
            "{said}: see whether the hosted zone is in that account, or set hosted_zone_id"
        )));
    }
    // Throttled, or somebody else has changed the same records meanwhile.
    let passing = ["Throttling", "PriorRequestNotComplete", "InvalidChangeBatch"];
    if passing.iter().any(|word| said.contains(word)) {
        return Some(Failure::Unavailable(said.to_owned()));
    }
    let refused = ["AccessDenied", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken"];
    refused.iter().any(|word| said.contains(word)).then(|| {
        Failure::Refused(format!(
            "AWS does not accept the credentials, or they lack route53:ListHostedZonesByName, \
             route53:ListResourceRecordSets or route53:ChangeResourceRecordSets ({said})"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_by_profile() {
        let text = "[default]\naws_access_key_id = A\n\n[ops]\naws_access_key_id=B\n\
                    aws_secret_access_key = x/y=\n";
        assert_eq!(value(text, "default", "aws_access_key_id").unwrap(), "A");
        assert_eq!(value(text, "ops", "aws_access_key_id").unwrap(), "B");
        assert_eq!(value(text, "ops", "aws_secret_access_key").unwrap(), "x/y=");
        assert_eq!(value(text, "default", "aws_secret_access_key"), None);
    }
}

//! DigitalOcean, with a token that may write domains.

use chancery_shared::secret::Secret;
use dns_update::DnsUpdater;

use super::{
    Kind, Provider, Settings, text_of,
    through::{API_TIMEOUT, Manners, api},
};

pub(super) const KIND: Kind = Kind {
    name: "digitalocean",
    required: &[("token_file", "token_file = \"/etc/chancery/digitalocean.token\"")],
    optional: &["ttl"],
    build,
};

fn build(settings: &Settings) -> Result<Box<dyn Provider>, Vec<String>> {
    let make = |secrets: &[Secret]| {
        DnsUpdater::new_digitalocean(text_of(&secrets[0])?, API_TIMEOUT)
            .map_err(|error| format!("{error:?}"))
    };
    api(settings, &["token_file"], Manners::default(), make)
}

//! deSEC, with a token that may write the domain.

use chancery_shared::secret::Secret;
use dns_update::DnsUpdater;

use super::{
    Kind, Provider, Settings, text_of,
    through::{API_TIMEOUT, Manners, api},
};

pub(super) const KIND: Kind = Kind {
    name: "desec",
    required: &[("token_file", "token_file = \"/etc/chancery/desec.token\"")],
    optional: &["ttl"],
    build,
};

fn build(settings: &Settings) -> Result<Box<dyn Provider>, Vec<String>> {
    let make = |secrets: &[Secret]| {
        DnsUpdater::new_desec(text_of(&secrets[0])?, API_TIMEOUT)
            .map_err(|error| format!("{error:?}"))
    };
    // It refuses less, unless a domain has an exception.
    api(settings, &["token_file"], Manners { default_ttl_secs: 3600, ..Manners::default() }, make)
}

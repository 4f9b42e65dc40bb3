//! More providers of the crate, which need no more than a key or two. Their APIs are the crate's
//! business: no test of ours speaks to them.

use chancery_shared::secret::Secret;
use dns_update::DnsUpdater;

use super::{
    Kind, text_of,
    through::{API_TIMEOUT, Manners, api},
};

/// Every one of them.
pub(super) const KINDS: &[&Kind] = &[
    &BUNNY,
    &DOMENESHOP,
    &EXOSCALE,
    &GANDI,
    &GCORE,
    &GODADDY,
    &HETZNER,
    &HOSTINGER,
    &INFOMANIAK,
    &IONOS,
    &LINODE,
    &NETLIFY,
    &NS1,
    &PORKBUN,
    &SCALEWAY,
    &VULTR,
];

/// A provider that wants one token.
macro_rules! with_token {
    ($constant:ident, $name:literal, $new:ident) => {
        const $constant: Kind = Kind {
            name: $name,
            required: &[(
                "token_file",
                concat!("token_file = \"/etc/chancery/", $name, ".token\""),
            )],
            optional: &["ttl"],
            build: |settings| {
                let make = |secrets: &[Secret]| {
                    DnsUpdater::$new(text_of(&secrets[0])?, API_TIMEOUT)
                        .map_err(|error| format!("{error:?}"))
                };
                api(settings, &["token_file"], Manners::default(), make)
            },
        };
    };
}

/// A provider that wants a key and a secret.
macro_rules! with_key_and_secret {
    ($constant:ident, $name:literal, $new:ident) => {
        const $constant: Kind = Kind {
            name: $name,
            required: &[
                ("key_file", concat!("key_file = \"/etc/chancery/", $name, ".key\"")),
                ("secret_file", concat!("secret_file = \"/etc/chancery/", $name, ".secret\"")),
            ],
            optional: &["ttl"],
            build: |settings| {
                let make = |secrets: &[Secret]| {
                    let (key, secret) = (text_of(&secrets[0])?, text_of(&secrets[1])?);
                    DnsUpdater::$new(key, secret, API_TIMEOUT).map_err(|error| format!("{error:?}"))
                };
                api(settings, &["key_file", "secret_file"], Manners::default(), make)
            },
        };
    };
}

with_token!(BUNNY, "bunny", new_bunny);
with_token!(GANDI, "gandi", new_gandiv5);
with_token!(GCORE, "gcore", new_gcore);
with_token!(HETZNER, "hetzner", new_hetzner);
with_token!(HOSTINGER, "hostinger", new_hostinger);
with_token!(INFOMANIAK, "infomaniak", new_infomaniak);
with_token!(IONOS, "ionos", new_ionos);
with_token!(LINODE, "linode", new_linode);
with_token!(NETLIFY, "netlify", new_netlify);
with_token!(NS1, "ns1", new_ns1);
with_token!(SCALEWAY, "scaleway", new_scaleway);
with_token!(VULTR, "vultr", new_vultr);
with_key_and_secret!(DOMENESHOP, "domeneshop", new_domeneshop);
with_key_and_secret!(EXOSCALE, "exoscale", new_exoscale);
with_key_and_secret!(GODADDY, "godaddy", new_godaddy);
with_key_and_secret!(PORKBUN, "porkbun", new_porkbun);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Settings, build, kinds};

    #[tokio::test]
    async fn each_is_made_from_its_files_and_has_a_name_of_its_own() {
        chancery_shared::tls::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "a-secret\n").unwrap();
        let mut names: Vec<&str> = kinds().map(|kind| kind.name).collect();
        for kind in super::KINDS {
            let path = file.display().to_string();
            let values: BTreeMap<_, _> =
                kind.required.iter().map(|(key, _)| (*key, path.clone())).collect();
            let built = build(&Settings { kind, values });
            assert!(built.is_ok(), "{}: {:?}", kind.name, built.err());
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), kinds().count());
    }
}

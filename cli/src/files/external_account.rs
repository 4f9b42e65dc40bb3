//! `external_account` of an `[[issuer]]` (RFC 8555 section 7.3.4).

use std::fs;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use chancery_proto::v1::ExternalAccount;

use super::{
    Problem,
    table::{Table, Text},
};

/// Reads the binding of an issuer's account, if there is one. The key stands in a file of its own, so
/// that the files of `apply` hold no secret.
pub(super) fn check(issuer: &Table<'_>, problems: &mut Vec<Problem>) -> Option<ExternalAccount> {
    let table = issuer.table("external_account", EXAMPLE, problems)?;
    table.refuse_unknown_keys(&["key_id", "hmac_key_file"], problems);
    let key_id = table.required_text("key_id", "\"kid-1\"", problems);
    if let Some(text) = &key_id
        && (text.value.is_empty() || text.value.contains(|c: char| c.is_whitespace()))
    {
        let message = "this is not a key id; copy it from the CA as it is, without blanks";
        problems.push(table.text_problem("key_id", text, message.to_owned()));
    }
    let file = table.required_text("hmac_key_file", "\"hmac.key\"", problems);
    let hmac_key = file.and_then(|file| read_key(&table, &file, problems));
    Some(ExternalAccount {
        key_id: key_id.map(|text| text.value).unwrap_or_default(),
        hmac_key: hmac_key.unwrap_or_default(),
    })
}

/// The key in the file that `path`, relative to the file that names it, leads to: base64url, as CAs give
/// it out, or base64.
fn read_key(table: &Table<'_>, path: &Text, problems: &mut Vec<Problem>) -> Option<Vec<u8>> {
    let folder = table.file().parent().unwrap_or_else(|| ".".as_ref());
    let file = folder.join(&path.value);
    let text = fs::read_to_string(&file).map_err(|error| super::unreadable(&error));
    let key = text.and_then(|text| decode(&text));
    key.map_err(|why| {
        let message = format!(
            "{}: {why}; name a file with the HMAC key as the CA gives it out, relative to this file",
            file.display()
        );
        problems.push(table.text_problem("hmac_key_file", path, message));
    })
    .ok()
}

/// Errors never show what they are about: it is a secret.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    let alphabet = if text.contains(['-', '_']) { alphabet::URL_SAFE } else { alphabet::STANDARD };
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let key = GeneralPurpose::new(&alphabet, config)
        .decode(text)
        .map_err(|_| "it holds something other than one base64url text".to_owned())?;
    if key.len() < LEAST {
        return Err(format!("it holds {} bytes, too few for an HMAC key", key.len()));
    }
    Ok(key)
}

const EXAMPLE: &str = "{ key_id = \"kid-1\", hmac_key_file = \"hmac.key\" }";
/// Bytes of the shortest key that is worth the name.
const LEAST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_cas_write_it() {
        for text in [
            "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n",
            "-_-_-_-_-_-_-_-_-_-_-_-_",
            "+/+/+/+/+/+/+/+/+/+/+/+/+/8=",
        ] {
            assert!(decode(text).unwrap().len() >= LEAST, "{text}");
        }
        for secret in ["", "two words", "hunter2hunter2", "%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%"] {
            let error = decode(secret).unwrap_err();
            assert!(secret.is_empty() || !error.contains(secret), "{error}");
        }
    }
}

//! Which of a CA's chains is taken (RFC 8555 section 7.4.2).

use chancery_shared::x509;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::{Error, account::Account};
use crate::events::printable;

/// Of the chains for a certificate the one that ends under the root with the common name `root`, or
/// else the default one, with a remark that says so. `None` if the order has no certificate yet.
pub(super) async fn preferred(
    account: &Account,
    order: &mut instant_acme::Order,
    root: &str,
) -> Result<(Option<String>, Option<String>), Error> {
    let Some(url) = order.state().certificate.clone() else { return Ok((None, None)) };
    let reply = account.get(&url).await?;
    let alternates = reply.links("alternate");
    let default = text(&reply.body)?;
    let mut offered = vec![top_of(&default)];
    if offered[0].as_deref() == Some(root) {
        return Ok((Some(default), None));
    }
    for url in alternates.iter().take(MOST_CHAINS) {
        let chain = text(&account.get(url).await?.body)?;
        let top = top_of(&chain);
        if top.as_deref() == Some(root) {
            return Ok((Some(chain), None));
        }
        offered.push(top);
    }
    let offered: Vec<String> =
        offered.into_iter().flatten().map(|top| printable(&top, 100)).collect();
    let remark = format!(
        "; no chain ends under {root:?}, so the default one is used: there are {offered:?}"
    );
    Ok((Some(default), Some(remark)))
}

/// The common name of the root that a chain ends under: the issuer of its last certificate.
fn top_of(pem: &str) -> Option<String> {
    let last =
        CertificateDer::pem_slice_iter(pem.as_bytes()).take(MOST_CERTIFICATES).last()?.ok()?;
    Some(x509::Facts::of(&last).ok()?.issuer)
}

fn text(body: &[u8]) -> Result<String, Error> {
    let text = std::str::from_utf8(body);
    text.map(str::to_owned).map_err(|_| Error::BadIssuance("the chain is not text".to_owned()))
}

/// Chains that are looked at beside the default one; CAs have one or two.
const MOST_CHAINS: usize = 8;
/// Far more than any chain has.
const MOST_CERTIFICATES: usize = 16;

#[cfg(test)]
mod tests {
    use chancery_shared::key_type::KeyType;

    use super::*;

    #[test]
    fn a_chain_ends_under_the_issuer_of_its_last_certificate() {
        let authority = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params
        };
        let key = || KeyType::EcdsaP256.generate().unwrap();
        let root = rcgen::CertifiedIssuer::self_signed(authority("Root X1"), key()).unwrap();
        let middle = rcgen::CertifiedIssuer::signed_by(authority("R11"), key(), &root).unwrap();
        let leaf = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key(), &middle).unwrap();
        let pem = x509::to_pem([leaf.der().as_ref(), middle.der().as_ref()]);
        assert_eq!(top_of(&pem).as_deref(), Some("Root X1"));
        assert_eq!(top_of(&leaf.pem()).as_deref(), Some("R11"));
        assert_eq!(top_of("rubbish"), None);
    }
}

//! Private keys of every kind, fresh or kept.

use anyhow::{Context as _, Result, ensure};
use chancery_tests::scene;
use chancery_tests::world::server_name;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::center::{Center, certificate};

/// The kind of key in a certificate, as `key_type` names it.
fn kind(leaf: &[u8]) -> Result<String> {
    let leaf = CertificateDer::from(leaf);
    let (_, parsed) = X509Certificate::from_der(&leaf)?;
    let key = parsed.public_key().parsed()?;
    Ok(match &key {
        PublicKey::RSA(_) => format!("rsa-{}", key.key_size()),
        PublicKey::EC(_) => format!("ecdsa-p{}", key.key_size()),
        other => anyhow::bail!("{other:?}"),
    })
}

#[test]
fn every_kind_of_key_is_issued_and_handed_out() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let kinds = ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096"];
        let mut toml = center.declaration(&[])?;
        for wanted in kinds {
            toml.push_str(&certificate(wanted, "pebble", &format!("key_type = {wanted:?}")));
        }
        center.apply(&toml).await?;
        for wanted in kinds {
            let shown = center.wait_until_issued(wanted, 1).await?;
            ensure!(shown["key_type"] == wanted, "{shown}");
        }
        let bundles = center.join("web-1", &["role=web"]).await?.bundles().await?;
        ensure!(bundles.len() == kinds.len(), "{bundles:?}");
        for bundle in &bundles {
            center.check(bundle, &[&server_name(&bundle.certificate)]).await?;
            ensure!(kind(&bundle.leaf_der)? == bundle.certificate, "{bundle:?}");
        }
        Ok(())
    });
}

#[test]
fn a_key_that_is_declared_to_be_kept_is_the_same_in_the_next_generation() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let issuer = center.declaration(&[])?;
        let declare = async |key: &str| {
            center.apply(&format!("{issuer}{}", certificate("www", "pebble", key))).await
        };
        let pin = async |generation: u64| -> Result<String> {
            let shown = center.wait_until_issued("www", generation).await?;
            let pin = shown["public_key_sha256"].as_str().context("no public key")?.to_owned();
            ensure!(pin.len() == 64, "{shown}");
            Ok(pin)
        };
        declare("key = { reuse = true }").await?;
        let first = pin(1).await?;
        center.cli().text(&["cert", "renew", "www"]).await?;
        ensure!(pin(2).await? == first, "another key");
        center.check_bundle("www").await?;

        // Of another kind, so another key.
        declare("key_type = \"rsa-2048\"\nkey = { reuse = true }").await?;
        let third = pin(3).await?;
        ensure!(third != first, "the same key");
        declare("key_type = \"rsa-2048\"").await?;
        center.cli().text(&["cert", "renew", "www"]).await?;
        ensure!(pin(4).await? != third, "the key was kept without being asked for");
        Ok(())
    });
}

#[test]
fn the_hash_of_the_next_key_is_told_before_the_renewal() {
    scene::play(async |scene| {
        let center = Center::start(scene).await?;
        let www = certificate("www", "pebble", "key = { ahead = true }");
        center.apply(&format!("{}{www}", center.declaration(&[])?)).await?;
        let mut next = None;
        for generation in 1..=3 {
            let shown = center.wait_until_issued("www", generation).await?;
            let hash = |key: &str| shown[key].as_str().map(str::to_owned);
            let present = hash("public_key_sha256").context("no public key")?;
            ensure!(next.is_none_or(|told| told == present), "another key than was told: {shown}");
            next = hash("next_public_key_sha256");
            ensure!(next.is_some() && next != Some(present), "{shown}");
            center.cli().text(&["cert", "renew", "www"]).await?;
        }
        Ok(())
    });
}

//! The APIs of clouds, played by servers that follow their published documents.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use chancery_shared::key_type::KeyType;
use chancery_tests::dns::{Bind, Cloud, Refusal, TOKEN};
use chancery_tests::gate::{Endpoint, Moment};
#[cfg(not(feature = "aws"))]
use chancery_tests::process;
use chancery_tests::scene::{self, Scene};
use chancery_tests::wait;
use chancery_tests::world::PATIENCE;
use serde_json::json;

use crate::stage::{Stage, certificate};

const CLOUDS: [&str; 6] = ["cloudflare", "digitalocean", "desec", "ovh", "google", "route53"];

/// A certificate for an apex and its wildcard, in a zone of its own, proved by one cloud.
fn declared(cloud: &str) -> String {
    certificate(cloud, &[&zone(cloud), &format!("*.{}", zone(cloud))], "")
}

fn zone(cloud: &str) -> String {
    format!("{cloud}.example")
}

fn challenge(cloud: &str) -> String {
    format!("_acme-challenge.{}", zone(cloud))
}

/// The TOML of a provider for each cloud, with its credentials made from `token`.
fn providers(folder: &Path, bind: &Bind, token: &str) -> Result<String> {
    let write = |name: &str, text: &str| -> Result<String> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let token_file = write("cloud.token", token)?;
    let aws = format!(
        "[default]\naws_access_key_id = {token}\naws_secret_access_key = a-secret-of-aws\n"
    );
    let aws = write("aws.credentials", &aws)?;
    let key = KeyType::Rsa2048.generate()?.serialize_pem();
    let account = json!({
        "type": "service_account", "project_id": "the-project", "private_key": key,
        "client_email": "chancery@the-project.iam.gserviceaccount.com",
        // Elsewhere nothing is given out.
        "token_uri": format!(
            "https://oauth2.googleapis.com/{}", if token == TOKEN { "token" } else { "revoked" }
        ),
    });
    let google = write("google.json", &account.to_string())?;
    let kinds = [
        ("cloudflare", "cloudflare", format!("api_token_file = \"{token_file}\"")),
        ("digitalocean", "digitalocean", format!("token_file = \"{token_file}\"")),
        ("desec", "desec", format!("token_file = \"{token_file}\"")),
        (
            "ovh",
            "ovh",
            format!(
                "endpoint = \"ovh-eu\"\napplication_key_file = \"{token_file}\"\n\
                 application_secret_file = \"{token_file}\"\nconsumer_key_file = \"{token_file}\""
            ),
        ),
        ("google", "google-cloud-dns", format!("service_account_file = \"{google}\"")),
        ("route53", "route53", format!("credentials_file = \"{aws}\"")),
    ];
    let mut text = String::new();
    for (name, kind, keys) in kinds {
        writeln!(
            text,
            "\n[dns.{name}]\nkind = \"{kind}\"\nzones = [\"{}\"]\nname_servers = [\"{}\"]\n{keys}",
            zone(name),
            bind.address()
        )?;
    }
    Ok(text)
}

/// A name server with a zone for each cloud and `more`, and the clouds.
async fn clouds(scene: &Scene, more: &[(&str, &str)]) -> Result<(Bind, Cloud)> {
    let zones: Vec<String> = CLOUDS.into_iter().map(zone).collect();
    let mut zones: Vec<(&str, &str)> = zones.iter().map(|zone| (zone.as_str(), "")).collect();
    zones.extend(more);
    let bind = Bind::start(&scene.folder("bind")?, &zones).await?;
    let names: Vec<&str> = zones.iter().map(|(zone, _)| *zone).collect();
    let cloud = Cloud::start(scene.path(), &bind, &names).await?;
    Ok((bind, cloud))
}

async fn stage(scene: &Scene, bind: &Bind, cloud: &Cloud, providers: &str) -> Result<Stage> {
    let mut stage = Stage::prepare(scene, bind.address(), providers, |options| {
        options.environment = cloud.environment();
    })
    .await?;
    stage.coordinator.run().await?;
    Ok(stage)
}

#[test]
fn every_cloud_proves_an_apex_and_its_wildcard_and_keeps_what_is_not_ours() {
    scene::play(async |scene| {
        let (bind, cloud) = clouds(scene, &[]).await?;
        for name in CLOUDS {
            cloud.put(&challenge(name), ["somebody-else".to_owned()]);
        }
        // More than a page of DigitalOcean's: ours come on the second.
        let many = (0..250).map(|number| format!("somebody-else-{number:03}"));
        cloud.put(&challenge("digitalocean"), many);
        // Busy at first: it is asked again.
        for of in ["GET api.cloudflare.com", "GET desec.io", "GET dns.googleapis.com"] {
            let refusal = Refusal { of, times: 1, status: 429, retry_after: Some(0), body: "{}" };
            cloud.refuse(refusal);
        }
        let throttled = "<Error><Code>Throttling</Code><Message>Rate exceeded</Message></Error>";
        let of = "POST route53.amazonaws.com";
        cloud.refuse(Refusal { of, times: 2, status: 400, retry_after: None, body: throttled });
        let stage = stage(scene, &bind, &cloud, &providers(scene.path(), &bind, TOKEN)?).await?;
        stage.apply(&CLOUDS.map(declared).concat()).await?;
        for name in CLOUDS {
            stage.wait_until_issued(name, 1).await?;
            stage.wait_until_txt(&challenge(name), &[]).await?;
            let left = cloud.values(&challenge(name));
            ensure!(
                left.iter().all(|value| value.starts_with("somebody-else")),
                "{name}: {left:?}"
            );
            let expected = if name == "digitalocean" { 251 } else { 1 };
            ensure!(left.len() == expected, "{name}: {} values are left", left.len());
        }
        let seen = cloud.seen();
        let pages = |of: &str| seen.iter().filter(|line| line.contains(of)).count();
        ensure!(pages("page=2") > 0, "DigitalOcean was asked for one page");
        ensure!(pages("hostedzonesbyname?dnsname=") > 0, "Route 53 was asked for one page");
        Ok(())
    });
}

#[test]
fn credentials_that_a_cloud_does_not_take_are_told_with_their_file_and_not_their_text() {
    scene::play(async |scene| {
        let (bind, cloud) = clouds(scene, &[]).await?;
        let token = "a-token-of-nobody";
        let stage = stage(scene, &bind, &cloud, &providers(scene.path(), &bind, token)?).await?;
        stage.apply(&CLOUDS.map(declared).concat()).await?;
        for (name, words) in [
            ("cloudflare", ["DNS:Edit", "Invalid access token"]),
            ("digitalocean", ["does not accept the credentials", "cloud.token"]),
            ("desec", ["does not accept the credentials", "cloud.token"]),
            ("google", ["service account", "not accepted"]),
            ("route53", ["route53:ChangeResourceRecordSets", "InvalidClientTokenId"]),
        ] {
            let told = stage.wait_until_failed(name).await?;
            for word in words {
                ensure!(told.contains(word), "{word:?} is not in {told}");
            }
        }
        wait_until_told_again(&stage).await?;
        let log = stage.coordinator.log()?;
        ensure!(!log.contains(token) && !log.contains("a-secret-of-aws"), "a secret is in the log");
        Ok(())
    });
}

#[test]
fn a_cloud_without_the_zone_or_without_the_right_is_told_as_that() {
    scene::play(async |scene| {
        let names: Vec<String> = CLOUDS.into_iter().map(zone).collect();
        let zones: Vec<(&str, &str)> = names.iter().map(|zone| (zone.as_str(), "")).collect();
        let bind = Bind::start(&scene.folder("bind")?, &zones).await?;
        // The DNS knows the zones, and the accounts have another one.
        let cloud = Cloud::start(scene.path(), &bind, &["another.example", &names[2]]).await?;
        let forbidden = "{\"detail\":\"You do not have permission to perform this action.\"}";
        let of = "POST desec.io";
        cloud.refuse(Refusal { of, times: 9, status: 403, retry_after: None, body: forbidden });
        let stage = stage(scene, &bind, &cloud, &providers(scene.path(), &bind, TOKEN)?).await?;
        stage.apply(&CLOUDS.map(declared).concat()).await?;
        for (name, word) in [
            ("cloudflare", "see whether the zone is in that account"),
            ("digitalocean", "does not find the zone digitalocean.example"),
            ("desec", "have no right to change TXT records of desec.example"),
            ("google", "set managed_zone"),
            ("route53", "set hosted_zone_id"),
        ] {
            let told = stage.wait_until_failed(name).await?;
            ensure!(told.contains(word), "{word:?} is not in {told}");
        }
        wait_until_told_again(&stage).await
    });
}

/// Waits until the log tells what may be wrong at OVH. It looks like an outage as well, so that the order goes on.
async fn wait_until_told_again(stage: &Stage) -> Result<()> {
    wait::until("a step that is repeated", PATIENCE, async || {
        let log = stage.coordinator.log()?;
        let words =
            ["the step is repeated", "ovh.example", "see whether the zone is in that account"];
        let is_told = |line: &str| words.iter().all(|word| line.contains(word));
        ensure!(log.lines().any(is_told), "nothing is told of OVH");
        Ok(())
    })
    .await
}

#[test]
fn what_ovh_was_not_told_to_serve_any_more_is_told_again() {
    scene::play(async |scene| {
        let (bind, cloud) = clouds(scene, &[]).await?;
        let lost = || Refusal {
            of: "/domain/zone/ovh.example/refresh",
            times: 1,
            status: 500,
            retry_after: None,
            body: "{}",
        };
        cloud.refuse(lost());
        let stage = stage(scene, &bind, &cloud, &providers(scene.path(), &bind, TOKEN)?).await?;
        let mut hold = stage.gate.hold(Endpoint::Challenge, Moment::Before);
        stage.apply(&certificate("ovh", &["ovh.example"], "")).await?;
        hold.reached(PATIENCE).await?;
        ensure!(bind.txt(&challenge("ovh")).await?.len() == 1, "the value is not served");
        cloud.refuse(lost());
        hold.release();
        stage.wait_until_issued("ovh", 1).await?;
        stage.wait_until_txt(&challenge("ovh"), &[]).await
    });
}

#[test]
fn acme_dns_is_updated_where_the_cname_leads() {
    scene::play(async |scene| {
        let more = [
            ("chancery.example", "_acme-challenge CNAME 8e5700ea.auth.example."),
            ("auth.example", ""),
        ];
        let (bind, cloud) = clouds(scene, &more).await?;
        let accounts = scene.path().join("acme-dns.json");
        let account = |key: &str| {
            json!({ "chancery.example": {
                "username": "user", "password": key, "subdomain": "8e5700ea",
                "fulldomain": "8e5700ea.auth.example", "allowfrom": [],
            }})
        };
        fs::write(&accounts, account("wrong").to_string())?;
        let provider = format!(
            "\n[dns.proofs]\nkind = \"acme-dns\"\nurl = \"{}\"\naccounts_file = \"{}\"\n\
             name_servers = [\"{}\"]\n",
            cloud.plain_url(),
            accounts.display(),
            bind.address()
        );
        let stage = stage(scene, &bind, &cloud, &provider).await?;
        stage.declare("www", &["chancery.example", "*.chancery.example"], "").await?;
        let told = stage.wait_until_failed("www").await?;
        ensure!(told.contains("does not accept the account") && told.contains("401"), "{told}");
        fs::write(&accounts, account(TOKEN).to_string())?;
        stage.wait_until_issued("www", 1).await?;
        // It removes nothing, and keeps two.
        ensure!(cloud.values("8e5700ea.auth.example").len() == 2);
        Ok(())
    });
}

/// The TOML of a provider for Route 53 that is told nothing of credentials.
fn route53_by_itself(bind: &Bind) -> String {
    format!("\n[dns.route53]\nkind = \"route53\"\nname_servers = [\"{}\"]\n", bind.address())
}

#[cfg(feature = "aws")]
#[test]
fn route_53_takes_the_credentials_of_the_role_that_the_container_has() {
    scene::play(async |scene| {
        let (bind, cloud) = clouds(scene, &[]).await?;
        let mut stage =
            Stage::prepare(scene, bind.address(), &route53_by_itself(&bind), |options| {
                options.environment = cloud.environment();
                let home = scene.path().display().to_string();
                options.environment.extend([
                    ("HOME".to_owned(), home),
                    ("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned()),
                    (
                        "AWS_CONTAINER_CREDENTIALS_FULL_URI".to_owned(),
                        format!("{}/credentials", cloud.plain_url()),
                    ),
                ]);
            })
            .await?;
        stage.coordinator.run().await?;
        stage.apply(&declared("route53")).await?;
        stage.wait_until_issued("route53", 1).await?;
        stage.wait_until_txt(&challenge("route53"), &[]).await?;
        let asked = |line: &String| line.contains("/credentials");
        ensure!(cloud.seen().iter().any(asked), "nobody asked for the role's credentials");
        Ok(())
    });
}

#[cfg(not(feature = "aws"))]
#[test]
fn route_53_without_credentials_is_refused_where_they_cannot_be_found() {
    scene::play(async |scene| {
        let (bind, _cloud) = clouds(scene, &[]).await?;
        let provider = route53_by_itself(&bind);
        let stage = Stage::prepare(scene, bind.address(), &provider, |_| {}).await?;
        let said = process::run(&mut stage.coordinator.command("check")?, wait::SOON).await?;
        ensure!(said.status.code() == Some(2), "{said:?}");
        let words = "dns.route53: credentials_file is missing";
        ensure!(said.err.contains(words) && said.err.contains("feature `aws`"), "{}", said.err);
        Ok(())
    });
}

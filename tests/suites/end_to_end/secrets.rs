//! No private key, no token and no seal key is where it does not belong: not in a log at its most
//! talkative, not in the store, not in any answer to operators.
//!
//! The search knows the secrets, and looks for each in all the ways in which a program may
//! write bytes down.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use chancery_shared::join_token::JoinToken;
use chancery_tests::scene;
use chancery_tests::world::{Options, World};
use rcgen::KeyPair;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;

/// Something that must not be found.
struct Secret {
    what: String,
    /// Parts of it that anything that holds the whole must hold, too.
    parts: Vec<Vec<u8>>,
}

impl Secret {
    fn new(what: &str, bytes: &[u8]) -> Self {
        Self { what: what.to_owned(), parts: vec![bytes.to_vec()] }
    }

    /// The secret parts of a private key in PKCS#8: of an ECDSA key its scalar (RFC 5915), of an
    /// RSA key windows of its second half, where only secret numbers are (RFC 8017).
    fn key(what: &str, der: &[u8]) -> Result<Self> {
        let marks = |at: &[u8]| at == EC_SCALAR;
        let parts = match der.windows(EC_SCALAR.len()).position(marks) {
            Some(at) => {
                let from = at + EC_SCALAR.len();
                vec![der.get(from..from + 32).context("a scalar of another length")?.to_vec()]
            }
            None => der[der.len() / 2..].chunks_exact(64).map(<[u8]>::to_vec).collect(),
        };
        ensure!(!parts.is_empty(), "{what} is too short for a key");
        Ok(Self { what: what.to_owned(), parts })
    }

    /// How each part may be written down.
    fn needles(&self) -> impl Iterator<Item = Needle> {
        self.parts
            .iter()
            .flat_map(|part| spellings(part))
            .map(|(spelling, bytes)| Needle { what: format!("{} as {spelling}", self.what), bytes })
    }
}

/// An `ECPrivateKey` of version 1 with 32 bytes (RFC 5915).
const EC_SCALAR: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];

fn spellings(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let joined = |separator: &str, spell: &dyn Fn(&u8) -> String| {
        bytes.iter().map(spell).collect::<Vec<_>>().join(separator).into_bytes()
    };
    let mut found = vec![
        ("raw", bytes.to_vec()),
        ("hexadecimal", joined("", &|byte| format!("{byte:02x}"))),
        ("hexadecimal, upper case", joined("", &|byte| format!("{byte:02X}"))),
        ("hexadecimal with colons", joined(":", &|byte| format!("{byte:02x}"))),
        // As `{:?}` of a `Vec<u8>` and a JSON list; blanks are taken out before the search.
        ("decimal", joined(",", &u8::to_string)),
        // As `{:?}` of `Bytes`.
        ("escaped", bytes.escape_ascii().to_string().into_bytes()),
    ];
    // Where the secret begins within something bigger decides how base64 cuts it.
    for shift in 0..3 {
        let mut shifted = vec![0; shift];
        shifted.extend(bytes);
        for (name, engine) in
            [("base64", BASE64_STANDARD_NO_PAD), ("base64 for URLs", BASE64_URL_SAFE_NO_PAD)]
        {
            let text = engine.encode(&shifted).into_bytes();
            // The characters at the ends depend on the neighbours.
            let from = if shift == 0 { 0 } else { shift + 1 };
            let to = shifted.len() * 8 / 6;
            found.push((name, text[from..to].to_vec()));
        }
    }
    found
}

/// A place that is searched.
struct Place {
    name: String,
    /// As it stands, and without blanks and line ends, written out or escaped.
    texts: [Vec<u8>; 2],
}

impl Place {
    fn new(name: &str, text: &[u8]) -> Self {
        let mut dense = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some((first, more)) = rest.split_first() {
            if let Some(more) = rest.strip_prefix(b"\\n") {
                rest = more;
                continue;
            }
            if !first.is_ascii_whitespace() {
                dense.push(*first);
            }
            rest = more;
        }
        Self { name: name.to_owned(), texts: [text.to_vec(), dense] }
    }

    fn file(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("{} is missing", path.display()))?;
        Ok(Self::new(&path.display().to_string(), &text))
    }
}

/// What was found where. Says nothing of the secret itself.
fn search(secrets: &[Secret], places: &[Place]) -> Vec<String> {
    let needles: Vec<Needle> = secrets.iter().flat_map(Secret::needles).collect();
    // One pass for all of them: logs at trace level have megabytes.
    let mut starts = vec![false; 1 << 16];
    let mut heads: HashMap<&[u8], Vec<&Needle>> = HashMap::new();
    for needle in &needles {
        let head = &needle.bytes[..HEAD];
        starts[start(head)] = true;
        heads.entry(head).or_default().push(needle);
    }
    let mut found = BTreeSet::new();
    for place in places {
        for text in &place.texts {
            for (at, head) in text.windows(HEAD).enumerate() {
                if !starts[start(head)] {
                    continue;
                }
                for needle in heads.get(head).into_iter().flatten() {
                    if text[at..].starts_with(&needle.bytes) {
                        found.insert(format!("{} in {}", needle.what, place.name));
                    }
                }
            }
        }
    }
    found.into_iter().collect()
}

/// One spelling of one secret.
struct Needle {
    what: String,
    bytes: Vec<u8>,
}

/// Every needle has so many bytes at least.
const HEAD: usize = 8;

fn start(head: &[u8]) -> usize {
    usize::from(head[0]) << 8 | usize::from(head[1])
}

#[test]
fn the_search_finds_a_key_however_it_is_written_down() {
    let ecdsa = KeyPair::generate().unwrap().serialize_der();
    let rsa = chancery_shared::key_type::KeyType::Rsa2048.generate().unwrap().serialize_der();
    for der in [ecdsa, rsa] {
        let secret = [Secret::key("the key", &der).unwrap()];
        let mut planted = vec![
            der.clone(),
            format!("key: {der:?}").into_bytes(),
            format!("{{\"key\":{}}}", serde_json::to_string(&der).unwrap()).into_bytes(),
            format!("b\"{}\"", der.escape_ascii()).into_bytes(),
            hex(&der).into_bytes(),
            hex(&der).to_uppercase().into_bytes(),
            serde_json::to_string(chancery_shared::x509::key_to_pem(&der).as_str())
                .unwrap()
                .into_bytes(),
            chancery_shared::x509::key_to_pem(&der).as_bytes().to_vec(),
        ];
        for before in ["", "a", "ab"] {
            let mut bigger = before.as_bytes().to_vec();
            bigger.extend(&der);
            bigger.extend(b"after");
            planted.push(BASE64_STANDARD.encode(&bigger).into_bytes());
            planted.push(BASE64_URL_SAFE_NO_PAD.encode(&bigger).into_bytes());
        }
        for text in planted {
            let mut log = b"2026-11-22T04:05:06Z DEBUG something: ".to_vec();
            log.extend(&text);
            let found = search(&secret, &[Place::new("a log", &log)]);
            assert!(!found.is_empty(), "not found in {}", text.escape_ascii());
        }
        let other = KeyPair::generate().unwrap().serialize_der();
        let innocent = Place::new("a log", hex(&other).as_bytes());
        assert_eq!(search(&secret, &[innocent]), [""; 0]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn nothing_secret_is_where_it_does_not_belong() {
    scene::play(async |scene| {
        let mut options = Options::new()?;
        "trace".clone_into(&mut options.coordinator.log);
        let mut world = World::prepare(scene, options).await?;
        world.agent.set_log("trace");
        world.coordinator.run().await?;
        let token = world.cli().token("web-1", &["role=web"]).await?;
        let unused = world.cli().json(&["agent", "token", "create", "--name", "web-2"]).await?;
        world.agent.join(&token).await?.success()?;
        world.agent.run()?;

        let mut secrets = tokens(&token, unused["token"].as_str().context("no token")?)?;
        secrets.push(Secret::new("the seal key", &seal_key(&world)?));
        world.declare(&["www", "rsa"]).await?;
        let toml = world.declaration(&["www"])?
            + &crate::center::certificate("rsa", "pebble", "key_type = \"rsa-2048\"");
        world.cli().apply(scene.path(), &toml).await?;
        for name in ["www", "rsa"] {
            world.wait_until_installed(name, 1).await?;
        }
        secrets.push(installed_key(&world, "www", "the first key of www")?);
        secrets.push(identity_key(&world)?);
        world.cli().text(&["cert", "renew", "www"]).await?;
        world.wait_until_installed("www", 2).await?;
        world.cli().text(&["seal", "rotate"]).await?;
        secrets.push(installed_key(&world, "www", "the second key of www")?);
        secrets.push(installed_key(&world, "rsa", "the key of rsa")?);

        let places = places(&mut world).await?;
        let trace = Secret::new("a line at trace level", b"Z TRACE ");
        let traced = search(&[trace], &places);
        for log in ["the coordinator's log", "the agent's log"] {
            ensure!(traced.iter().any(|found| found.ends_with(log)), "{log}: {traced:?}");
        }
        let found = search(&secrets, &places);
        ensure!(found.is_empty(), "{found:#?}");

        // The search bites here, too: a chain is public, and is found in the store.
        let chain = fs::read(world.agent.installed("www").join("cert.pem"))?;
        let leaf = rustls_pki_types::CertificateDer::from_pem_slice(&chain)?;
        let public = Secret::new("the leaf", &leaf[..64]);
        let found = search(&[public], &places);
        ensure!(found.iter().any(|found| found.contains("store.redb")), "{found:?}");
        Ok(())
    });
}

/// The secret halves of tokens, as bytes; one is used, one not.
fn tokens(used: &str, unused: &str) -> Result<Vec<Secret>> {
    [("a used token", used), ("an unused token", unused)]
        .into_iter()
        .map(|(what, text)| {
            let token: JoinToken = text.parse()?;
            Ok(Secret::new(what, token.secret.expose_secret()))
        })
        .collect()
}

fn seal_key(world: &World) -> Result<Vec<u8>> {
    let text = fs::read_to_string(world.coordinator.folder().join("seal.key"))?;
    let encoded = text.trim_end().rsplit(':').next().context("an empty key file")?;
    Ok(BASE64_STANDARD.decode(encoded)?)
}

/// The private key that is installed now.
fn installed_key(world: &World, certificate: &str, what: &str) -> Result<Secret> {
    let pem = fs::read(world.agent.installed(certificate).join("privkey.pem"))?;
    Secret::key(what, PrivatePkcs8KeyDer::from_pem_slice(&pem)?.secret_pkcs8_der())
}

fn identity_key(world: &World) -> Result<Secret> {
    let pem = fs::read(world.agent.state_dir().join("identity.pem"))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem)?;
    Secret::key("the agent's identity", key.secret_pkcs8_der())
}

/// All that leaves the programs: their logs, the store, answers to operators, metrics, reports.
async fn places(world: &mut World) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    let commands: [&[&str]; 11] = [
        &["status"],
        &["lease", "show"],
        &["cert", "list"],
        &["cert", "show", "www"],
        &["cert", "show", "rsa"],
        &["cert", "show", "www", "--pem"],
        &["agent", "list"],
        &["agent", "show", "web-1"],
        &["event", "list", "-n", "1000"],
        &["seal", "show"],
        &["apply", "--dry-run", "-f"],
    ];
    let file = world.coordinator.folder().with_file_name("fleet.toml").display().to_string();
    for words in commands {
        let mut words = words.to_vec();
        if words.last() == Some(&"-f") {
            words.push(&file);
        }
        for format in ["json", "table"] {
            let mut all = vec!["-o", format];
            all.extend(&words);
            let said = world.cli().run(&all).await?;
            let shown = format!("chancery {}", all.join(" "));
            ensure!([Some(0), Some(10)].contains(&said.status.code()), "{shown}: {said:?}");
            places.push(Place::new(&shown, format!("{}{}", said.out, said.err).as_bytes()));
        }
    }
    places.push(Place::new("/metrics", world.coordinator.metrics().await?.as_bytes()));
    // Ended first, so that all is written.
    world.agent.process()?.stop(chancery_tests::wait::SOON).await?;
    world.coordinator.process()?.stop(chancery_tests::wait::SOON).await?;
    places.push(Place::file(&world.coordinator.folder().join("store.redb"))?);
    places.push(Place::new("the coordinator's log", world.coordinator.log()?.as_bytes()));
    places.push(Place::new("the agent's log", world.agent.log()?.as_bytes()));
    for path in files(&world.agent.state_dir())? {
        // The identity and the cache are what the agent is for.
        if path.extension().is_some_and(|extension| extension == "json") {
            places.push(Place::file(&path)?);
        }
    }
    Ok(places)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

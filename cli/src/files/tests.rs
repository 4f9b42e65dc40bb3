use std::path::Path;

use insta::assert_snapshot;

use super::*;

/// A folder of files, whose path is left out of messages.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = folder.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, names: &[&str]) -> Result<Loaded, String> {
        let paths: Vec<_> = names.iter().map(|name| self.path(name)).collect();
        load(&paths).map_err(|failure| self.shown(failure.message().unwrap()))
    }

    fn shown(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn root_pem() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(["ca.example".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .pem()
}

const GOOD: &str = r#"
[[issuer]]
name = "private"
directory = "https://ca.example:14000/dir"
contacts = ["mailto:ops@example.org"]
trust_roots = "roots/ca.pem"

[[certificate]]
name = "www"
identifiers = ["WWW.example.org", "example.org"]
issuers = ["private", "elsewhere"]
labels = { role = "web", site = "ams" }
"#;

#[test]
fn files_and_directories_merge() {
    let pem = root_pem();
    let mail = "[[certificate]]\nname = \"mail\"\nidentifiers = [\"mail.example.org\"]\n\
                key_type = \"rsa-2048\"\nkey = { reuse = true }\nissuers = [\"private\"]\nlabels.role = \"mail\"\n";
    let folder = Folder::new(&[
        ("fleet.toml", GOOD),
        ("roots/ca.pem", &pem),
        ("more/mail.toml", mail),
        ("more/notes.txt", "not toml"),
        ("more/.hidden.toml", "not toml"),
    ]);
    let loaded = folder.load(&["fleet.toml", "more", "more/mail.toml"]).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.desired.issuers[0].trust_roots_pem, pem);
    let certificates = &loaded.desired.certificates;
    let names: Vec<_> = certificates.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, ["mail", "www"]);
    assert_eq!(certificates[0].key_type, "rsa-2048");
    assert_eq!((certificates[0].reuse_key, certificates[1].reuse_key), (true, false));
    assert_eq!(certificates[0].labels["role"], "mail");
    assert_eq!(certificates[1].key_type, "ecdsa-p256");
    assert_eq!(certificates[1].identifiers, ["www.example.org", "example.org"]);
    assert_eq!(certificates[1].issuers, ["private", "elsewhere"]);
}

#[test]
fn windows_and_freezes_are_read() {
    let file = r#"
renew = { windows = ["mon-fri 02:00-05:00"], time_zone = "Europe/Berlin", jitter = "90m" }

[[certificate]]
name = "mail"
identifiers = ["mail.example.org"]
issuers = ["a"]
labels.role = "mail"
renew = {}

[[certificate]]
name = "www"
identifiers = ["www.example.org"]
issuers = ["a"]
labels.role = "web"

[[freeze]]
name = "year-end"
from = "2026-12-18"
to = "2027-01-03"
time_zone = "Europe/Berlin"
reason = "nobody is there"
labels.role = "web"

[[freeze]]
name = "move"
from = "2026-12-01 18:00"
to = "2026-12-01T20:30:00Z"
"#;
    let other = "[[certificate]]\nname = \"api\"\nidentifiers = [\"api.example.org\"]\n\
                 issuers = [\"a\"]\nlabels.role = \"web\"\n";
    let loaded = Folder::new(&[("a.toml", file), ("b.toml", other)]);
    let loaded = loaded.load(&["a.toml", "b.toml"]).unwrap();
    let certificates = &loaded.desired.certificates;
    // The default is the file's own.
    assert_eq!(certificates[0].renew, None);
    assert!(certificates[1].renew.as_ref().unwrap().windows.is_empty());
    let www = certificates[2].renew.as_ref().unwrap();
    assert_eq!(www.windows, ["Mon-Fri 02:00-05:00"]);
    assert_eq!((www.time_zone.as_str(), www.jitter.unwrap().seconds), ("Europe/Berlin", 5400));
    let freezes = &loaded.desired.freezes;
    let time = |time| chancery_shared::wire::from_timestamp(time).unwrap().to_string();
    let times = |i: usize| (time(freezes[i].from.as_ref()), time(freezes[i].to.as_ref()));
    assert_eq!(freezes[0].name, "move");
    assert_eq!(times(0), ("2026-12-01T18:00:00Z".into(), "2026-12-01T20:30:00Z".into()));
    assert_eq!(times(1), ("2026-12-17T23:00:00Z".into(), "2027-01-03T23:00:00Z".into()));
    assert_eq!(freezes[1].labels["role"], "web");
}

#[test]
fn all_that_is_wrong_with_windows_and_freezes_comes_at_once() {
    let file = r#"
[renew]
windows = ["Mo 02:00-05:00", "02:00-04:00", "02:00-04:00", 7]
time_zone = "Middle/Earth"
jitter = "a while"
window = []

[[freeze]]
name = "Year End"
from = "2027-01-03"
to = "2026-12-18"
until = "2026"

[[freeze]]
name = "odd"
from = "tomorrow"
time_zone = 1
labels = { Role = "web" }

[[freeze]]
name = "odd"
from = "2026-12-18"
to = "2026-12-18"
"#;
    let message = Folder::new(&[("bad.toml", file)]).load(&["bad.toml"]).unwrap_err();
    assert_snapshot!(message, @r#"
    14 problems; nothing was changed
    bad.toml:3: renew.windows = 7: this is not a text; put it in quotes
    bad.toml:3: renew.windows = "02:00-04:00": this stands in the list already; leave one out
    bad.toml:3: renew.windows = "Mo 02:00-05:00": not valid; write for example "Mon-Fri 02:00-05:00", "Sat,Sun 00:00-24:00", or "22:00-04:00" for every night
    bad.toml:4: renew.time_zone = "Middle/Earth": no time zone of this name is known; write an IANA name, such as "Europe/Berlin"
    bad.toml:5: renew.jitter = "a while": expected number at 0; write for example 30m, 6h or 1day
    bad.toml:6: renew.window: this key is not known; did you mean windows?
    bad.toml:9: name = "Year End": not valid; use 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit
    bad.toml:11: to = "2026-12-18": this is not after its beginning, 2027-01-03T00:00:00Z; exchange from and to, or mend one
    bad.toml:12: until: this key is not known; known are name, from, to, time_zone, reason, labels
    bad.toml:14: [[freeze]]: to is missing; add for example to = "2027-01-03"
    bad.toml:16: from = "tomorrow": this is neither a day nor a time; write for example "2026-12-18" or "2026-12-18 18:00"
    bad.toml:17: time_zone = 1: this is not a text; put it in quotes
    bad.toml:18: labels.Role = "web": not valid; write key=value, each 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit
    bad.toml:21: name = "odd": the freeze odd is defined at bad.toml:15 already; keep one, or rename one
    "#);
}

#[test]
fn all_problems_of_all_files_come_at_once() {
    let bad = r#"
[[issuer]]
name = "Let's Encrypt"
directory = "http://ca.example/dir"
contacts = ["ops@example.org", "mailto:a@example.org,b@example.org", "mailto:nobody"]
trust_roots = "missing.pem"
colour = "red"

[[certificate]]
name = "www"
identifiers = ["www.example.org", "WWW.example.org", "*.example.org", "a..b", 7]
key_type = "ecdsa-p521"
issuers = ["a", "a", "B"]
labels = { Role = "web", site = 1 }

[[certificate]]
identifier = ["x.example.org"]
issuers = []

[certificates]
"#;
    let other = "[[certificate]]\nname = \"www\"\nidentifiers = \"www.example.org\"\n\
                 issuers = [\"a\"]\nlabels = []\n";
    let folder =
        Folder::new(&[("bad.toml", bad), ("other.toml", other), ("syntax.toml", "a = \n[b\n")]);
    let message = folder.load(&["bad.toml", "other.toml", "syntax.toml", "none.toml"]).unwrap_err();
    assert_snapshot!(message, @r#"
    27 problems; nothing was changed
    bad.toml:3: name = "Let's Encrypt": not valid; use 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit
    bad.toml:4: directory = "http://ca.example/dir": the URL does not begin with https://HOST; write for example "https://acme-v02.api.letsencrypt.org/directory"
    bad.toml:5: contacts = "ops@example.org": this is not a mailto: URL; write "mailto:ops@example.org"
    bad.toml:5: contacts = "mailto:a@example.org,b@example.org": one address each, without headers; write ["mailto:a@example.org", "mailto:b@example.org"]
    bad.toml:5: contacts = "mailto:nobody": this is not an e-mail address; write "mailto:ops@example.org"
    bad.toml:6: trust_roots = "missing.pem": missing.pem: there is no such file; name a PEM file of CA certificates, relative to this file
    bad.toml:7: colour: this key is not known; known are name, directory, contacts, profile, preferred_chain, external_account, trust_roots, limits
    bad.toml:11: identifiers = 7: this is not a text; put it in quotes
    bad.toml:11: identifiers = "WWW.example.org": www.example.org stands at bad.toml:11 already; leave one out
    bad.toml:11: identifiers = "*.example.org": only DNS-01 can validate a wildcard; add "dns-01" to its challenges
    bad.toml:11: identifiers = "a..b": not valid; each label needs 1 to 63 letters, digits and inner hyphens
    bad.toml:12: key_type = "ecdsa-p521": not known; use ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096
    bad.toml:13: issuers = "a": this stands in the list already; leave one out
    bad.toml:13: issuers = "B": not valid; use 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit
    bad.toml:14: labels.site = 1: this is not a text; put it in quotes
    bad.toml:14: labels.Role = "web": not valid; write key=value, each 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit
    bad.toml:16: [[certificate]]: name is missing; add for example name = "www"
    bad.toml:16: [[certificate]]: identifiers is missing; add for example identifiers = ["www.example.org"]
    bad.toml:17: identifier: this key is not known; did you mean identifiers?
    bad.toml:18: issuers = []: the list is empty; write for example issuers = ["letsencrypt"]
    bad.toml:20: certificates: this key is not known; did you mean certificate?
    other.toml:2: name = "www": the certificate www is defined at bad.toml:10 already; keep one, or rename one
    other.toml:3: identifiers = "www.example.org": this is not a list; put it in square brackets, ["…"]
    other.toml:5: labels = []: this is not a table; write labels = { role = "web" }
    syntax.toml:1: this is not TOML: string values must be quoted, expected literal string
    syntax.toml:2: this is not TOML: unclosed table, expected `]`
    none.toml: there is no such file
    "#);
}

#[test]
fn tables_within_an_entry_are_told_apart_by_their_path() {
    let certificate = |name: &str, key: &str| {
        format!(
            "[[certificate]]\nname = \"{name}\"\nidentifiers = [\"a.example\"]\n\
             issuers = [\"a\"]\nlabels = {{ role = \"web\" }}\n{key}\n"
        )
    };
    let text = certificate("a", "key = true")
        + &certificate("b", "key = { reuse = \"yes\" }")
        + &certificate("c", "[certificate.key]\nreused = true")
        + &certificate("d", "key = { reuse = true, ahead = true }");
    let folder = Folder::new(&[("a.toml", &text)]);
    assert_snapshot!(folder.load(&["a.toml"]).unwrap_err(), @r#"
    4 problems; nothing was changed
    a.toml:6: key = true: this is not a table; write for example key = { reuse = true }
    a.toml:12: key.reuse = "yes": this is neither true nor false, without quotes
    a.toml:19: key.reused: this key is not known; did you mean reuse?
    a.toml:25: key: a key cannot be both kept and made ahead; leave out reuse or ahead
    "#);
}

#[test]
fn an_external_account_names_its_key_in_a_file() {
    let issuer = |name: &str, bound: &str| {
        format!(
            "[[issuer]]\nname = \"{name}\"\ndirectory = \"https://ca.example\"\n\
             external_account = {bound}\n"
        )
    };
    let good = issuer("a", "{ key_id = \"kid-1\", hmac_key_file = \"hmac.key\" }");
    let bad = issuer("b", "{ key_id = \"k 1\", hmac_key_file = \"secret.key\" }")
        + &issuer("c", "{ hmac_key_file = \"none.key\", hmac = \"x\" }")
        + &issuer("d", "\"kid-1\"");
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n";
    let folder = Folder::new(&[
        ("good.toml", &good),
        ("bad.toml", &bad),
        ("hmac.key", key),
        ("secret.key", "hunter2"),
    ]);
    let mut loaded = folder.load(&["good.toml"]).unwrap();
    let bound = loaded.desired.issuers.remove(0).external_account.unwrap();
    assert_eq!((bound.key_id.as_str(), bound.hmac_key.len()), ("kid-1", 48));
    assert!(!format!("{bound:?}").contains(&format!("{:?}", bound.hmac_key)));
    assert_snapshot!(folder.load(&["bad.toml"]).unwrap_err(), @r#"
    6 problems; nothing was changed
    bad.toml:4: external_account.key_id = "k 1": this is not a key id; copy it from the CA as it is, without blanks
    bad.toml:4: external_account.hmac_key_file = "secret.key": secret.key: it holds something other than one base64url text; name a file with the HMAC key as the CA gives it out, relative to this file
    bad.toml:8: external_account.hmac: this key is not known; known are key_id, hmac_key_file
    bad.toml:8: external_account: key_id is missing; add for example key_id = "kid-1"
    bad.toml:8: external_account.hmac_key_file = "none.key": none.key: there is no such file; name a file with the HMAC key as the CA gives it out, relative to this file
    bad.toml:12: external_account = "kid-1": this is not a table; write for example external_account = { key_id = "kid-1", hmac_key_file = "hmac.key" }
    "#);
}

#[test]
fn a_certificate_without_labels_is_warned_about() {
    let text =
        "[[certificate]]\nname = \"www\"\nidentifiers = [\"a.example\"]\nissuers = [\"a\"]\n";
    let folder = Folder::new(&[("a.toml", text), ("b.toml", &text.replace("www", "api"))]);
    fs::write(folder.path("b.toml"), format!("{}labels = {{}}\n", text.replace("www", "api")))
        .unwrap();
    let loaded = folder.load(&["a.toml", "b.toml"]).unwrap();
    let warnings: Vec<_> =
        loaded.warnings.iter().map(|warning| folder.shown(&warning.to_string())).collect();
    assert_snapshot!(warnings.join("\n"), @r#"
    a.toml:1: [[certificate]]: certificate www has no labels, so no agent will get it; add for example labels = { role = "web" }
    b.toml:1: [[certificate]]: certificate api has no labels, so no agent will get it; add for example labels = { role = "web" }
    "#);
}

#[test]
fn trust_roots_must_be_certificates_and_nothing_secret() {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let issuer = |root: &str| {
        format!(
            "[[issuer]]\nname = \"{root}\"\ndirectory = \"https://ca.example\"\n\
             trust_roots = \"{root}.pem\"\n"
        )
    };
    let text = format!("{}{}{}", issuer("key"), issuer("empty"), issuer("rubbish"));
    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let folder = Folder::new(&[
        ("a.toml", &text),
        ("key.pem", &format!("{}{key}", root_pem())),
        ("empty.pem", ""),
        ("rubbish.pem", rubbish),
    ]);
    assert_snapshot!(folder.load(&["a.toml"]).unwrap_err(), @r#"
    3 problems; nothing was changed
    a.toml:4: trust_roots = "key.pem": key.pem: it holds a private key, which has no place here and is not sent; name a PEM file of CA certificates, relative to this file
    a.toml:8: trust_roots = "empty.pem": empty.pem: there is no certificate in it; name a PEM file of CA certificates, relative to this file
    a.toml:12: trust_roots = "rubbish.pem": rubbish.pem: the certificate cannot be read: Parsing Error: Der(UnexpectedTag { expected: Some(Tag(16)), actual: Tag(0) }); name a PEM file of CA certificates, relative to this file
    "#);
}

#[test]
fn tables_of_the_wrong_shape_are_explained() {
    let folder = Folder::new(&[
        ("one.toml", "[certificate]\nname = \"www\"\n"),
        ("list.toml", "issuer = [1]\n"),
        ("empty/readme", ""),
    ]);
    assert_snapshot!(folder.load(&["one.toml", "list.toml"]).unwrap_err(), @"
    2 problems; nothing was changed
    one.toml:1: certificate = [certificate]: this is not a list; write [[certificate]] with two brackets
    list.toml:1: issuer = 1: not a table; write [[issuer]] and its keys below it
    ");
    assert_snapshot!(folder.load(&["empty"]).unwrap_err(), @"
    1 problem; nothing was changed
    empty: no *.toml file in there
    ");
}

#[test]
fn the_example_of_the_documentation_is_valid() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/fleet.toml");
    let loaded = load(&[example]).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert!(loaded.desired.certificates.len() >= 2);
}

//! The seal key file: the one secret that every coordinator is given.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chancery_shared::{durable, secret::Secret};
use zeroize::Zeroizing;

use super::Error;

/// The key that wraps all data keys, and the file that it is in.
///
/// The file is one line of text, `chancery-seal-key-v1:` and 32 bytes in base64.
pub struct KeyFile {
    path: PathBuf,
    key: Secret,
}

impl KeyFile {
    /// Makes a new key and writes it to `path` with mode 0600, durably. Refuses to replace
    /// whatever is there: everything sealed under a lost key is lost.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let key = Secret::random(KEY_BYTES);
        let failed = |source| Error::KeyFileIo { action: "create", path: path.to_owned(), source };
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        // `tempfile` makes it with mode 0600.
        let mut temporary = tempfile::Builder::new()
            .prefix(".chancery-seal-key-")
            .tempfile_in(folder)
            .map_err(failed)?;
        temporary.write_all(text(&key).as_bytes()).map_err(failed)?;
        temporary.as_file().sync_all().map_err(failed)?;
        temporary.persist_noclobber(path).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => Error::KeyFileExists(path.to_owned()),
            _ => failed(error.error),
        })?;
        durable::sync_dir(folder)?;
        Ok(Self { path: path.to_owned(), key })
    }

    /// Reads the key. A file that its group or others can read is refused, because then
    /// nobody knows who has read it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::KeyFileIo { action: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::KeyFileMissing(path.to_owned()),
            _ => failed(error),
        })?;
        let metadata = file.metadata().map_err(failed)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::KeyFileExposed { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(Vec::with_capacity(MOST_BYTES));
        let most = u64::try_from(MOST_BYTES).expect("a small constant");
        file.take(most).read_to_end(&mut text).map_err(failed)?;
        let key = parse(&text).ok_or_else(|| Error::KeyFileMalformed(path.to_owned()))?;
        Ok(Self { path: path.to_owned(), key })
    }

    /// Tells one key from another without telling anything of either: 16 hexadecimal
    /// digits of a hash that is used for nothing else.
    pub fn fingerprint(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"chancery-seal-key-v1 fingerprint\0");
        context.update(self.key.expose_secret());
        let hash = context.finish();
        let start = hash.as_ref()[..8].try_into().expect("a SHA-256 hash has 32 bytes");
        format!("{:016x}", u64::from_be_bytes(start))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The wrapping key, [`KEY_BYTES`] long.
    pub(super) fn key(&self) -> &Secret {
        &self.key
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile")
            .field("path", &self.path)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

fn text(key: &Secret) -> Zeroizing<String> {
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MOST_BYTES));
    text.push_str(PREFIX);
    BASE64_STANDARD.encode_string(key.expose_secret(), &mut text);
    text.push('\n');
    text
}

fn parse(text: &[u8]) -> Option<Secret> {
    let encoded = text.trim_ascii_end().strip_prefix(PREFIX.as_bytes())?;
    let key = Secret::new(BASE64_STANDARD.decode(encoded).ok()?);
    (key.expose_secret().len() == KEY_BYTES).then_some(key)
}

/// What the file starts with: the version of its format.
const PREFIX: &str = "chancery-seal-key-v1:";
/// Length of an AES-256 key.
pub(super) const KEY_BYTES: usize = 32;
/// More than any well-formed file has.
const MOST_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn path() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        (folder, path)
    }

    #[test]
    fn what_was_created_is_loaded() {
        let (_folder, path) = path();
        let created = KeyFile::create(&path).unwrap();
        let loaded = KeyFile::load(&path).unwrap();
        assert_eq!(created.key, loaded.key);
        assert_eq!(created.fingerprint(), loaded.fingerprint());
        assert_eq!(created.fingerprint().len(), 16);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("chancery-seal-key-v1:") && text.ends_with('\n'));
    }

    #[test]
    fn a_key_is_never_replaced() {
        let (folder, path) = path();
        let first = KeyFile::create(&path).unwrap();
        assert!(matches!(KeyFile::create(&path), Err(Error::KeyFileExists(_))));
        assert_eq!(KeyFile::load(&path).unwrap().key, first.key);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        let (_folder, path) = path();
        KeyFile::create(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let message = KeyFile::load(&path).unwrap_err().to_string();
            assert!(message.contains("chmod 600 "), "{message}");
            assert!(message.contains(&format!("{mode:04o}")), "{message}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        KeyFile::load(&path).unwrap();
    }

    #[test]
    fn a_missing_file_names_the_remedy() {
        let (_folder, path) = path();
        let message = KeyFile::load(&path).unwrap_err().to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        assert!(message.contains("chancery-coordinator init --config FILE"), "{message}");
    }

    #[test]
    fn a_malformed_file_is_refused_and_not_quoted() {
        let (_folder, path) = path();
        for text in [
            "",
            "secret",
            "chancery-seal-key-v1:",
            "chancery-seal-key-v1:AAAA",
            "chancery-seal-key-v2:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "chancery-seal-key-v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            durable::write_file(&path, text.as_bytes(), 0o600).unwrap();
            let message = KeyFile::load(&path).unwrap_err().to_string();
            assert!(message.contains("not a seal key file"), "{message}");
            assert!(!message.contains("AAAA") && !message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let (_folder, path) = path();
        let key_file = KeyFile::create(&path).unwrap();
        let encoded = BASE64_STANDARD.encode(key_file.key.expose_secret());
        let shown = format!("{key_file:?}");
        assert!(!shown.contains(&encoded), "{shown}");
        assert!(shown.contains(&key_file.fingerprint()), "{shown}");
    }
}

//! Writing a build.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::Path,
};

use chancery_shared::{durable, failpoint::crash_point};

use super::{
    BuildName, Error, Layout, TEMPORARY, because, make_public_dir,
    manifest::{self, Manifest},
    remove,
};
use crate::{bundle::Bundle, config::Ownership};

/// A build to write.
pub(crate) struct Staging<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) build: BuildName,
    pub(crate) ownership: Ownership,
}

impl Layout {
    /// Writes a build, durably, without touching the stable path. On failure nothing of it
    /// is left.
    pub(crate) fn stage(&self, staging: &Staging<'_>) -> Result<(), Error> {
        let certificate = staging.bundle.certificate();
        let parent = self.builds_dir(certificate);
        make_public_dir(&parent)?;
        let temporary = parent.join(format!("{TEMPORARY}{}", staging.build));
        remove(&temporary)?;
        let finished = self.build_dir(certificate, staging.build);
        let written = write(&temporary, staging).and_then(|()| {
            fs::rename(&temporary, &finished)
                .map_err(because("rename a temporary folder to", &finished))
        });
        if let Err(error) = written {
            // Best effort: the first error is the one to tell.
            let _ = remove(&temporary);
            return Err(error);
        }
        crash_point("install::build_renamed");
        Ok(durable::sync_dir(&parent)?)
    }
}

/// Writes all of a build into a new folder and makes it durable.
fn write(dir: &Path, staging: &Staging<'_>) -> Result<(), Error> {
    let ownership = staging.ownership;
    let pem = staging.bundle.files();
    let files: [(&str, u32, &[u8]); 4] = [
        ("fullchain.pem", ownership.public_mode, pem.fullchain.as_bytes()),
        ("privkey.pem", ownership.key_mode, pem.privkey.as_bytes()),
        ("cert.pem", ownership.public_mode, pem.cert.as_bytes()),
        ("chain.pem", ownership.public_mode, pem.chain.as_bytes()),
    ];
    let manifest = Manifest::new(&staging.bundle.brief(), ownership, &files);
    make_public_dir(dir)?;
    for (name, mode, contents) in files {
        write_file(&dir.join(name), contents, Some((ownership, mode)))?;
        crash_point("install::file_written");
    }
    write_file(&dir.join(manifest::FILE), &manifest.encode(), None)?;
    durable::sync_dir(dir)?;
    crash_point("install::build_synced");
    if manifest.holds(dir)? { Ok(()) } else { Err(Error::NotKept { path: dir.to_owned() }) }
}

/// Writes and fsyncs one new file. Nobody else can read it before its owner is set.
fn write_file(path: &Path, contents: &[u8], owner: Option<(Ownership, u32)>) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(because("create", path))?;
    file.write_all(contents).map_err(because("write", path))?;
    if let Some((ownership, mode)) = owner {
        change_owner(&file, path, ownership)?;
        file.set_permissions(fs::Permissions::from_mode(mode))
            .map_err(because("set the mode of", path))?;
    }
    file.sync_all().map_err(because("fsync", path))
}

fn change_owner(file: &File, path: &Path, ownership: Ownership) -> Result<(), Error> {
    let metadata = file.metadata().map_err(because("look at", path))?;
    let differs = |wanted: u32, is: u32| (wanted != is).then_some(wanted);
    let uid = differs(ownership.uid, metadata.uid());
    let gid = differs(ownership.gid, metadata.gid());
    if uid.is_some() || gid.is_some() {
        fchown(file, uid, gid).map_err(because("set owner and group of", path))?;
    }
    Ok(())
}

//! Moving the stable path, and removing builds that are not needed any more.

use std::{fs, os::unix::fs::symlink, path::Path};

use chancery_shared::{durable, failpoint::crash_point, name::CertName};

use super::{BUILDS, BuildName, Error, Layout, TEMPORARY, because, make_public_dir, remove};

impl Layout {
    /// Points the stable path to a build, in one step: a reader finds the former build or
    /// this one. On failure the former stands.
    pub(crate) fn switch(&self, certificate: &CertName, build: BuildName) -> Result<(), Error> {
        // Refuses what is not ours.
        self.link(certificate)?;
        let parent = self.builds_dir(certificate);
        make_public_dir(&parent)?;
        let temporary = parent.join(format!("{TEMPORARY}link"));
        remove(&temporary)?;
        // Relative, so that it also holds where the folder is mounted elsewhere.
        let target = Path::new(BUILDS).join(certificate.as_str()).join(build.to_string());
        symlink(&target, &temporary).map_err(because("create the link", &temporary))?;
        crash_point("install::before_switch");
        let path = self.stable_path(certificate);
        fs::rename(&temporary, &path).map_err(because("replace the link", &path))?;
        crash_point("install::switched");
        Ok(durable::sync_dir(&self.dir)?)
    }

    /// Removes the stable path: the rollback of a first install.
    pub(crate) fn unlink(&self, certificate: &CertName) -> Result<(), Error> {
        if self.link(certificate)?.is_some() {
            remove(&self.stable_path(certificate))?;
            durable::sync_dir(&self.dir)?;
        }
        Ok(())
    }

    /// Removes a build. It vanishes in one step too: half a build is never seen.
    pub(crate) fn remove_build(
        &self,
        certificate: &CertName,
        build: BuildName,
    ) -> Result<(), Error> {
        let path = self.build_dir(certificate, build);
        let temporary = self.builds_dir(certificate).join(format!("{TEMPORARY}removed-{build}"));
        remove(&temporary)?;
        fs::rename(&path, &temporary).map_err(because("remove", &path))?;
        remove(&temporary)
    }
}

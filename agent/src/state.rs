//! What the agent has done so far, on disk: one JSON file, replaced whole.
//!
//! It is what lets a restarted agent tell "switched and reloaded" from "switched, then
//! killed": a service's *active* build is recorded only after its reload and probe, so a
//! build on the stable path that is not active is activated again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use chancery_shared::{
    durable,
    failpoint::crash_point,
    name::{CertName, ServiceName},
    number::Generation,
    x509::Fingerprint,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::install::BuildName;

/// Everything that outlives the process besides bundles and files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    pub(crate) certificates: BTreeMap<CertName, CertRecord>,
    pub(crate) services: BTreeMap<ServiceName, ServiceRecord>,
}

/// How far one certificate has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CertRecord {
    /// Highest generation received: the floor that no later one may be below.
    pub(crate) delivered: Generation,
    /// Content of that generation.
    pub(crate) content: Option<Fingerprint>,
    /// Generation on the stable path, 0 for none.
    pub(crate) installed: Generation,
    /// What each service was last seen with.
    pub(crate) active: BTreeMap<ServiceName, Active>,
    /// The last build that all services were seen with: where a rollback goes.
    pub(crate) good: Option<BuildName>,
    pub(crate) phase: Phase,
    pub(crate) message: String,
    pub(crate) changed_at: Timestamp,
    /// Failures of this generation in a row.
    pub(crate) failures: u32,
}

/// A build that a service uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Active {
    pub(crate) generation: Generation,
    pub(crate) build: Fingerprint,
}

/// The state of a deployment, as in `DeploymentState` of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    Delivered,
    Installed,
    InstallFailed,
    TestFailed,
    ReloadFailed,
    ProbeFailed,
    Withdrawn,
}

/// How the last run of one service went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    pub(crate) healthy: bool,
    pub(crate) message: String,
    pub(crate) changed_at: Timestamp,
    pub(crate) reloads: u64,
    /// Runs that failed in a row.
    pub(crate) failures: u32,
    /// The last test failed: the next attempt tests the files as they are first.
    pub(crate) test_failed: bool,
}

impl CertRecord {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            delivered: Generation(0),
            content: None,
            installed: Generation(0),
            active: BTreeMap::new(),
            good: None,
            phase: Phase::Delivered,
            message: String::new(),
            changed_at: now,
            failures: 0,
        }
    }

    /// Moves to a phase. The time changes only when something else does.
    pub(crate) fn set(&mut self, phase: Phase, message: String, now: Timestamp) {
        if self.phase != phase || self.message != message {
            self.phase = phase;
            self.message = message;
            self.changed_at = now;
        }
    }
}

impl ServiceRecord {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            healthy: true,
            message: String::new(),
            changed_at: now,
            reloads: 0,
            failures: 0,
            test_failed: false,
        }
    }
}

/// The file.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// As it stands on disk.
    saved: State,
}

impl StateFile {
    /// Reads the file. One that cannot be understood is put aside: services are then
    /// activated once more, which is safe.
    pub(crate) fn open(dir: &Path) -> Result<(Self, State), durable::Error> {
        let path = dir.join("state.json");
        let state = match durable::read_file(&path)?.map(|text| parse(&text)) {
            None => State { version: VERSION, ..State::default() },
            Some(Ok(state)) => state,
            Some(Err(error)) => {
                let aside = path.with_extension("json.damaged");
                tracing::warn!(
                    "{} cannot be understood ({error}): it is put aside as {}, and each service \
                     will be activated once more",
                    path.display(),
                    aside.display()
                );
                // If this fails, the next save replaces the file all the same.
                let _ = std::fs::rename(&path, aside);
                State { version: VERSION, ..State::default() }
            }
        };
        Ok((Self { path, saved: state.clone() }, state))
    }

    /// Writes `state` if it differs from what is on disk. Returns whether it did.
    pub(crate) fn save(&mut self, state: &State) -> Result<bool, durable::Error> {
        if self.saved == *state {
            return Ok(false);
        }
        crash_point("state::before_save");
        let text = serde_json::to_vec_pretty(state).expect("plain data");
        durable::write_file(&self.path, &text, 0o600)?;
        crash_point("state::saved");
        self.saved = state.clone();
        Ok(true)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn parse(text: &[u8]) -> Result<State, String> {
    let state: State = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if state.version == VERSION {
        Ok(state)
    } else {
        Err(format!("its version is {}, known is {VERSION}", state.version))
    }
}

const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> State {
        let (_, mut state) = StateFile::open(Path::new("/nonexistent")).unwrap();
        let mut record = CertRecord::new("2026-11-22T04:05:06Z".parse().unwrap());
        record.delivered = Generation(7);
        record.content = Some(Fingerprint::from_bytes([7; 32]));
        let active = Active { generation: Generation(6), build: Fingerprint::from_bytes([6; 32]) };
        record.active.insert("nginx".parse().unwrap(), active);
        record.good = Some("6.1".parse().unwrap());
        record.phase = Phase::TestFailed;
        state.services.insert("nginx".parse().unwrap(), ServiceRecord::new(record.changed_at));
        state.certificates.insert("web".parse().unwrap(), record);
        state
    }

    #[test]
    fn the_encoding_of_version_1_stays_readable() {
        insta::assert_json_snapshot!(sample(), @r#"
    {
      "version": 1,
      "certificates": {
        "web": {
          "delivered": 7,
          "content": "0707070707070707070707070707070707070707070707070707070707070707",
          "installed": 0,
          "active": {
            "nginx": {
              "generation": 6,
              "build": "0606060606060606060606060606060606060606060606060606060606060606"
            }
          },
          "good": "6.1",
          "phase": "test-failed",
          "message": "",
          "changed_at": "2026-11-22T04:05:06Z",
          "failures": 0
        }
      },
      "services": {
        "nginx": {
          "healthy": true,
          "message": "",
          "changed_at": "2026-11-22T04:05:06Z",
          "reloads": 0,
          "failures": 0,
          "test_failed": false
        }
      }
    }
    "#);
    }

    #[test]
    fn it_is_written_only_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, empty) = StateFile::open(dir.path()).unwrap();
        assert!(!file.save(&empty).unwrap());
        assert!(!file.path().exists());
        assert!(file.save(&sample()).unwrap());
        assert!(!file.save(&sample()).unwrap());
        let (_, read) = StateFile::open(dir.path()).unwrap();
        assert_eq!(read, sample());
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        for damaged in ["{\"version\":", "{\"version\":9,\"certificates\":{},\"services\":{}}"] {
            std::fs::write(dir.path().join("state.json"), damaged).unwrap();
            let (_, state) = StateFile::open(dir.path()).unwrap();
            assert!(state.certificates.is_empty());
            let aside = std::fs::read_to_string(dir.path().join("state.json.damaged")).unwrap();
            assert_eq!(aside, damaged);
        }
    }

    #[test]
    fn the_time_of_a_phase_is_when_it_began() {
        let start: Timestamp = "2026-11-22T04:05:06Z".parse().unwrap();
        let later: Timestamp = "2026-11-22T05:05:06Z".parse().unwrap();
        let mut record = CertRecord::new(start);
        record.set(Phase::TestFailed, "broken".to_owned(), start);
        record.set(Phase::TestFailed, "broken".to_owned(), later);
        assert_eq!(record.changed_at, start);
        record.set(Phase::Installed, String::new(), later);
        assert_eq!(record.changed_at, later);
    }
}

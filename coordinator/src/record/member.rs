//! A coordinator that is there.

use std::fmt;

use chancery_shared::name::NodeName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Record;

/// A coordinator that is there. It lives as long as the lease that it is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub node: NodeName,
    /// This very process: another one of the same name has another.
    pub instance: Instance,
    /// Its version of Chancery.
    pub version: String,
    /// Where agents and the other coordinators reach it: `host:port`.
    pub address: String,
    /// Where its metrics and health are served: `host:port`.
    pub http: String,
    /// When it started.
    pub started_at: Timestamp,
}

impl Record for Member {
    const KIND: &'static str = "member";
}

impl Member {
    /// Whether of two that have one name `self` has to give way to `other`: the younger one does.
    /// Both sides come to the same answer, whatever their clocks say.
    pub fn gives_way_to(&self, other: &Self) -> bool {
        (self.started_at, self.instance) > (other.started_at, other.instance)
    }
}

/// Stands for one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instance(Uuid);

impl Instance {
    /// One that nobody else has.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

//! When certificates may be renewed.

use chancery_shared::{
    maintenance::Window,
    name::{FreezeName, Labels},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Record;

/// When a certificate may be renewed, as an operator declared it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewTimes {
    /// Only in these; empty: at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// IANA name of the zone whose clocks count for the windows.
    pub time_zone: String,
    /// Over how long renewals are spread that could all begin at the same instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_secs: Option<u32>,
}

/// A time in which nothing is renewed that can wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Its name.
    pub name: FreezeName,
    /// When it begins.
    pub from: Timestamp,
    /// When it is over.
    pub to: Timestamp,
    /// Why, for operators.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// It is for certificates that have all of these labels; empty: for all.
    #[serde(default)]
    pub labels: Labels,
}

impl Freeze {
    /// Whether it is for certificates with these labels.
    pub fn is_for(&self, labels: &Labels) -> bool {
        self.labels.is_empty() || labels.satisfy(&self.labels)
    }

    /// Whether it holds at `time`.
    pub fn holds(&self, time: Timestamp) -> bool {
        self.from <= time && time < self.to
    }
}

impl Record for Freeze {
    const KIND: &'static str = "freeze";
}

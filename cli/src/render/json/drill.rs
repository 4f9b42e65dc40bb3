//! `drill revocation`.

use std::{collections::BTreeMap, time::Duration};

use chancery_proto::v1;
use chancery_shared::wire::from_timestamp;
use jiff::Timestamp;
use serde::Serialize;

use super::some;
use crate::render::drill::Progress;

/// What would happen.
#[derive(Debug, Serialize)]
pub(crate) struct DrillPlan {
    certificates: Vec<Part>,
}

#[derive(Debug, Serialize)]
struct Part {
    name: String,
    generation: u64,
    agents: u32,
    /// `null`: now.
    possible_at: Option<Timestamp>,
    because: Option<String>,
    skipped: Option<String>,
}

impl From<&[v1::DrilledCertificate]> for DrillPlan {
    fn from(parts: &[v1::DrilledCertificate]) -> Self {
        let parts = parts.iter().map(|part| Part {
            name: part.name.clone(),
            generation: part.generation,
            agents: part.agents,
            possible_at: from_timestamp(part.possible_at.as_ref()),
            because: some(&part.because),
            skipped: some(&part.skipped),
        });
        Self { certificates: parts.collect() }
    }
}

/// How it went.
#[derive(Debug, Serialize)]
pub(crate) struct DrillReport {
    elapsed_seconds: f64,
    certificates: Vec<Drilled>,
}

#[derive(Debug, Serialize)]
struct Drilled {
    name: String,
    replaced_generation: u64,
    generation: Option<u64>,
    issued_seconds: Option<f64>,
    /// Until every agent served it.
    served_seconds: Option<f64>,
    error: Option<String>,
}

impl DrillReport {
    pub(crate) fn of(parts: &BTreeMap<String, Progress>, elapsed: Duration) -> Self {
        let certificates = parts.values().map(|progress| Drilled {
            name: progress.part.name.clone(),
            replaced_generation: progress.part.generation,
            generation: progress.issued.map(|(generation, _)| generation),
            issued_seconds: progress.issued.map(|(_, after)| after.as_secs_f64()),
            served_seconds: progress.served.map(|after| after.as_secs_f64()),
            error: some(&progress.error).filter(|_| progress.served.is_none()),
        });
        Self { elapsed_seconds: elapsed.as_secs_f64(), certificates: certificates.collect() }
    }
}

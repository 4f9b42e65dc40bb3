//! What programs read: a stable schema, documented in `docs/cli.md`.
//!
//! Fields are only ever added. Times are RFC 3339 in UTC, durations seconds, states
//! lower-case words; what is absent is `null`.

#![expect(clippy::struct_field_names, reason = "the names are the schema")]

mod agent;
mod budget;
mod cert;
mod dns_record;
mod drill;
mod issuer;
mod lease;
mod status;

use chancery_proto::v1;
use chancery_shared::wire::from_timestamp;
use jiff::Timestamp;
use serde::Serialize;

pub(crate) use self::{
    agent::{AgentDetail, Agents, Removal, Token},
    budget::Budgets,
    cert::{CertificateDetail, Certificates, Progress, Renewal, RevocationOf, Switch},
    dns_record::DnsRecords,
    drill::{DrillPlan, DrillReport},
    issuer::{Issuer, IssuerCheck, Issuers},
    lease::{Lease, Transfer},
    status::Status,
};

/// `apply`.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    plan_id: String,
    applied: bool,
    changes: Vec<Change>,
    unchanged: u32,
    kept: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Change {
    action: &'static str,
    kind: String,
    name: String,
    details: Vec<String>,
    causes_order: bool,
    possible_at: Option<Timestamp>,
    because: Option<String>,
}

impl Plan {
    pub(crate) fn new(plan: &v1::ApplyResponse, warnings: Vec<String>) -> Self {
        Self {
            plan_id: plan.plan_id.clone(),
            applied: plan.applied,
            changes: plan.changes.iter().map(Change::from).collect(),
            unchanged: plan.unchanged,
            kept: plan.kept.clone(),
            warnings,
        }
    }
}

impl From<&v1::Change> for Change {
    fn from(change: &v1::Change) -> Self {
        Self {
            action: match change.action() {
                v1::change::Action::Create => "create",
                v1::change::Action::Update => "update",
                v1::change::Action::Delete => "delete",
                v1::change::Action::Unspecified => "unknown",
            },
            kind: change.kind.clone(),
            name: change.name.clone(),
            details: change.details.clone(),
            causes_order: change.causes_order,
            possible_at: from_timestamp(change.possible_at.as_ref()),
            because: some(&change.because),
        }
    }
}

/// `event list`.
#[derive(Debug, Serialize)]
pub(crate) struct Events {
    events: Vec<Event>,
}

impl From<&[v1::Event]> for Events {
    fn from(events: &[v1::Event]) -> Self {
        Self { events: events.iter().map(Event::from).collect() }
    }
}

#[derive(Debug, Serialize)]
struct Event {
    sequence: u64,
    at: Option<Timestamp>,
    kind: String,
    subject: Option<String>,
    message: String,
    node: Option<String>,
    epoch: u64,
}

impl From<&v1::Event> for Event {
    fn from(event: &v1::Event) -> Self {
        Self {
            sequence: event.sequence,
            at: from_timestamp(event.at.as_ref()),
            kind: event.kind.clone(),
            subject: some(&event.subject),
            message: event.message.clone(),
            node: some(&event.node),
            epoch: event.epoch,
        }
    }
}

/// `seal show`.
#[derive(Debug, Serialize)]
pub(crate) struct Seal {
    active_key: u32,
    key_file_fingerprint: String,
    keys: Vec<DataKey>,
}

#[derive(Debug, Serialize)]
struct DataKey {
    id: u32,
    created_at: Option<Timestamp>,
    records: u32,
}

impl From<&v1::SealDetail> for Seal {
    fn from(seal: &v1::SealDetail) -> Self {
        let keys = seal.keys.iter().map(|key| DataKey {
            id: key.id,
            created_at: from_timestamp(key.created_at.as_ref()),
            records: key.records,
        });
        Self {
            active_key: seal.active_key,
            key_file_fingerprint: seal.key_file_fingerprint.clone(),
            keys: keys.collect(),
        }
    }
}

/// `seal rotate`.
#[derive(Debug, Serialize)]
pub(crate) struct Rotation {
    pub(crate) active_key: u32,
}

/// Protobuf's empty text is no text.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

//! Certificates as operators see them.

use std::sync::Arc;

use chancery_proto::v1::{
    AcmeProblem, AcmeSubproblem, CertificateDetail, CertificateSpec as WireSpec,
    CertificateSummary, DeploymentDetail, OrderDetail, RenewTimes as WireRenewTimes,
    Revocation as WireRevocation, StandbyDetail,
};
use chancery_shared::{
    challenge_type::ChallengeType,
    name::{CertName, IssuerName},
    number::Generation,
    wire::to_timestamp,
    x509::{public_key_of, to_pem},
};
use jiff::Timestamp;

use super::{Index, Status, agents::deployment_report};
use crate::{
    mirror::View,
    plan::{self, Decision, Facts, budget},
    record::{
        CertificateSpec, CertificateState, Freeze, LastProblem, Order, RenewTimes, RenewalInfo,
        Revocation,
    },
};

impl Status {
    /// All certificates, by name.
    pub fn certificates(&self) -> Vec<CertificateSummary> {
        let now = self.clock.now();
        let view = self.mirror.read();
        let index = Index::of(&view);
        view.certificates.keys().filter_map(|name| summary(&view, &index, name, now)).collect()
    }

    /// One certificate; `None` if there is none of that name.
    pub fn certificate(&self, name: &CertName) -> Option<CertificateDetail> {
        let now = self.clock.now();
        let view = self.mirror.read();
        let index = Index::of(&view);
        let summary = summary(&view, &index, name, now)?;
        let known = Known::of(&view, name)?;
        let decision = known.decide(now);
        let issued = known.state.and_then(|state| state.issued.as_ref());
        Some(CertificateDetail {
            summary: Some(summary),
            spec: Some(wire_spec(known.spec)),
            serial: issued.map(|issued| issued.serial.clone()).unwrap_or_default(),
            fingerprint: issued.map(|issued| issued.fingerprint.to_string()).unwrap_or_default(),
            issued_by: issued.map(|issued| issued.issued_by.clone()).unwrap_or_default(),
            decision: decision.message,
            decision_code: decision.code.to_owned(),
            order: view.orders.get(name).map(|order| order_detail(&order.record)),
            standby: view.decide(name, |facts| standby(facts, now)).flatten(),
            deployments: self.deployments(&view, name),
            chain_pem: chain_pem(&view, name),
            public_key_sha256: public_key(&view, name),
            next_public_key_sha256: view
                .next_keys
                .get(name)
                .map(|next| next.record.public_key.to_string())
                .unwrap_or_default(),
            revocations: revocations(&view, name),
            last_problem: known.state.and_then(|state| state.last_problem.as_ref()).map(problem),
            renew_requests: known
                .state
                .map_or(0, |state| u64::from(state.renewal_requested_at.is_some())),
            failures: known.state.map_or(0, |state| state.failures),
            next_attempt: known
                .state
                .and_then(|state| state.last_failure.as_ref())
                .map(|failure| to_timestamp(failure.retry_at)),
        })
    }

    fn deployments(&self, view: &View, name: &CertName) -> Vec<DeploymentDetail> {
        let on_agent = view.deployments.iter().filter_map(|(agent, table)| {
            let deployment = table.get(name)?;
            Some(DeploymentDetail {
                agent: agent.to_string(),
                report: Some(deployment_report(&deployment.record)),
                agent_connected: self.presence.is_connected(agent),
            })
        });
        on_agent.collect()
    }
}

/// What the view has of one certificate.
pub(super) struct Known<'a> {
    pub(super) spec: &'a CertificateSpec,
    pub(super) state: Option<&'a CertificateState>,
    pub(super) order: Option<&'a Order>,
    renewal_info: Option<&'a RenewalInfo>,
    freezes: Vec<Arc<Freeze>>,
    view: &'a View,
}

impl<'a> Known<'a> {
    pub(super) fn of(view: &'a View, name: &CertName) -> Option<Self> {
        let spec = &view.certificates.get(name)?.record;
        Some(Self {
            spec,
            freezes: view.freezes_of(spec),
            state: view.states.get(name).map(|state| &*state.record),
            // One for its standby is not its own.
            order: view.orders.get(name).map(|order| &*order.record).filter(|it| !it.standby),
            renewal_info: view.renewal_infos.get(name).map(|info| &*info.record),
            view,
        })
    }

    pub(super) fn decide(&self, now: Timestamp) -> Decision {
        let mut decision = plan::decide(&self.facts(), now);
        if let Some((until, because)) = self.held_back(&decision, now) {
            decision.due = until;
            let until = Timestamp::from_second(until.as_second()).unwrap_or(until);
            decision.message = format!("{}; not before {until}: {because}", decision.message);
        }
        decision
    }

    /// Whether what is due waits for the limits of this issuer.
    pub(super) fn is_held_back_by(&self, issuer: &IssuerName, now: Timestamp) -> bool {
        plan::issuer_for(self.spec, self.state) == Some(issuer)
            && self.held_back(&plan::decide(&self.facts(), now), now).is_some()
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            spec: self.spec,
            state: self.state,
            order: self.order,
            renewal_info: self.renewal_info,
            freezes: &self.freezes,
            standby: None,
        }
    }

    /// Until when, at least, the CA's limits hold back what is due, and why.
    fn held_back(
        &self,
        decision: &Decision,
        now: Timestamp,
    ) -> Option<(Timestamp, budget::Reason)> {
        if self.order.is_some() || !decision.is_due(now) {
            return None;
        }
        let issuer = &self.view.issuers.get(plan::issuer_for(self.spec, self.state)?)?.record;
        let spent = &self.view.budgets.get(&issuer.name)?.record;
        if spent.directory != issuer.directory {
            // Of the CA that it was before.
            return None;
        }
        let limits = budget::Limits::of(&issuer.limits, &issuer.directory).ok()?;
        let urgent = plan::is_urgent(self.state, self.renewal_info, now);
        let present = self.state.and_then(|state| state.issued.as_ref());
        let about = present.and_then(|present| plan::ari::about(present, self.renewal_info));
        let replaces = present.is_some_and(|present| present.issuer == issuer.name)
            && about.is_some_and(|about| !about.id.is_empty());
        let identifiers = &self.spec.identifiers;
        let ask = plan::ask_for(identifiers, self.state, &issuer.name, replaces, urgent);
        let spent = budget::under(spent, &issuer.limits, now);
        match budget::check(&limits, &spent, &ask, now) {
            budget::Verdict::Possible => None,
            budget::Verdict::NotBefore { at, because } => Some((at, because)),
        }
    }

    pub(super) fn not_after(&self) -> Option<Timestamp> {
        Some(self.state?.issued.as_ref()?.not_after)
    }

    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.not_after().is_some_and(|end| end <= now)
    }

    /// Whether it is near its end, and what should renew it fails or is held back.
    pub(super) fn is_at_risk(&self, now: Timestamp) -> bool {
        let issued = self.state.and_then(|state| state.issued.as_ref());
        issued.is_some_and(|issued| plan::urgent_at(issued) <= now)
            && (self.failure().is_some()
                || self.held_back(&plan::decide(&self.facts(), now), now).is_some())
    }

    /// Why the last order failed, while that has not been made good.
    pub(super) fn failure(&self) -> Option<&'a str> {
        let state = self.state.filter(|state| state.failures > 0)?;
        Some(
            state.last_failure.as_ref().map_or("the last order failed", |failure| &failure.message),
        )
    }

    /// One word for its state, the most pressing that holds.
    fn word(&self, decision: &Decision, now: Timestamp) -> &'static str {
        let issued = self.not_after().is_some();
        if self.is_expired(now) {
            "expired"
        } else if self.order.is_some() {
            "issuing"
        } else if self.failure().is_some() {
            "failing"
        } else if !issued {
            "pending"
        } else if decision.is_due(now) {
            "due"
        } else {
            "valid"
        }
    }
}

pub(super) fn summary(
    view: &View,
    index: &Index<'_>,
    name: &CertName,
    now: Timestamp,
) -> Option<CertificateSummary> {
    let known = Known::of(view, name)?;
    let decision = known.decide(now);
    let issued = known.state.and_then(|state| state.issued.as_ref());
    let asked = issued.map(|issued| &issued.issuer).or(known.spec.issuers.first());
    let entitled =
        view.certificates.get(name).map_or(0, |spec| index.entitled(&spec.record).count());
    Some(CertificateSummary {
        name: name.to_string(),
        identifiers: known.spec.identifiers.iter().map(ToString::to_string).collect(),
        state: known.word(&decision, now).to_owned(),
        generation: known.state.map_or(0, |state| state.generation.0),
        not_before: issued.map(|issued| to_timestamp(issued.not_before)),
        not_after: issued.map(|issued| to_timestamp(issued.not_after)),
        renew_at: (issued.is_some() && known.order.is_none()).then(|| to_timestamp(decision.due)),
        issuer: asked.map(ToString::to_string).unwrap_or_default(),
        agents_entitled: super::count(entitled),
        agents_installed: index.installed(name.as_str()),
        last_error: known.failure().unwrap_or_default().to_owned(),
    })
}

/// A specification as it goes over the wire.
pub(crate) fn wire_spec(spec: &CertificateSpec) -> WireSpec {
    WireSpec {
        name: spec.name.to_string(),
        identifiers: spec.identifiers.iter().map(ToString::to_string).collect(),
        key_type: spec.key_type.to_string(),
        reuse_key: spec.reuse_key,
        key_ahead: spec.key_ahead,
        profile: spec.profile.clone().unwrap_or_default(),
        issuers: spec.issuers.iter().map(ToString::to_string).collect(),
        standby: spec.standby.as_ref().map(ToString::to_string).unwrap_or_default(),
        challenges: ChallengeType::preferred(&spec.challenges)
            .iter()
            .map(ToString::to_string)
            .collect(),
        labels: spec.labels.to_map(),
        renew: spec.renew.as_ref().map(wire_renew),
    }
}

fn problem(told: &LastProblem) -> AcmeProblem {
    let problem = &told.problem;
    let subproblems = problem.subproblems.iter().map(|one| AcmeSubproblem {
        identifier: one.identifier.clone(),
        r#type: one.kind.clone(),
        detail: one.detail.clone(),
    });
    AcmeProblem {
        at: Some(to_timestamp(told.at)),
        r#type: problem.kind.clone(),
        detail: problem.detail.clone(),
        status: problem.status.map_or(0, u32::from),
        subproblems: subproblems.collect(),
        left_out: problem.left_out,
    }
}

fn wire_renew(renew: &RenewTimes) -> WireRenewTimes {
    WireRenewTimes {
        windows: renew.windows.iter().map(ToString::to_string).collect(),
        time_zone: renew.time_zone.clone(),
        jitter: renew
            .jitter_secs
            .map(|secs| prost_types::Duration { seconds: i64::from(secs), nanos: 0 }),
    }
}

fn order_detail(order: &Order) -> OrderDetail {
    OrderDetail {
        id: order.id.to_string(),
        issuer: order.issuer.to_string(),
        stage: order.stage.name().to_owned(),
        order_url: order.stage.url().unwrap_or_default().to_owned(),
        reason: order.reason.clone(),
        started_at: Some(to_timestamp(order.started_at)),
        deadline: Some(to_timestamp(order.deadline)),
        generation: order.generation.0,
        standby: order.standby,
    }
}

/// What is kept ready beside it, if one is declared.
fn standby(facts: &Facts<'_>, now: Timestamp) -> Option<StandbyDetail> {
    let declared = facts.spec.standby.as_ref()?;
    let state = facts.standby.map(|standby| &standby.state);
    let present = state.and_then(|state| state.issued.as_ref());
    let issuer = present.map(|present| &present.issuer);
    let issuer = issuer.or(plan::standby::issuer_for(facts.spec, facts.state)).unwrap_or(declared);
    let bundle = facts.standby.and_then(|standby| standby.bundle.as_ref());
    let key = bundle.and_then(|bundle| public_key_of(&bundle.leaf).ok());
    let ready = plan::standby::ready(facts.spec, facts.standby, now);
    let decision = plan::standby::order(facts, now);
    let failures = state.map_or(0, |state| state.failures);
    let failure = state.and_then(|state| state.last_failure.as_ref()).filter(|_| failures > 0);
    Some(StandbyDetail {
        issuer: issuer.to_string(),
        generation: present.and(state).map_or(0, |state| state.generation.0),
        serial: present.map(|present| present.serial.clone()).unwrap_or_default(),
        fingerprint: present.map(|present| present.fingerprint.to_string()).unwrap_or_default(),
        issued_by: present.map(|present| present.issued_by.clone()).unwrap_or_default(),
        public_key_sha256: key.map(|hash| hash.to_string()).unwrap_or_default(),
        not_after: present.map(|present| to_timestamp(present.not_after)),
        ready: ready.is_ok(),
        message: ready.err().unwrap_or_default(),
        renew_at: decision.as_ref().map(|decision| to_timestamp(decision.due)),
        decision: decision.map(|decision| decision.message).unwrap_or_default(),
        failures,
        last_error: failure.map(|failure| failure.message.clone()).unwrap_or_default(),
    })
}

fn revocations(view: &View, name: &CertName) -> Vec<WireRevocation> {
    let all = (name.clone(), Generation(0))..=(name.clone(), Generation(u64::MAX));
    view.revocations.range(all).rev().map(|(_, found)| revocation(view, &found.record)).collect()
}

/// A revocation as it goes over the wire.
pub(crate) fn revocation(view: &View, revocation: &Revocation) -> WireRevocation {
    let ended = revocation.ended.as_ref();
    let refused = ended.and_then(|ended| ended.refused.clone());
    let state = match (ended, &refused) {
        (None, _) => "pending",
        (Some(_), None) => "revoked",
        (Some(_), Some(_)) => "refused",
    };
    let name = &revocation.certificate;
    let newest = view.states.get(name).map(|state| state.record.generation);
    WireRevocation {
        generation: revocation.generation.0,
        serial: revocation.serial.clone(),
        issuer: revocation.issuer.to_string(),
        reason: revocation.reason.to_string(),
        state: state.to_owned(),
        message: refused.unwrap_or_default(),
        requested_at: Some(to_timestamp(revocation.requested_at)),
        requested_by: revocation.requested_by.clone(),
        ended_at: ended.map(|ended| to_timestamp(ended.at)),
        replaced: view.certificates.contains_key(name)
            && newest.is_some_and(|newest| newest == revocation.generation),
    }
}

fn public_key(view: &View, name: &CertName) -> String {
    let bundle = view.bundles.get(name);
    let hash = bundle.and_then(|bundle| public_key_of(&bundle.record.leaf).ok());
    hash.map(|hash| hash.to_string()).unwrap_or_default()
}

fn chain_pem(view: &View, name: &CertName) -> String {
    let Some(bundle) = view.bundles.get(name).map(|bundle| &bundle.record) else {
        return String::new();
    };
    let issuers = bundle.chain.iter().filter_map(|fingerprint| view.chains.get(fingerprint));
    to_pem(std::iter::once(bundle.leaf.as_slice()).chain(issuers.map(AsRef::as_ref)))
}

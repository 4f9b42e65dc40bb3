//! What a drill of a revocation would do: which certificates take part, and what the CAs' limits say to
//! replacing them all now.

use std::collections::BTreeMap;

use chancery_proto::v1::DrilledCertificate;
use chancery_shared::{
    name::{CertName, IssuerName},
    number::Revision,
    wire::to_timestamp,
};
use jiff::{SignedDuration, Timestamp};

use super::{Index, Status, certificates::Known};
use crate::{
    mirror::View,
    order,
    plan::{
        self,
        budget::{self, Limits, Verdict},
    },
    record::{Budget, RenewalInfo},
};

/// One certificate in a drill.
pub(crate) struct Part {
    /// As it is told.
    pub(crate) told: DrilledCertificate,
    /// The window that makes it due; `None` for one that takes no part.
    pub(crate) window: Option<Window>,
}

/// A window that has elapsed, as CAs announce a revocation.
pub(crate) struct Window {
    /// What takes the place of what the CA said last.
    pub(crate) info: RenewalInfo,
    /// What the certificate's specification has to be still.
    pub(crate) spec: Revision,
    /// What is to be replaced.
    pub(crate) former: Option<Revision>,
}

impl Status {
    /// The parts of these certificates, in order of their names. `Err` names one that there is not.
    pub(crate) fn drill<'a>(
        &self,
        names: impl IntoIterator<Item = &'a CertName>,
        because: &str,
    ) -> Result<Vec<Part>, CertName> {
        let now = self.clock.now();
        let view = self.mirror.read();
        let index = Index::of(&view);
        let mut budgets = BTreeMap::new();
        let part = |name: &CertName| {
            let known = Known::of(&view, name).ok_or_else(|| name.clone())?;
            let told = DrilledCertificate {
                name: name.to_string(),
                generation: known.state.map_or(0, |state| state.generation.0),
                agents: super::count(index.entitled(known.spec).count()),
                ..DrilledCertificate::default()
            };
            Ok(match window(&view, name, &known, because, now) {
                Err(skipped) => {
                    let told = DrilledCertificate { skipped: skipped.to_owned(), ..told };
                    Part { told, window: None }
                }
                Ok(window) => {
                    let told = estimate(&view, &known, &window, &mut budgets, told, now);
                    Part { told, window: Some(window) }
                }
            })
        };
        names.into_iter().map(part).collect()
    }
}

/// The window that makes a certificate due, or why it takes no part.
fn window(
    view: &View,
    name: &CertName,
    known: &Known<'_>,
    because: &str,
    now: Timestamp,
) -> Result<Window, &'static str> {
    let issued = known.state.and_then(|state| state.issued.as_ref());
    let issued = issued.ok_or("it has not been issued yet")?;
    if known.order.is_some() {
        return Err("an order for it is under way");
    }
    let former = view.renewal_infos.get(name);
    let about = plan::ari::about(issued, former.map(|former| &*former.record));
    let id = if let Some(about) = about {
        about.id.clone()
    } else {
        let leaf = view.bundles.get(name).map(|bundle| &bundle.record.leaf);
        leaf.and_then(|leaf| order::identifier_of(leaf)).unwrap_or_default()
    };
    let info = RenewalInfo {
        certificate: name.clone(),
        serial: issued.serial.clone(),
        id,
        start: now - SignedDuration::from_secs(2),
        end: now - SignedDuration::from_secs(1),
        explanation_url: Some(because.to_owned()),
        ask_every_secs: about.map_or(ASK_EVERY_SECS, |about| about.ask_every_secs),
        moved: true,
        since: now,
    };
    let spec = view.certificates.get(name).map(|spec| spec.revision).unwrap_or_default();
    Ok(Window { info, spec, former: former.map(|former| former.revision) })
}

/// When the order for it is possible, behind all that come before it in the drill.
fn estimate(
    view: &View,
    known: &Known<'_>,
    window: &Window,
    budgets: &mut BTreeMap<IssuerName, (Limits, Budget)>,
    told: DrilledCertificate,
    now: Timestamp,
) -> DrilledCertificate {
    let Some(issuer) = plan::issuer_for(known.spec, known.state)
        .and_then(|issuer| view.issuers.get(issuer))
        .map(|issuer| &issuer.record)
    else {
        return told;
    };
    let (limits, budget) = budgets.entry(issuer.name.clone()).or_insert_with(|| {
        let stored = view.budgets.get(&issuer.name).map(|budget| (*budget.record).clone());
        let stored = stored.filter(|budget| budget.directory == issuer.directory);
        let untouched = || budget::untouched(&issuer.name, &issuer.directory);
        (
            Limits::of(&issuer.limits, &issuer.directory).unwrap_or_default(),
            budget::under(&stored.unwrap_or_else(untouched), &issuer.limits, now).into_owned(),
        )
    });
    let same_issuer = known
        .state
        .and_then(|state| state.issued.as_ref())
        .is_some_and(|issued| issued.issuer == issuer.name);
    let replaces = same_issuer && !window.info.id.is_empty();
    let identifiers = &known.spec.identifiers;
    let ask = plan::ask_for(identifiers, known.state, &issuer.name, replaces, true);
    let verdict = budget::check(limits, budget, &ask, now);
    budget::spend(limits, budget, &ask, now);
    match verdict {
        Verdict::Possible => told,
        Verdict::NotBefore { at, because } => DrilledCertificate {
            possible_at: Some(to_timestamp(at)),
            because: because.to_string(),
            ..told
        },
    }
}

/// As CAs are known to ask for.
const ASK_EVERY_SECS: u32 = 6 * 3600;

//! A drill: certificates are replaced as if their CAs had announced to revoke them.
//!
//! CAs announce that by a renewal window that has elapsed (RFC 9773 section 4.2), so this is
//! what a drill writes, and all that follows is what would follow in earnest. The next time that
//! the CA is asked, its own window counts again.

use std::collections::BTreeSet;

use chancery_proto::v1::{DrillRevocationRequest, DrillRevocationResponse};
use chancery_shared::name::CertName;
use tonic::{Code, Status};

use super::{super::Api, name, not_found};
use crate::{
    election::Leadership,
    record::{self, EventKind, key},
    status::{Part, Window},
    store::Batch,
};

impl Api {
    /// Tells who takes part and, unless it is a dry run, begins. Certificates that had their turn
    /// before an error are on their way; doing it again does no harm.
    pub(super) async fn drill_revocation(
        &self,
        request: &DrillRevocationRequest,
        who: &str,
    ) -> Result<DrillRevocationResponse, Status> {
        let leadership = self.lead().await?;
        let names = if request.certificates.is_empty() {
            self.mirror.read().certificates.keys().cloned().collect()
        } else {
            let names = request.certificates.iter().map(|text| name::<CertName>(text));
            names.collect::<Result<BTreeSet<_>, _>>()?
        };
        let because = format!("a drill of {who}");
        let parts = self.status.drill(&names, &because);
        let parts = parts.map_err(|unknown| not_found("certificate", &unknown))?;
        if !request.dry_run {
            let count = parts.iter().filter(|part| part.window.is_some()).count();
            let message = format!("{who} begins a drill of a revocation with {count} certificates");
            self.events.record(EventKind::Drill, "", message);
            if request.ask_cas {
                let taking_part = names.into_iter().zip(&parts);
                let asked = taking_part.filter(|(_, part)| part.window.is_some());
                self.ask_now.about(asked.map(|(name, _)| name).collect());
            } else {
                self.announce(&leadership, &parts, &because).await?;
            }
        }
        let certificates = parts.into_iter().map(|part| part.told).collect();
        Ok(DrillRevocationResponse { certificates })
    }

    /// Writes the windows. What is overtaken, as by an answer of the CA, has another turn.
    async fn announce(
        &self,
        leadership: &Leadership,
        parts: &[Part],
        because: &str,
    ) -> Result<(), Status> {
        let mut overtaken = self.announce_once(leadership, parts).await?;
        for _ in 1..ATTEMPTS {
            if overtaken.is_empty() {
                return Ok(());
            }
            let newest = self.store.commit(Batch::unfenced()).await;
            self.shown(newest.map_err(|error| self.refused(&error))?).await;
            let parts = self.status.drill(&overtaken, because);
            let parts = parts.map_err(|unknown| not_found("certificate", &unknown))?;
            overtaken = self.announce_once(leadership, &parts).await?;
        }
        if overtaken.is_empty() {
            return Ok(());
        }
        Err(Status::aborted(format!(
            "{} certificates could not begin, since others write them all the time; the rest has \
             begun: run the drill again for those that are not being replaced",
            overtaken.len()
        )))
    }

    /// The names of those that somebody else has written meanwhile.
    async fn announce_once(
        &self,
        leadership: &Leadership,
        parts: &[Part],
    ) -> Result<BTreeSet<CertName>, Status> {
        let windows: Vec<&Window> = parts.iter().filter_map(|part| part.window.as_ref()).collect();
        let mut overtaken = BTreeSet::new();
        for some in windows.chunks(AT_ONCE) {
            let mut batch = leadership.batch();
            for Window { info, spec, former } in some {
                let at = key::renewal_info(&info.certificate);
                batch = batch
                    .unchanged(key::certificate(&info.certificate), Some(*spec))
                    .unchanged(&at, *former)
                    .put(&at, record::encode(info));
            }
            match self.commit(batch).await {
                Err(status) if status.code() == Code::Aborted => {
                    overtaken.extend(some.iter().map(|window| window.info.certificate.clone()));
                }
                ended => drop(ended?),
            }
        }
        Ok(overtaken)
    }
}

const ATTEMPTS: usize = 8;
/// Two keys each.
const AT_ONCE: usize = Batch::MOST_KEYS / 2 - 2;

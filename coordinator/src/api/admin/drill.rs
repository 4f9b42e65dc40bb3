//! A drill: certificates are replaced as if their CAs had announced to revoke them.
//!
//! CAs announce that by a renewal window that has elapsed (RFC 9773 section 4.2), so this is
//! what a drill writes, and all that follows is what would follow in earnest. The next time that
//! the CA is asked, its own window counts again.

use std::collections::BTreeSet;

use chancery_proto::v1::{DrillRevocationRequest, DrillRevocationResponse};
use chancery_shared::name::CertName;
use tonic::Status;

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
            if request.ask_cas {
                let taking_part = names.into_iter().zip(&parts);
                let asked = taking_part.filter(|(_, part)| part.window.is_some());
                self.ask_now.about(asked.map(|(name, _)| name).collect());
            } else {
                self.announce(&leadership, &parts).await?;
            }
            let count = parts.iter().filter(|part| part.window.is_some()).count();
            let message = format!("{who} began a drill of a revocation with {count} certificates");
            self.events.record(EventKind::Drill, "", message);
        }
        let certificates = parts.into_iter().map(|part| part.told).collect();
        Ok(DrillRevocationResponse { certificates })
    }

    async fn announce(&self, leadership: &Leadership, parts: &[Part]) -> Result<(), Status> {
        let windows: Vec<&Window> = parts.iter().filter_map(|part| part.window.as_ref()).collect();
        for some in windows.chunks(AT_ONCE) {
            let mut batch = leadership.batch();
            for Window { info, spec, former } in some {
                let at = key::renewal_info(&info.certificate);
                batch = batch
                    .unchanged(key::certificate(&info.certificate), Some(*spec))
                    .unchanged(&at, *former)
                    .put(&at, record::encode(info));
            }
            self.commit(batch).await?;
        }
        Ok(())
    }
}

/// Two keys each.
const AT_ONCE: usize = Batch::MOST_KEYS / 2 - 2;

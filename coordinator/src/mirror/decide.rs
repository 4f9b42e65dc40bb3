//! Decisions about certificates, by what the mirror shows.

use std::sync::Arc;

use chancery_shared::name::CertName;

use super::View;
use crate::{
    plan::Facts,
    record::{CertificateSpec, Freeze},
};

impl View {
    /// Decides about a certificate, if it is declared, with all that this depends on.
    pub fn decide<T>(
        &self,
        certificate: &CertName,
        decide: impl FnOnce(&Facts<'_>) -> T,
    ) -> Option<T> {
        let spec = &self.certificates.get(certificate)?.record;
        let facts = Facts {
            spec,
            state: self.states.get(certificate).map(|state| &*state.record),
            order: self.orders.get(certificate).map(|order| &*order.record),
            renewal_info: self.renewal_infos.get(certificate).map(|info| &*info.record),
            freezes: &self.freezes_of(spec),
            standby: self.standbys.get(certificate).map(|standby| &*standby.record),
        };
        Some(decide(&facts))
    }

    /// The freezes that are for a certificate.
    pub fn freezes_of(&self, certificate: &CertificateSpec) -> Vec<Arc<Freeze>> {
        let all = self.freezes.values().map(|freeze| &freeze.record);
        all.filter(|freeze| freeze.is_for(&certificate.labels)).cloned().collect()
    }
}

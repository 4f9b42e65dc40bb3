//! A look at records that operators keep, for dns-persist-01.

use jiff::Timestamp;

use super::{Dns01, Error, propagation::Awaited};
use crate::record::StandingRecord;

/// What the name servers have of a [`StandingRecord`]. It proves a name when nothing is in here: a CA may
/// ask any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What those that answer lack, one sentence for each.
    pub missing: Vec<String>,
    /// Why others do not answer.
    pub unanswered: Vec<String>,
}

impl Dns01 {
    /// Asks every authoritative name server for `record`, as it counts at `now`. Changes nothing. A
    /// provider that is responsible for the name is not needed; one that names other servers
    /// than the zone does is obeyed in that.
    pub async fn look(&self, record: &StandingRecord, now: Timestamp) -> Result<Look, Error> {
        let name = self.lookup.target(&record.name).await?;
        let declared = self.responsible(&name).map(|(provider, _)| provider.name_servers.clone());
        let place = match declared.filter(|servers| !servers.is_empty()) {
            Some(servers) => Awaited { zone: String::new(), servers },
            None => Awaited { zone: self.lookup.zone(&name).await?, servers: Vec::new() },
        };
        let mut look = Look::default();
        for (server, answer) in self.propagation.ask_all(&place, &name).await? {
            match answer.map(|values| record.check(&values, now)) {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => look.missing.push(format!("{server}: {reason}")),
                Err(reason) => look.unanswered.push(format!("{server}: {reason}")),
            }
        }
        look.missing.sort();
        look.unanswered.sort();
        Ok(look)
    }

    /// As [`Self::look`], and an error unless the record stands at all of them.
    pub async fn confirm(&self, record: &StandingRecord, now: Timestamp) -> Result<(), Error> {
        let Look { missing, unanswered } = self.look(record, now).await?;
        let name = record.name.clone();
        if !missing.is_empty() {
            let missing = missing.join("; ");
            return Err(Error::NotStanding { name, value: record.value(None), missing });
        }
        if !unanswered.is_empty() {
            return Err(Error::Lookup { name, reason: unanswered.join("; ") });
        }
        tracing::debug!(name, "the standing TXT record is on every name server");
        Ok(())
    }
}

//! The records that operators set for dns-persist-01: what they have to be, and whether they are there.

use std::collections::BTreeMap;

use chancery_proto::v1::{DnsRecord, ShowDnsRecordsRequest, ShowDnsRecordsResponse};
use chancery_shared::{
    challenge_type::ChallengeType,
    identifier::Identifier,
    name::{CertName, IssuerName},
    wire::from_timestamp,
};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tonic::Status;

use super::{super::Api, name, not_found};
use crate::{
    challenge::dns_persist01::Holder,
    order::{account, ca},
    record::{IssuerSpec, StandingRecord},
};

impl Api {
    /// The records that prove names to an issuer's CA, and with `check` whether they stand in the DNS.
    pub(super) async fn dns_records(
        &self,
        request: &ShowDnsRecordsRequest,
    ) -> Result<ShowDnsRecordsResponse, Status> {
        let issuer: IssuerName = name(&request.issuer)?;
        let until = self.until(request)?;
        let identifiers = self.identifiers(request, &issuer)?;
        let (spec, holder) = self.holder(&issuer)?;
        let meta =
            ca::look(&spec).await.map_err(|error| Status::unavailable(error.to_string()))?.meta;
        let issuers = if meta.issuer_domain_names.is_empty() {
            // Before version 02 of the draft these are the names for CAA records.
            &meta.caa_identities
        } else {
            &meta.issuer_domain_names
        };
        let mut records: BTreeMap<String, StandingRecord> = BTreeMap::new();
        for identifier in &identifiers {
            let prefix = meta.account_hash_prefix.as_deref();
            let record = StandingRecord::new(identifier, issuers, &holder, prefix);
            let record = record.ok_or_else(|| no_issuer_name(&issuer))?;
            // A name and its wildcard share one.
            let there = records.entry(record.name.clone()).or_insert_with(|| record.clone());
            there.wildcard |= record.wildcard || request.wildcard;
        }
        let now = self.clock.now();
        let work = records.into_values().map(|record| async move {
            let mut shown = DnsRecord {
                value: record.value(until),
                name: record.name.clone(),
                ..DnsRecord::default()
            };
            if request.check {
                shown.missing = self.missing(&record, now).await;
            }
            shown
        });
        let work: Vec<_> = work.collect();
        let records = stream::iter(work).buffered(LOOKS_AT_ONCE).collect().await;
        Ok(ShowDnsRecordsResponse { records, checked: request.check })
    }

    /// What keeps a record from proving its name now; nothing if it does.
    async fn missing(&self, record: &StandingRecord, now: Timestamp) -> Vec<String> {
        let Some(dns01) = &self.dns01 else {
            return vec!["this coordinator cannot ask the DNS".to_owned()];
        };
        match dns01.look(record, now).await {
            Ok(look) => look.missing.into_iter().chain(look.unanswered).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    fn until(&self, request: &ShowDnsRecordsRequest) -> Result<Option<Timestamp>, Status> {
        let until = from_timestamp(request.persist_until.as_ref());
        if until.is_some_and(|until| until <= self.clock.now()) {
            return Err(Status::invalid_argument("the record would have ended already"));
        }
        Ok(until)
    }

    /// The DNS names that are meant: those that are named, those of the certificates that are named, or
    /// else those of all certificates that may be proved to this issuer in this way.
    fn identifiers(
        &self,
        request: &ShowDnsRecordsRequest,
        issuer: &IssuerName,
    ) -> Result<Vec<Identifier>, Status> {
        let mut identifiers = Vec::new();
        for text in &request.identifiers {
            identifiers.push(name::<Identifier>(text)?);
        }
        let view = self.mirror.read();
        for certificate in &request.certificates {
            let certificate: CertName = name(certificate)?;
            let spec = view.certificates.get(&certificate);
            let spec = spec.ok_or_else(|| not_found("certificate", &certificate))?;
            identifiers.extend(spec.record.identifiers.iter().cloned());
        }
        let all = request.identifiers.is_empty() && request.certificates.is_empty();
        let meant = |spec: &crate::record::CertificateSpec| {
            (spec.issuers.contains(issuer) || spec.standby.as_ref() == Some(issuer))
                && spec.challenges.contains(&ChallengeType::DnsPersist01)
        };
        for spec in view.certificates.values().filter(|spec| all && meant(&spec.record)) {
            identifiers.extend(spec.record.identifiers.iter().cloned());
        }
        identifiers.retain(|identifier| identifier.ip().is_none());
        if identifiers.is_empty() {
            return Err(Status::failed_precondition(format!(
                "there is no DNS name to prove: name one with --identifier or --cert, or declare a \
                 certificate of issuer {issuer} whose challenges hold \"dns-persist-01\""
            )));
        }
        Ok(identifiers)
    }

    /// The issuer and its account.
    fn holder(&self, issuer: &IssuerName) -> Result<(IssuerSpec, Holder), Status> {
        let view = self.mirror.read();
        let spec = view.issuers.get(issuer).map(|spec| (*spec.record).clone());
        let spec = spec.ok_or_else(|| not_found("issuer", issuer))?;
        let account = view.accounts.get(issuer).map(|account| account.record.clone());
        drop(view);
        let account = account.filter(|account| {
            account.directory == spec.directory && account.deactivated_at.is_none()
        });
        let holder = account
            .map(|account| account::holder_of(&self.sealer, issuer, &account))
            .transpose()
            .map_err(|error| Status::internal(error.to_string()))?
            .flatten();
        let holder = holder.ok_or_else(|| {
            Status::failed_precondition(format!(
                "there is no account at issuer {issuer} yet that a record could name: chancery issuer \
                 account create {issuer} makes it"
            ))
        })?;
        Ok((spec, holder))
    }
}

fn no_issuer_name(issuer: &IssuerName) -> Status {
    Status::failed_precondition(format!(
        "the directory of issuer {issuer} does not tell a name for its records (issuerDomainNames or \
         caaIdentities): the CA does not seem to offer dns-persist-01"
    ))
}

/// Records that are looked for at once.
const LOOKS_AT_ONCE: usize = 16;

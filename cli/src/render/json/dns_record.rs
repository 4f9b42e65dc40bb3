//! `issuer dns-record`.

use chancery_proto::v1;
use serde::Serialize;

/// `issuer dns-record`.
#[derive(Debug, Serialize)]
pub(crate) struct DnsRecords {
    records: Vec<DnsRecord>,
}

#[derive(Debug, Serialize)]
struct DnsRecord {
    name: String,
    r#type: &'static str,
    value: String,
    /// `null` without `--check`.
    in_place: Option<bool>,
    missing: Vec<String>,
}

impl From<&v1::ShowDnsRecordsResponse> for DnsRecords {
    fn from(found: &v1::ShowDnsRecordsResponse) -> Self {
        let records = found.records.iter().map(|record| DnsRecord {
            name: record.name.clone(),
            r#type: "TXT",
            value: record.value.clone(),
            in_place: found.checked.then_some(record.missing.is_empty()),
            missing: record.missing.clone(),
        });
        Self { records: records.collect() }
    }
}

//! `issuer dns-record`: lines that can be pasted into a zone file.

use std::fmt::Write as _;

use chancery_proto::v1::ShowDnsRecordsResponse;

use super::{View, text::printable};

/// Each record, and with a check how it stands, as a comment below it.
pub(crate) fn records(found: &ShowDnsRecordsResponse, view: &View) -> String {
    let mut page = String::new();
    for record in &found.records {
        let name = printable(&record.name);
        writeln!(page, "{name}. IN TXT {}", strings(&record.value)).expect("a string takes it");
        if !found.checked {
            continue;
        }
        if record.missing.is_empty() {
            page.push_str(&view.paint.green("; in place"));
            page.push('\n');
        }
        for missing in &record.missing {
            page.push_str(&view.paint.red(&format!("; not in place: {}", printable(missing))));
            page.push('\n');
        }
    }
    page
}

/// A value as character-strings of a zone file (RFC 1035 section 5.1), of which none holds more than 255
/// bytes.
fn strings(value: &str) -> String {
    let clean: Vec<char> =
        printable(value).chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    let strings = clean.chunks(LONGEST_STRING).map(|part| {
        let escaped = part.iter().map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c => c.to_string(),
        });
        format!("\"{}\"", escaped.collect::<String>())
    });
    strings.collect::<Vec<_>>().join(" ")
}

const LONGEST_STRING: usize = 255;

#[cfg(test)]
mod tests {
    use chancery_proto::v1::DnsRecord;
    use jiff::Timestamp;

    use super::*;
    use crate::render::Paint;

    fn shown(value: &str, checked: bool, missing: &[&str]) -> String {
        let record = DnsRecord {
            name: "_validation-persist.example.org".to_owned(),
            value: value.to_owned(),
            missing: missing.iter().map(|&text| text.to_owned()).collect(),
        };
        let found = ShowDnsRecordsResponse { records: vec![record], checked };
        let view = View { now: Timestamp::UNIX_EPOCH, width: Some(80), paint: Paint::plain() };
        records(&found, &view)
    }

    #[test]
    fn a_record_is_a_line_for_a_zone_file() {
        let value = "ca.example; accounturi=https://ca.example/1";
        let line = format!("_validation-persist.example.org. IN TXT \"{value}\"\n");
        assert_eq!(shown(value, false, &[]), line);
        assert_eq!(shown(value, true, &[]), format!("{line}; in place\n"));
        let missing = ["ns1: there is no TXT record", "ns2: no answer"];
        let expected =
            "; not in place: ns1: there is no TXT record\n; not in place: ns2: no answer\n";
        assert_eq!(shown(value, true, &missing), format!("{line}{expected}"));
    }

    #[test]
    fn a_long_value_is_several_strings_and_none_ends_early() {
        let long = "x".repeat(300);
        let page = shown(&long, false, &[]);
        assert!(page.ends_with(&format!("\"{}\" \"{}\"\n", "x".repeat(255), "x".repeat(45))));
        assert!(shown("a\"b", false, &[]).ends_with("\"a\\\"b\"\n"));
    }
}

//! Amazon Route 53's API of 2013-04-01, which lists hosted zones one a page.

use std::fmt::Write as _;

use http::Method;

use super::{Answer, Asked, State, TOKEN};

pub(super) fn answer(state: &mut State, asked: &Asked) -> Answer {
    // The key's id stands in the credential scope of Signature Version 4.
    let signed = format!("AWS4-HMAC-SHA256 Credential={TOKEN}/");
    if !asked.header("authorization").starts_with(&signed) {
        let message = "The security token included in the request is invalid.";
        return failure(403, "InvalidClientTokenId", message);
    }
    match (&asked.method, asked.parts("/2013-04-01").as_slice()) {
        (&Method::GET, ["hostedzonesbyname"]) => zones(state, asked),
        (&Method::GET, ["hostedzone", _, "rrset"]) => sets(state, asked.query("name")),
        (&Method::POST, ["hostedzone", _, "rrset"]) => change(state, &asked.body),
        _ => failure(404, "NoSuchHostedZone", "No hosted zone found"),
    }
}

fn zones(state: &State, asked: &Asked) -> Answer {
    let asked_for = asked.query("dnsname").trim_end_matches('.');
    let at = state.zones.iter().position(|zone| zone == asked_for).unwrap_or_default();
    let next = state.zones.get(at + 1);
    let zone = state.zones.get(at).map(|zone| {
        format!(
            "<HostedZone><Id>/hostedzone/Z{at}</Id><Name>{zone}.</Name><CallerReference>c\
             </CallerReference><Config><PrivateZone>false</PrivateZone></Config>\
             <ResourceRecordSetCount>2</ResourceRecordSetCount></HostedZone>"
        )
    });
    let more = next.map(|zone| {
        let id = at + 1;
        format!("<NextDNSName>{zone}.</NextDNSName><NextHostedZoneId>Z{id}</NextHostedZoneId>")
    });
    let (zone, is_truncated) = (zone.unwrap_or_default(), next.is_some());
    success(
        "ListHostedZonesByNameResponse",
        &format!(
            "<HostedZones>{zone}</HostedZones><IsTruncated>{is_truncated}</IsTruncated>{}\
             <MaxItems>1</MaxItems>",
            more.unwrap_or_default()
        ),
    )
}

fn sets(state: &State, name: &str) -> Answer {
    let values = state.values(name.trim_end_matches('.'));
    let mut records = String::new();
    for value in &values {
        let value = format!("&quot;{value}&quot;");
        write!(records, "<ResourceRecord><Value>{value}</Value></ResourceRecord>")
            .expect("writing to a string works");
    }
    let set = format!(
        "<ResourceRecordSet><Name>{name}</Name><Type>TXT</Type><TTL>60</TTL>\
         <ResourceRecords>{records}</ResourceRecords></ResourceRecordSet>"
    );
    let set = if values.is_empty() { String::new() } else { set };
    success(
        "ListResourceRecordSetsResponse",
        &format!(
            "<ResourceRecordSets>{set}</ResourceRecordSets><IsTruncated>false</IsTruncated>\
             <MaxItems>300</MaxItems>"
        ),
    )
}

fn change(state: &mut State, body: &str) -> Answer {
    let name = between(body, "Name").unwrap_or_default().trim_end_matches('.').to_owned();
    let values: Vec<String> = body
        .split("<Value>")
        .skip(1)
        .filter_map(|rest| rest.split_once("</Value>"))
        .map(|(value, _)| super::unquoted(&value.replace("&quot;", "\"")))
        .collect();
    match between(body, "Action") {
        Some("UPSERT" | "CREATE") => {
            let ttl = between(body, "TTL").and_then(|ttl| ttl.parse().ok()).unwrap_or(300);
            state.set(&name, values, ttl);
        }
        Some("DELETE") if state.values(&name) == values => state.set(&name, Vec::new(), 0),
        _ => {
            let message = "it was submitted as a delete of values that are not the current ones";
            return failure(400, "InvalidChangeBatch", message);
        }
    }
    success(
        "ChangeResourceRecordSetsResponse",
        "<ChangeInfo><Id>/change/C1</Id><Status>PENDING</Status>\
         <SubmittedAt>2026-01-01T00:00:00Z</SubmittedAt></ChangeInfo>",
    )
}

fn between<'a>(body: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{tag}>"))?;
    Some(rest.split_once(&format!("</{tag}>"))?.0)
}

const XMLNS: &str = "https://route53.amazonaws.com/doc/2013-04-01/";

fn success(name: &str, inner: &str) -> Answer {
    Answer::new(200, format!("<?xml version=\"1.0\"?><{name} xmlns=\"{XMLNS}\">{inner}</{name}>"))
}

fn failure(status: u16, code: &str, message: &str) -> Answer {
    Answer::new(
        status,
        format!(
            "<?xml version=\"1.0\"?><ErrorResponse xmlns=\"{XMLNS}\"><Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        ),
    )
}

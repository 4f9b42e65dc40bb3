//! deSEC's API v1: record sets.

use http::Method;
use serde_json::{Value, json};

use super::{Answer, Asked, State, TOKEN};

pub(super) fn answer(state: &mut State, asked: &Asked) -> Answer {
    if asked.header("authorization") != format!("Token {TOKEN}") {
        return failure(401, "Invalid token.");
    }
    let parts = asked.parts("/api/v1/domains");
    let Some(zone) = parts.first().filter(|zone| state.has_zone(zone)) else {
        return failure(404, "Not found.");
    };
    if !asked.path.ends_with('/') {
        return failure(404, "Not found.");
    }
    match (&asked.method, parts.as_slice()) {
        (&Method::GET, [_]) => {
            Answer::new(200, json!({ "name": zone, "minimum_ttl": 3600 }).to_string())
        }
        (&Method::POST, [_, "rrsets"]) => {
            let body = asked.json();
            let sub = body["subname"].as_str().unwrap_or_default().to_owned();
            if !state.values(&super::below(&sub, zone)).is_empty() {
                return failure(400, "Another RRset with the same subdomain and type exists.");
            }
            write(state, zone, &sub, &body, 201)
        }
        (&Method::GET, [_, "rrsets", sub, "TXT"]) => show(state, zone, sub, 200),
        (&Method::PUT, [_, "rrsets", sub, "TXT"]) => write(state, zone, sub, &asked.json(), 200),
        (&Method::DELETE, [_, "rrsets", sub, "TXT"]) => {
            state.set(&super::below(sub, zone), Vec::new(), 0);
            Answer::new(204, "")
        }
        _ => failure(404, "Not found."),
    }
}

fn write(state: &mut State, zone: &str, sub: &str, body: &Value, status: u16) -> Answer {
    let ttl = body["ttl"].as_u64().unwrap_or_default();
    if ttl < 3600 {
        return failure(400, "Ensure this value is greater than or equal to 3600.");
    }
    let values = body["records"].as_array().cloned().unwrap_or_default();
    if values.iter().any(|value| !value.as_str().is_some_and(|value| value.starts_with('"'))) {
        return failure(400, "Cannot parse record contents: data for TXT must be given in quotes");
    }
    let values = values.iter().filter_map(Value::as_str).map(super::unquoted).collect();
    state.set(&super::below(sub, zone), values, ttl);
    show(state, zone, sub, status)
}

fn show(state: &State, zone: &str, sub: &str, status: u16) -> Answer {
    let name = super::below(sub, zone);
    let values: Vec<String> =
        state.values(&name).iter().map(|value| super::quoted(value)).collect();
    if values.is_empty() {
        return failure(404, "Not found.");
    }
    let body = json!({
        "created": "2026-01-01T00:00:00Z", "touched": "2026-01-01T00:00:00Z", "domain": zone,
        "subname": sub, "name": format!("{name}."), "type": "TXT", "ttl": 3600, "records": values,
    });
    Answer::new(status, body.to_string())
}

fn failure(status: u16, detail: &str) -> Answer {
    Answer::new(status, json!({ "detail": detail }).to_string())
}

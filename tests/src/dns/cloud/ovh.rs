//! OVH's API 1.0: records of a domain's zone, which are served after a refresh. It quotes what TXT records
//! say, whatever it was sent.

use http::Method;
use serde_json::json;

use super::{Answer, Asked, State, TOKEN};

pub(super) fn answer(state: &mut State, asked: &Asked) -> Answer {
    if asked.header("x-ovh-application") != TOKEN || asked.header("x-ovh-consumer") != TOKEN {
        return failure(403, "INVALID_CREDENTIAL", "This credential is not valid");
    }
    if !asked.header("x-ovh-signature").starts_with("$1$") {
        return failure(400, "INVALID_SIGNATURE", "Invalid signature");
    }
    let parts = asked.parts("/1.0/domain/zone");
    let Some(zone) = parts.first().filter(|zone| state.has_zone(zone)) else {
        return failure(404, "NOT_FOUND", "This service does not exist");
    };
    state.is_lazy(zone);
    match (&asked.method, parts.as_slice()) {
        (&Method::GET, [_]) => {
            Answer::new(200, json!({ "name": zone, "hasDnsAnycast": false }).to_string())
        }
        (&Method::GET, [_, "record"]) => {
            let name = super::below(asked.query("subDomain"), zone);
            let found = state.records.iter().filter(|record| record.name == name);
            Answer::new(200, json!(found.map(|record| record.id).collect::<Vec<_>>()).to_string())
        }
        (&Method::GET, [_, "record", id]) => show(state, zone, id.parse().unwrap_or_default()),
        (&Method::POST, [_, "record"]) => {
            let body = asked.json();
            let text = |key: &str| body[key].as_str().unwrap_or_default();
            let name = super::below(text("subDomain"), zone);
            let value = super::unquoted(text("target"));
            let id = state.add(&name, value, body["ttl"].as_u64().unwrap_or_default());
            show(state, zone, id)
        }
        (&Method::DELETE, [_, "record", id]) => {
            state.remove(id.parse().unwrap_or_default());
            Answer::new(200, "null")
        }
        (&Method::POST, [_, "refresh"]) => {
            state.refresh(zone);
            Answer::new(200, "null")
        }
        _ => failure(404, "NOT_FOUND", "Got an invalid (or empty) URL"),
    }
}

fn show(state: &State, zone: &str, id: u64) -> Answer {
    let Some(record) = state.records.iter().find(|record| record.id == id) else {
        return failure(404, "NOT_FOUND", "The requested object does not exist");
    };
    let body = json!({
        "id": id, "zone": zone, "subDomain": super::part(&record.name, zone), "fieldType": "TXT",
        "target": super::quoted(&record.value), "ttl": record.ttl,
    });
    Answer::new(200, body.to_string())
}

fn failure(status: u16, code: &str, message: &str) -> Answer {
    Answer::new(status, json!({ "errorCode": code, "message": message }).to_string())
}

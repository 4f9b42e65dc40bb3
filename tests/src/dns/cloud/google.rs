//! Google Cloud DNS v1, and the tokens of service accounts (RFC 7523).

use http::Method;
use serde_json::{Value, json};

use super::{Answer, Asked, State};

/// What the service account's signed assertion is exchanged for.
const ACCESS_TOKEN: &str = "ya29.for-the-service-account";

pub(super) fn answer(state: &mut State, asked: &Asked) -> Answer {
    if asked.path == "/token" {
        // Three parts, of which the last is the signature.
        let is_signed = asked.body.contains("assertion=") && asked.body.matches('.').count() == 2;
        return if is_signed {
            let body = json!({ "access_token": ACCESS_TOKEN, "expires_in": 3599 });
            Answer::new(200, body.to_string())
        } else {
            Answer::new(400, json!({ "error": "invalid_grant" }).to_string())
        };
    }
    if asked.header("authorization") != format!("Bearer {ACCESS_TOKEN}") {
        return failure(401, "Invalid Credentials", "authError");
    }
    match (&asked.method, asked.parts("/dns/v1/projects/the-project/managedZones").as_slice()) {
        (&Method::GET, []) => {
            let zones = state.zones.iter().map(|zone| {
                let name = zone.replace('.', "-");
                json!({ "name": name, "dnsName": format!("{zone}."), "visibility": "public" })
            });
            Answer::new(200, json!({ "managedZones": zones.collect::<Vec<_>>() }).to_string())
        }
        (&Method::GET, [_, "rrsets"]) => {
            let sets: Vec<Value> = set(state, asked.query("name")).into_iter().collect();
            Answer::new(200, json!({ "rrsets": sets }).to_string())
        }
        (&Method::POST, [_, "changes"]) => change(state, &asked.json()),
        _ => failure(404, "The parameter is not found", "notFound"),
    }
}

fn set(state: &State, name: &str) -> Option<Value> {
    let plain = name.trim_end_matches('.');
    let values: Vec<String> =
        state.values(plain).iter().map(|value| super::quoted(value)).collect();
    (!values.is_empty())
        .then(|| json!({ "name": name, "type": "TXT", "ttl": 60, "rrdatas": values }))
}

/// All or nothing: a deletion has to be of the whole set as it is.
fn change(state: &mut State, change: &Value) -> Answer {
    let list = |key: &str| change[key].as_array().cloned().unwrap_or_default();
    for deleted in list("deletions") {
        let name = deleted["name"].as_str().unwrap_or_default();
        if set(state, name).map(|set| set["rrdatas"].clone()) != Some(deleted["rrdatas"].clone()) {
            return failure(412, "Precondition not met for the set", "conditionNotMet");
        }
    }
    let name_of =
        |set: &Value| set["name"].as_str().unwrap_or_default().trim_end_matches('.').to_owned();
    let added = list("additions");
    for deleted in list("deletions") {
        if !added.iter().any(|added| added["name"] == deleted["name"]) {
            state.set(&name_of(&deleted), Vec::new(), 0);
        }
    }
    for added in added {
        let values = added["rrdatas"].as_array().cloned().unwrap_or_default();
        let values = values.iter().filter_map(Value::as_str).map(super::unquoted).collect();
        state.set(&name_of(&added), values, added["ttl"].as_u64().unwrap_or(300));
    }
    Answer::new(200, json!({ "kind": "dns#change", "id": "1", "status": "pending" }).to_string())
}

fn failure(status: u16, message: &str, reason: &str) -> Answer {
    let errors = json!([{ "domain": "global", "reason": reason, "message": message }]);
    let body = json!({ "error": { "code": status, "message": message, "errors": errors } });
    Answer::new(status, body.to_string())
}

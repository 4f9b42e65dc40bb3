//! What is asked for without TLS: acme-dns, where an update takes the place of the older of two
//! values, and the credentials that AWS gives to a container.

use serde_json::json;

use super::{Answer, Asked, State, TOKEN};

pub(super) fn answer(state: &mut State, asked: &Asked) -> Answer {
    if asked.path == "/credentials" {
        let body = json!({
            "AccessKeyId": TOKEN, "SecretAccessKey": "a-secret-of-aws", "Token": "a-session",
            "Expiration": "2099-01-01T00:00:00Z",
        });
        return Answer::new(200, body.to_string());
    }
    if asked.path != "/update" {
        return Answer::new(404, json!({ "error": "not_found" }).to_string());
    }
    if asked.header("x-api-key") != TOKEN {
        return Answer::new(401, json!({ "error": "forbidden" }).to_string());
    }
    let body = asked.json();
    let text = |key: &str| body[key].as_str().unwrap_or_default();
    let (subdomain, value) = (text("subdomain"), text("txt"));
    if value.len() != 43 {
        return Answer::new(400, json!({ "error": "bad_txt" }).to_string());
    }
    let Some(zone) = state.zones.last() else {
        return Answer::new(500, json!({ "error": "no_zone" }).to_string());
    };
    let name = super::below(subdomain, zone);
    let mut values = state.values(&name);
    if values.len() > 1 {
        values.remove(0);
    }
    values.push(value.to_owned());
    state.set(&name, values, 1);
    Answer::new(200, json!({ "txt": value }).to_string())
}

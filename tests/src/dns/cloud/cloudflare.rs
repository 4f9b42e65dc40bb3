//! Cloudflare's API v4: zones and their DNS records.

use http::Method;
use serde_json::{Value, json};

use super::{Answer, Asked, State, TOKEN};

pub(super) fn answer(state: &mut State, asked: &Asked) -> Answer {
    if asked.header("authorization") != format!("Bearer {TOKEN}") {
        return failure(403, 9109, "Invalid access token");
    }
    match (&asked.method, asked.parts("/client/v4/zones").as_slice()) {
        (&Method::GET, []) => zones(state, asked),
        (&Method::GET, [_, "dns_records"]) => records(state, asked),
        (&Method::POST, [zone, "dns_records"]) => create(state, zone, &asked.json()),
        (&Method::DELETE, [_, "dns_records", id]) => {
            if state.remove(id.parse().unwrap_or_default()) {
                success(&json!({ "id": id }))
            } else {
                failure(404, 81044, "Record does not exist.")
            }
        }
        _ => failure(404, 7000, "No route for that URI"),
    }
}

fn zones(state: &State, asked: &Asked) -> Answer {
    let found = state.zones.iter().filter(|zone| *zone == asked.query("name"));
    let zones = found.map(|zone| json!({ "id": id(zone), "name": zone, "status": "active" }));
    success(&zones.collect())
}

fn records(state: &State, asked: &Asked) -> Answer {
    let found = state.records.iter().filter(|record| record.name == asked.query("name"));
    let per_page = asked.query("per_page").parse().unwrap_or(100);
    let records = found.take(per_page).map(|record| {
        json!({
            "id": record.id.to_string(), "name": record.name, "type": "TXT",
            "content": super::quoted(&record.value), "ttl": record.ttl, "proxied": false,
        })
    });
    success(&records.collect())
}

fn create(state: &mut State, zone: &str, record: &Value) -> Answer {
    let text = |key: &str| record[key].as_str().unwrap_or_default();
    let (name, value) = (text("name"), super::unquoted(text("content")));
    let Some(known) = state.zones.iter().find(|known| id(known) == zone) else {
        return failure(404, 7003, "Could not route to the zone");
    };
    if text("type") != "TXT" || !name.ends_with(known.as_str()) {
        return failure(400, 9005, "Content for the record is invalid.");
    }
    if state.values(name).contains(&value) {
        return failure(400, 81058, "An identical record already exists.");
    }
    let id = state.add(name, value, record["ttl"].as_u64().unwrap_or(1));
    success(&json!({ "id": id.to_string() }))
}

fn id(zone: &str) -> String {
    format!("id-of-{}", zone.replace('.', "-"))
}

fn success(result: &Value) -> Answer {
    let body = json!({ "success": true, "errors": [], "messages": [], "result": result });
    Answer::new(200, body.to_string())
}

fn failure(status: u16, code: u32, message: &str) -> Answer {
    let errors = json!([{ "code": code, "message": message }]);
    let body = json!({ "success": false, "errors": errors, "messages": [], "result": null });
    Answer::new(status, body.to_string())
}

//! DigitalOcean's API v2: domain records, by pages.

use http::Method;
use serde_json::{Value, json};

use super::{Answer, Asked, Record, State, TOKEN};

pub(super) fn answer(state: &mut State, asked: &Asked) -> Answer {
    if asked.header("authorization") != format!("Bearer {TOKEN}") {
        return failure(401, "Unauthorized", "Unable to authenticate you");
    }
    let parts = asked.parts("/v2/domains");
    if parts.first().is_some_and(|zone| !state.has_zone(zone)) {
        return failure(404, "not_found", "The resource you were accessing could not be found.");
    }
    match (&asked.method, parts.as_slice()) {
        (&Method::GET, [zone, "records"]) => records(state, zone, asked),
        (&Method::POST, [zone, "records"]) => create(state, zone, &asked.json()),
        (&Method::DELETE, [_, "records", id]) => {
            if state.remove(id.parse().unwrap_or_default()) {
                Answer::new(204, "")
            } else {
                failure(404, "not_found", "The resource you requested could not be found.")
            }
        }
        _ => failure(404, "not_found", "The resource you were accessing could not be found."),
    }
}

fn records(state: &State, zone: &str, asked: &Asked) -> Answer {
    let number = |key: &str, default| asked.query(key).parse::<usize>().unwrap_or(default);
    let (page, size) = (number("page", 1), number("per_page", 20).min(200));
    // The name is a whole one.
    let found: Vec<&Record> =
        state.records.iter().filter(|record| record.name == asked.query("name")).collect();
    let shown = found.iter().skip((page - 1) * size).take(size);
    let shown: Vec<Value> = shown.map(|record| show(record, zone)).collect();
    let is_last = page * size >= found.len();
    let next = format!("https://api.digitalocean.com/v2/domains/{zone}/records?page={}", page + 1);
    let links = if is_last { json!({}) } else { json!({ "pages": { "next": next } }) };
    let body = json!({ "domain_records": shown, "links": links, "meta": { "total": found.len() } });
    Answer::new(200, body.to_string())
}

fn create(state: &mut State, zone: &str, record: &Value) -> Answer {
    let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
    if record["type"] != "TXT" || record["ttl"].as_u64() < Some(30) {
        return failure(422, "unprocessable_entity", "Data needs to be valid");
    }
    let name = super::below(&text("name"), zone);
    state.add(&name, text("data"), record["ttl"].as_u64().unwrap_or(1800));
    let made = state.records.last().map(|record| show(record, zone));
    Answer::new(201, json!({ "domain_record": made }).to_string())
}

fn show(record: &Record, zone: &str) -> Value {
    json!({
        "id": record.id, "type": "TXT", "name": super::part(&record.name, zone),
        "data": record.value, "ttl": record.ttl, "priority": null, "port": null, "weight": null,
        "flags": null, "tag": null,
    })
}

fn failure(status: u16, id: &str, message: &str) -> Answer {
    Answer::new(status, json!({ "id": id, "message": message }).to_string())
}

//! How Consul is, address by address.
//!
//! An address is well if a consistent read comes through it. Which leader a server names says
//! little: it goes on naming one that it has lost for as long as it has not noticed. What a token may
//! not ask is left out.

use futures_util::future::join_all;
use http::StatusCode;
use serde::Deserialize;

use super::{
    Keys,
    client::{Client, Request},
};
use crate::store::{Endpoint, Health};

/// What one address tells.
#[derive(Debug, Default)]
struct Told {
    /// The Raft address of the leader.
    leader: String,
    servers: usize,
    agent: Option<Agent>,
}

#[derive(Clone, Debug, Deserialize)]
struct AgentSelf {
    #[serde(rename = "Config")]
    config: Agent,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Agent {
    node_name: String,
    server: bool,
    version: String,
}

/// Asks every address, all at once.
pub(super) async fn ask(client: &Client, keys: &Keys) -> Health {
    let read = Request::get(keys.head_path("?consistent"));
    let asked = client.addresses().iter().map(|address| ask_one(client, address, &read));
    let told = join_all(asked).await;
    let mut version = None;
    let mut warnings = Vec::new();
    let mut endpoints = Vec::new();
    for (address, told) in client.addresses().iter().zip(told) {
        if let Ok(told) = &told {
            version = version.or_else(|| told.agent.as_ref().map(|agent| agent.version.clone()));
        }
        let healthy = told.is_ok();
        let message = told.as_ref().map_or_else(Clone::clone, message);
        endpoints.push(Endpoint { address: address.clone(), healthy, message });
    }
    if let Some(found) = version.as_deref().filter(|version| is_too_old(version)) {
        warnings.push(format!("Consul {found} is older than 1.8, the oldest that is supported"));
    }
    let unknown = "unknown (to tell it, the token needs agent_prefix \"\" { policy = \"read\" })";
    let version = version.unwrap_or_else(|| unknown.to_owned());
    Health { version, endpoints, warnings }
}

async fn ask_one(client: &Client, address: &str, read: &Request) -> Result<Told, String> {
    let (served, leader, peers, agent) = futures_util::join!(
        client.ask_one(address, read),
        json::<String>(client, address, "/v1/status/leader"),
        json::<Vec<String>>(client, address, "/v1/status/peers"),
        json::<AgentSelf>(client, address, "/v1/agent/self"),
    );
    let served = served?;
    // A head that is missing is made by the next write.
    if !matches!(served.status, StatusCode::OK | StatusCode::NOT_FOUND) {
        return Err(format!("it refuses a read: {}", served.status));
    }
    Ok(Told { leader: leader?, servers: peers?.len(), agent: agent.ok().map(|agent| agent.config) })
}

async fn json<T: for<'a> Deserialize<'a>>(
    client: &Client,
    address: &str,
    path: &str,
) -> Result<T, String> {
    let answer = client.ask_one(address, &Request::get(path)).await?;
    match answer.status {
        StatusCode::OK => serde_json::from_slice(&answer.body).map_err(|error| error.to_string()),
        status => Err(status.to_string()),
    }
}

fn message(told: &Told) -> String {
    let agent = told.agent.as_ref().map_or_else(String::new, |agent| {
        let role = if agent.server { "server" } else { "client agent" };
        format!("{} {}, {role}; ", agent.node_name, agent.version)
    });
    let s = if told.servers == 1 { "" } else { "s" };
    format!("{agent}leader {}, {} server{s}", told.leader, told.servers)
}

/// Whether `version`, such as `1.8.7` or `1.10.3+ent`, is older than 1.8. What cannot be read is not.
fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (1, 8),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, too_old) in [
            ("1.7.14", true),
            ("1.8.0", false),
            ("1.10.3+ent", false),
            ("2.0.0", false),
            ("dev", false),
        ] {
            assert_eq!(is_too_old(version), too_old, "{version}");
        }
    }

    #[test]
    fn what_the_token_may_not_ask_is_left_out() {
        let mut told = Told { leader: "10.0.0.1:8300".to_owned(), servers: 3, agent: None };
        assert_eq!(message(&told), "leader 10.0.0.1:8300, 3 servers");
        let (node_name, version) = ("web-1".to_owned(), "1.8.7".to_owned());
        told.agent = Some(Agent { node_name, server: false, version });
        told.servers = 1;
        assert_eq!(message(&told), "web-1 1.8.7, client agent; leader 10.0.0.1:8300, 1 server");
    }
}

//! Where a server runs: on loopback, or in a network namespace of its own.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;

use crate::netns::Node;
use crate::ports;

/// Where a server of a cluster runs.
#[derive(Debug, Clone)]
pub enum Place {
    /// On 127.0.0.1, on ports that nobody else takes.
    Loopback,
    /// In a network namespace, on the ports that everybody knows.
    Node(Node),
}

impl Place {
    /// An address to listen on. In a namespace, where nobody else is, it has this port.
    pub fn address(&self, port: u16) -> Result<SocketAddr> {
        match self {
            Self::Loopback => ports::free(),
            Self::Node(node) => Ok(SocketAddr::from((node.address(), port))),
        }
    }

    /// The command that runs `command` there.
    pub fn inside(&self, command: Command) -> Command {
        match self {
            Self::Loopback => command,
            Self::Node(node) => node.inside(&command),
        }
    }
}

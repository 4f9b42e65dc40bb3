//! Loopback ports that nobody else takes between now and the server's start.
//!
//! Asking the kernel for a free port gives one of the ephemeral range, which any outgoing
//! connection may take a moment later. These are below that range, and a lock on a file
//! for each block of ports keeps parallel test processes apart.

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

/// A loopback address that nothing listens on. It is this process's as long as it lives.
pub fn free() -> Result<SocketAddr> {
    let mut blocks = BLOCKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    loop {
        if blocks.is_empty() {
            blocks.push(Block::lock()?);
        }
        let block = blocks.last_mut().expect("pushed above");
        while block.next < block.end {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, block.next));
            block.next += 1;
            // Somebody outside of the tests may use it.
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                return Ok(address);
            }
        }
        let next = Block::lock()?;
        blocks.push(next);
    }
}

static BLOCKS: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// Ports of this process, as long as it holds the lock.
struct Block {
    next: u16,
    end: u16,
    _lock: File,
}

impl Block {
    fn lock() -> Result<Self> {
        let folder =
            env::temp_dir().join(format!("chancery-ports-{}", rustix::process::getuid().as_raw()));
        fs::create_dir_all(&folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        for start in (FIRST..LAST).step_by(usize::from(SIZE)) {
            let file = File::create(folder.join(start.to_string()))
                .with_context(|| format!("no lock for ports in {}", folder.display()))?;
            if file.try_lock().is_ok() {
                return Ok(Self { next: start, end: start + SIZE, _lock: file });
            }
        }
        bail!("all ports from {FIRST} to {LAST} are taken by tests that run now")
    }
}

const FIRST: u16 = 14_000;
/// Below Linux's ephemeral range, which begins at 32768.
const LAST: u16 = 32_000;
const SIZE: u16 = 40;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_are_never_given_twice_and_can_be_bound() {
        let ports: HashSet<SocketAddr> = (0..100).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 100);
        let listening: Vec<_> = ports.iter().map(TcpListener::bind).collect();
        assert!(listening.iter().all(Result::is_ok));
    }
}

//! What the end-to-end suites, the demo and the benchmarks stand on: the real servers and
//! the real programs, each on ports and in folders of its own.
//!
//! - [`scene`] gives a test its folder and its runtime, and shows the logs when it fails.
//! - [`process`] starts a program; whatever happens, nothing it started outlives it.
//! - [`pebble`] is the certificate authority, [`gate`] stands in front of it to count, hold
//!   and spoil requests, [`nginx`] and [`haproxy`] are what get the certificates,
//!   [`tls_client`] looks at what is served.
//! - [`etcd`] and [`consul`] are clusters of the stores, whose members can be killed, paused
//!   and cut off; [`netns`] is a network to cut.
//! - [`dns`] are real name servers that take updates.
//! - [`balancer`] spreads HTTP-01 requests over several coordinators.
//! - [`coordinator`], [`agent`] and [`cli`] are our own programs, and [`world`] is all of
//!   this together.
//! - [`ha`] puts three coordinators on a cluster through faults, and judges what became of it.
//! - [`sim`] runs the code of coordinators and agents itself, in a world of its own making.
//! - [`year`] lets the plan alone decide about many certificates for a year.
//! - [`wait`] waits for a state. Nothing in here waits for time to pass.
//!
//! A program that is missing is an error that names the command to get it; it is never a
//! reason to skip a test.

pub mod agent;
pub mod authority;
pub mod balancer;
pub mod cli;
pub mod consul;
pub mod coordinator;
pub mod dns;
pub mod etcd;
pub mod gate;
pub mod ha;
pub mod haproxy;
pub mod netns;
pub mod nginx;
pub mod pebble;
pub mod place;
pub mod ports;
pub mod process;
pub mod scene;
pub mod sim;
pub mod tls_client;
pub mod tools;
pub mod usage;
pub mod wait;
pub mod world;
pub mod year;

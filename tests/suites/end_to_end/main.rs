//! End to end: the real programs, a real ACME server, a real web server.
//!
//! One module for each topic. Each test has its own servers on its own ports; run them with
//! `cargo xtask test end_to_end`.

mod accounts;
mod activation;
mod bad_input;
mod center;
mod crash_agent;
mod crash_coordinator;
mod fallback;
mod faults;
mod files;
mod harness;
mod issuance;
mod issuers;
mod keys;
mod limits;
mod look;
mod maintenance;
mod offline;
mod operations;
mod peer;
mod refusals;
mod renewal_info;
mod revocation;
mod secrets;
mod standby;
mod views;

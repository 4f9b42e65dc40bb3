//! High availability: clusters of real stores, several coordinators, and what goes wrong
//! between them.
//!
//! Network namespaces need root. Run it with `cargo xtask test high_availability`.

mod chaos;
mod failover;
mod harness;
mod lease;
mod members;
mod rolling;

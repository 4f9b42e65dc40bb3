//! High availability on trial: three coordinators on a cluster of a real store, each machine in a
//! network namespace of its own, and faults on a schedule.
//!
//! - [`world`] is all of the machines, [`cluster`] their store.
//! - [`fault`] is what can go wrong; a seed decides what does, and when.
//! - [`history`] is every write, as the store itself tells it; [`check`] says what of it must not
//!   have happened.
//! - [`chaos`] runs a schedule, lets the world settle, and checks.
//! - [`failover`] measures how long nobody leads.
//!
//! The verdict is taken from what others than the coordinators say: the store's history,
//! the CA's orders, and the files that agents have installed.

pub mod chaos;
pub mod check;
pub mod cluster;
pub mod dice;
pub mod failover;
pub mod fault;
pub mod history;
pub mod world;

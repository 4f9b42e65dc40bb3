//! Chancery's coordinator. See `docs/architecture.md` for the map.

pub mod challenge;
pub mod config;
pub mod election;
pub mod mirror;
pub mod plan;
pub mod record;
pub mod seal;
pub mod store;

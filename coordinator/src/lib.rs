//! Chancery's coordinator. See `docs/architecture.md` for the map.

pub mod mirror;
pub mod record;
pub mod seal;
pub mod store;

//! Chancery's coordinator. See `docs/architecture.md` for the map.

pub mod api;
pub mod app;
pub mod apply;
pub mod authority;
pub mod challenge;
pub mod config;
pub mod election;
pub mod errands;
#[cfg(test)]
mod error_pages;
pub mod events;
pub mod http;
pub mod members;
pub mod metrics;
pub mod mirror;
pub mod order;
pub mod plan;
pub mod record;
pub mod renewal_info;
pub mod scheduler;
pub mod seal;
pub mod status;
pub mod store;
pub mod sweep;

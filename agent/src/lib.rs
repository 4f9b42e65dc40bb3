//! Chancery's agent.
mod bundle;
mod cache;
pub mod config;
mod engine;
mod install;
mod plan;
mod report;
mod service;

mod state;
mod text;

/// x
pub(crate) const TOKEN_VARIABLE: &str = "CHANCERY_JOIN_TOKEN";

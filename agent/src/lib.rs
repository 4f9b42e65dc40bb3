//! Chancery's agent.
pub mod config;

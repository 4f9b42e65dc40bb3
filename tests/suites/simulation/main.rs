//! The simulation: see [`chancery_tests::sim`].

mod bites;
mod seeds;

//! The simulations: see [`chancery_tests::sim`] and [`chancery_tests::year`].

mod bites;
mod seeds;
mod year;

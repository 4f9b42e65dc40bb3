//! The stores that are servers, held to the contract of `chancery_coordinator::store` on real
//! ones, and to what a cluster of them can do to a client.

mod consul;
mod etcd;

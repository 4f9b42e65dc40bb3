//! The store in etcd.

mod bench;

//! The services, over real TLS on the loopback interface.

mod admin;
mod enrolment;
mod forward;
mod identity;
mod lease;
mod listener;
mod members;
mod overtaken;
mod report;
mod socket;
mod watch;

//! The services, over real TLS on the loopback interface.

mod admin;
mod enrolment;
mod identity;
mod listener;
mod report;
mod socket;
mod watch;

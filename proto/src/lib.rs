//! Chancery's gRPC interface, version 1: the messages and services generated
//! from `proto/v1`. The protobuf files are the reference and carry the comments.

/// Package `chancery.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("chancery.v1");

    use std::fmt;

    // The messages that carry secrets print without them.

    impl fmt::Debug for Bundle {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Bundle")
                .field("certificate", &self.certificate)
                .field("generation", &self.generation)
                .finish_non_exhaustive()
        }
    }

    impl fmt::Debug for JoinRequest {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("JoinRequest").field("info", &self.info).finish_non_exhaustive()
        }
    }

    impl fmt::Debug for ExternalAccount {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("ExternalAccount").field("key_id", &self.key_id).finish_non_exhaustive()
        }
    }

    impl fmt::Debug for CreateTokenResponse {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("CreateTokenResponse")
                .field("expires_at", &self.expires_at)
                .finish_non_exhaustive()
        }
    }
}

/// The encoded `FileDescriptorSet` of the package, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

//! Times between Chancery's types and protobuf's.

use jiff::Timestamp;

/// As a protobuf timestamp.
pub fn to_timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

/// From a protobuf timestamp; `None` if it is absent or out of range.
pub fn from_timestamp(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let time = time?;
    Timestamp::new(time.seconds, time.nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_the_wire() {
        let time: Timestamp = "2026-11-22T04:05:06.789Z".parse().unwrap();
        assert_eq!(from_timestamp(Some(&to_timestamp(time))), Some(time));
        assert_eq!(from_timestamp(None), None);
    }
}

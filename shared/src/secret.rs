//! Bytes that are wiped when dropped and never printed.

use std::fmt;

use zeroize::Zeroizing;

/// Secret bytes: a private key, a data key, a token's secret half.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over `bytes`, which are wiped when this is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// `length` bytes from the operating system's random source.
    pub fn random(length: usize) -> Self {
        let mut bytes = Zeroizing::new(vec![0; length]);
        aws_lc_rs::rand::fill(&mut bytes).expect("the operating system's random source works");
        Self(bytes)
    }

    /// The bytes. The name is long so that every use can be found.
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes, redacted)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_byte() {
        let text = format!("{:?}", Secret::new(vec![171; 3]));
        assert_eq!(text, "Secret(3 bytes, redacted)");
    }
}

//! Keys as WireGuard writes them: 32 bytes in base64.

use std::fmt::{self, Debug, Display};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519::{PublicKey as Point, StaticSecret};

/// The length of each key.
pub const LEN: usize = 32;

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no WireGuard key: {LEN} bytes in base64")]
pub struct NoKey;

fn parse(text: &str) -> Result<[u8; LEN], NoKey> {
    STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(NoKey)
}

/// By which a node is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub(super) [u8; LEN]);

impl FromStr for PublicKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<PublicKey, NoKey> {
        parse(text).map(PublicKey)
    }
}

impl Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl PublicKey {
    /// For the kernel.
    pub fn bytes(self) -> [u8; LEN] {
        self.0
    }

    pub(super) fn point(self) -> Point {
        Point::from(self.0)
    }
}

/// A secret that all nodes share, mixed into each handshake (Noise's psk2). It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Preshared(pub(super) [u8; LEN]);

impl Preshared {
    /// For the kernel.
    pub fn bytes(&self) -> [u8; LEN] {
        self.0
    }
}

impl FromStr for Preshared {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Preshared, NoKey> {
        parse(text).map(Preshared)
    }
}

impl Debug for Preshared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The own pair of keys. The private one is never shown.
#[derive(Clone)]
pub struct Identity {
    pub(super) secret: StaticSecret,
    public: PublicKey,
}

impl Identity {
    /// From the private key's bytes, of which some bits are set as the curve wants them (RFC 7748 section 5).
    pub fn from_bytes(mut bytes: [u8; LEN]) -> Identity {
        bytes[0] &= 0b1111_1000;
        bytes[LEN - 1] = bytes[LEN - 1] & 0b0111_1111 | 0b0100_0000;
        let secret = StaticSecret::from(bytes);
        let public = PublicKey(Point::from(&secret).to_bytes());
        Identity { secret, public }
    }

    /// What others may know.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The private key, for the kernel.
    pub fn private_bytes(&self) -> [u8; LEN] {
        self.secret.to_bytes()
    }

    /// The private key as it stands in a file.
    pub fn private_text(&self) -> String {
        STANDARD.encode(self.secret.to_bytes())
    }
}

impl FromStr for Identity {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Identity, NoKey> {
        parse(text).map(Identity::from_bytes)
    }
}

impl Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 section 6.1, Alice's keys.
    #[test]
    fn keys_are_the_curves_and_read_back() {
        let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        let identity: Identity = private.parse().unwrap();
        assert_eq!(identity.public().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
        assert_eq!(identity.public().to_string().parse(), Ok(identity.public()));
        let again: Identity = identity.private_text().parse().unwrap();
        assert_eq!(again.public(), identity.public());
        assert!(!format!("{identity:?}").contains(&private[..10]), "the private key is not shown");
        for wrong in ["", "dwdt", "not base64 at all", &private[..42], &format!("{private}AAAA")] {
            assert_eq!(wrong.parse::<PublicKey>(), Err(NoKey), "{wrong}");
        }
    }
}

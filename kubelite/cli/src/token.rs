//! The token with which an agent joins: it proves the server to the agent and the agent to the server.
//!
//! `K10<SHA-256 of the CA certificate>::server:<secret>`, the form that k3s uses. The agent fetches the CA certificate without
//! trust, checks it against the token, and from then on trusts it alone.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rand::RngExt;
use ring::digest::{SHA256, digest};

const PREFIX: &str = "K10";
const USER: &str = "::server:";

/// A parsed token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The SHA-256 of the CA certificate's PEM, in hex.
    pub ca_hash: String,
    /// What the agent shows to the server.
    pub secret: String,
}

impl Token {
    /// Reads what the user gave by `--token`.
    pub fn parse(text: &str) -> Result<Token> {
        let parsed = text.trim().strip_prefix(PREFIX).and_then(|rest| rest.split_once(USER));
        match parsed {
            Some((hash, secret)) if hash.len() == 64 && !secret.is_empty() => {
                Ok(Token { ca_hash: hash.to_owned(), secret: secret.to_owned() })
            }
            _ => bail!(
                "this is no token of a kubelite server: copy the whole line of <data-dir>/server/token there"
            ),
        }
    }

    /// The server's token: the one on disk, or `given`, or a new one; written to `<dir>/token`.
    pub fn load_or_create(dir: &Path, ca_pem: &str, given: Option<&str>) -> Result<Token> {
        let path = dir.join("token");
        let known = fs::read_to_string(&path).ok().and_then(|text| Token::parse(&text).ok());
        let secret = match (given, known) {
            (Some(given), _) => given.rsplit(':').next().unwrap_or(given).to_owned(),
            (None, Some(known)) => known.secret,
            (None, None) => random_secret(),
        };
        let token = Token { ca_hash: hash(ca_pem), secret };
        crate::files::write_secret(&path, &format!("{token}\n")).context("cannot keep the token")?;
        Ok(token)
    }

    /// Whether this CA certificate is the one that the token speaks of.
    pub fn vouches_for(&self, ca_pem: &str) -> bool {
        self.ca_hash == hash(ca_pem)
    }

    /// Whether a presented secret is the right one; takes the same time whatever is wrong with it.
    pub fn accepts(&self, secret: &str) -> bool {
        let (a, b) = (digest(&SHA256, secret.as_bytes()), digest(&SHA256, self.secret.as_bytes()));
        a.as_ref().iter().zip(b.as_ref()).fold(0, |differs, (x, y)| differs | (x ^ y)) == 0
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}{USER}{}", self.ca_hash, self.secret)
    }
}

fn hash(ca_pem: &str) -> String {
    digest(&SHA256, ca_pem.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn random_secret() -> String {
    let bytes: [u8; 16] = rand::rng().random();
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_being_written_down() {
        let token = Token { ca_hash: hash("ca"), secret: "s3cret".into() };
        assert_eq!(Token::parse(&format!(" {token}\n")).unwrap(), token);
        assert!(token.vouches_for("ca") && !token.vouches_for("another"));
        assert!(token.accepts("s3cret") && !token.accepts("s3cre") && !token.accepts(""));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in ["", "abc", "K10::server:x", "K10abc::server:secret", "K10::agent:"] {
            assert!(Token::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_servers_token_stays_over_restarts() {
        let dir = std::env::temp_dir().join(format!("kubelite-token-{}", std::process::id()));
        let first = Token::load_or_create(&dir, "ca", None).unwrap();
        assert_eq!(Token::load_or_create(&dir, "ca", None).unwrap(), first);
        let given = Token::load_or_create(&dir, "ca", Some("chosen")).unwrap();
        assert_eq!((given.secret.as_str(), given.ca_hash), ("chosen", first.ca_hash));
        fs::remove_dir_all(&dir).unwrap();
    }
}

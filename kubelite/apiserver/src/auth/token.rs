//! Service-account tokens: JSON Web Tokens signed with ES256 (RFC 7515, 7518, 7519), as Kubernetes' bound tokens.
//!
//! One algorithm, one issuer, one key: whatever else a token's header asks for is refused before a signature is looked
//! at. Pure: the time is an argument. Whether the bound objects still exist is `authn`'s question.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The only accepted signature algorithm.
const ALGORITHM: &str = "ES256";
/// A token that is longer is no token of ours (bytes).
const MAX_TOKEN: usize = 16 * 1024;
/// How far a clock may be ahead of ours (seconds).
const SKEW: i64 = 10;

/// An object that a token is bound to: the token ends with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Its name.
    pub name: String,
    /// Its uid; an object of the same name made later is another one.
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    /// The namespace of service account and pod.
    pub namespace: String,
    /// Whom the token speaks for.
    pub serviceaccount: Bound,
    /// The pod that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Bound>,
    /// The secret that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Bound>,
    /// The pod's node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Bound>,
}

/// What a token says. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom it is meant.
    pub aud: Vec<String>,
    /// From here on it is worth nothing.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// Before this it is worth nothing.
    pub nbf: i64,
    /// Who made it.
    pub iss: String,
    /// Its own name, for audit.
    pub jti: String,
    /// `system:serviceaccount:<namespace>:<name>`.
    pub sub: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub private: Private,
}

/// Why a token is refused. The texts hold nothing of the token itself.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not three base64url parts of JSON.
    #[error("the token is no JSON Web Token")]
    Malformed,
    /// `alg` is not ES256.
    #[error("the token is signed with an algorithm other than {ALGORITHM}")]
    Algorithm,
    /// Signed by another key, or changed.
    #[error("the token's signature does not verify with the cluster's service-account key")]
    Signature,
    /// Another cluster's token.
    #[error("the token was made by another issuer")]
    Issuer,
    /// Made for somebody else.
    #[error("the token is meant for another audience")]
    Audience,
    /// Too late.
    #[error("the token has expired")]
    Expired,
    /// Too early.
    #[error("the token is not valid yet")]
    NotYet,
}

/// The key that signs and verifies, with the issuer's name.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    kid: String,
    issuer: String,
}

impl TokenKey {
    /// Reads a P-256 private key in PKCS#8 (DER). `issuer` is an https URL, by which others find the discovery document.
    pub fn from_pkcs8(der: &[u8], issuer: &str) -> Result<Self, anyhow::Error> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new())
            .map_err(|e| anyhow::anyhow!("the service-account key is no P-256 key in PKCS#8 ({e}): delete the file and a new one is made"))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        Ok(TokenKey { kid: B64.encode(digest.as_ref()), pair, issuer: issuer.to_owned() })
    }

    /// The issuer that stands in every token.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A token that says this.
    pub fn sign(&self, claims: &Claims) -> Result<String, anyhow::Error> {
        let header = json!({"alg": ALGORITHM, "kid": self.kid, "typ": "JWT"});
        let text = format!("{}.{}", B64.encode(header.to_string()), B64.encode(serde_json::to_vec(claims)?));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), text.as_bytes())
            .map_err(|_| anyhow::anyhow!("signing failed: no randomness"))?;
        Ok(format!("{text}.{}", B64.encode(signature.as_ref())))
    }

    /// What the token says, if it is ours, whole, in its time, and meant for one of `audiences`.
    pub fn verify(&self, token: &str, audiences: &[String], now: i64) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (text, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = text.split_once('.').ok_or(TokenError::Malformed)?;
        let header: Value = decode(header)?;
        if header["alg"] != ALGORITHM {
            return Err(TokenError::Algorithm);
        }
        let signature = B64.decode(signature).map_err(|_| TokenError::Malformed)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(text.as_bytes(), &signature)
            .map_err(|_| TokenError::Signature)?;
        check(decode(payload)?, &self.issuer, audiences, now)
    }

    /// The JSON Web Key Set (RFC 7517) by which others verify the tokens.
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 0x04, 32 bytes x, 32 bytes y (SEC 1, 2.3.3).
        let point = self.pair.public_key().as_ref();
        let (x, y) = (point.get(1..33).unwrap_or_default(), point.get(33..65).unwrap_or_default());
        json!({"keys": [{
            "use": "sig", "kty": "EC", "crv": "P-256", "alg": ALGORITHM, "kid": self.kid,
            "x": B64.encode(x), "y": B64.encode(y),
        }]})
    }

    /// The OpenID discovery document; the keys lie at `/openid/v1/jwks` of the issuer.
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
        })
    }
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let bytes = B64.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

fn check(claims: Claims, issuer: &str, audiences: &[String], now: i64) -> Result<Claims, TokenError> {
    if claims.iss != issuer {
        return Err(TokenError::Issuer);
    }
    if now >= claims.exp {
        return Err(TokenError::Expired);
    }
    if now + SKEW < claims.nbf {
        return Err(TokenError::NotYet);
    }
    if !claims.aud.iter().any(|a| audiences.contains(a)) {
        return Err(TokenError::Audience);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISS: &str = "https://kubernetes.default.svc.cluster.local";
    const NOW: i64 = 1_800_000_000;

    fn pkcs8() -> Vec<u8> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .unwrap()
            .as_ref()
            .to_vec()
    }

    fn claims() -> Claims {
        let bound = |name: &str| Bound { name: name.into(), uid: format!("{name}-uid") };
        Claims {
            aud: vec![ISS.into()],
            exp: NOW + 600,
            iat: NOW,
            nbf: NOW,
            iss: ISS.into(),
            jti: "j".into(),
            sub: "system:serviceaccount:ns:sa".into(),
            private: Private {
                namespace: "ns".into(),
                serviceaccount: bound("sa"),
                pod: Some(bound("p")),
                secret: None,
                node: None,
            },
        }
    }

    fn audience() -> Vec<String> {
        vec![ISS.to_owned()]
    }

    #[test]
    fn round_trip() {
        let key = TokenKey::from_pkcs8(&pkcs8(), ISS).unwrap();
        let token = key.sign(&claims()).unwrap();
        assert_eq!(key.verify(&token, &audience(), NOW + 1), Ok(claims()));
    }

    #[test]
    fn claims_out_of_place_are_refused() {
        let key = TokenKey::from_pkcs8(&pkcs8(), ISS).unwrap();
        type Change = fn(&mut Claims);
        let cases: [(Change, TokenError); 5] = [
            (|c| c.iss = "https://other".into(), TokenError::Issuer),
            (|c| c.exp = NOW, TokenError::Expired),
            (|c| c.nbf = NOW + 60, TokenError::NotYet),
            (|c| c.aud = vec!["vault".into()], TokenError::Audience),
            (|c| c.aud.clear(), TokenError::Audience),
        ];
        for (change, expected) in cases {
            let mut changed = claims();
            change(&mut changed);
            let token = key.sign(&changed).unwrap();
            assert_eq!(key.verify(&token, &audience(), NOW), Err(expected));
        }
    }

    #[test]
    fn another_algorithm_never_reaches_the_signature() {
        let key = TokenKey::from_pkcs8(&pkcs8(), ISS).unwrap();
        let payload = B64.encode(serde_json::to_vec(&claims()).unwrap());
        for alg in ["none", "None", "HS256", "RS256", "ES384", ""] {
            let text = format!("{}.{payload}", B64.encode(json!({"alg": alg, "typ": "JWT"}).to_string()));
            // HS256 with the public key as the secret: the classical confusion.
            let hmac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.pair.public_key().as_ref());
            let tag = ring::hmac::sign(&hmac, text.as_bytes());
            for signature in ["".to_owned(), B64.encode(tag.as_ref())] {
                let result = key.verify(&format!("{text}.{signature}"), &audience(), NOW);
                assert_eq!(result, Err(TokenError::Algorithm), "{alg}");
            }
        }
    }

    #[test]
    fn damaged_and_foreign_tokens_are_refused() {
        let key = TokenKey::from_pkcs8(&pkcs8(), ISS).unwrap();
        let other = TokenKey::from_pkcs8(&pkcs8(), ISS).unwrap();
        let token = key.sign(&claims()).unwrap();
        assert_eq!(other.verify(&token, &audience(), NOW), Err(TokenError::Signature));
        let (text, signature) = token.rsplit_once('.').unwrap();
        let header = text.split('.').next().unwrap();
        let mut forged = claims();
        forged.sub = "system:serviceaccount:kube-system:admin".into();
        let forged = B64.encode(serde_json::to_vec(&forged).unwrap());
        let vectors = [
            (format!("{header}.{forged}.{signature}"), TokenError::Signature),
            (format!("{text}."), TokenError::Signature),
            (format!("{text}.{}", B64.encode([0u8; 64])), TokenError::Signature),
            (text.to_owned(), TokenError::Malformed),
            ("a.b.c".to_owned(), TokenError::Malformed),
            ("..".to_owned(), TokenError::Malformed),
            (String::new(), TokenError::Malformed),
            ("x".repeat(MAX_TOKEN + 1), TokenError::Malformed),
        ];
        for (token, expected) in vectors {
            assert_eq!(key.verify(&token, &audience(), NOW), Err(expected));
        }
    }
}

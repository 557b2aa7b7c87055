//! Tokens of service accounts, bound to their pod and renewed while it runs.
//!
//! Nothing is remembered: how old a token is stands in the token itself, which lies in the volume.

use super::atomic::File;
use crate::pod::spec;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde::Deserialize;
use std::path::Path;

/// Lifetime of a token whose volume says nothing, seconds.
const LIFETIME: i64 = 3600;
/// A token is renewed at this part of its life, in percent.
const RENEWAL_PERCENT: i64 = 80;
/// A token is renewed at this age at the latest, seconds.
const MAX_AGE: i64 = 24 * 3600;
/// Mode of a token that only one user or group is to read.
const PRIVATE: u32 = 0o600;

/// The claims of a token that matter here, seconds since the epoch.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
struct Claims {
    iat: i64,
    exp: i64,
}

/// A token's claims, unverified: it came from the API server and is only asked for its age.
fn claims(token: &[u8]) -> Option<Claims> {
    let payload = token.split(|byte| *byte == b'.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// What is to be done with a token that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Good for a while.
    Keep,
    /// Valid, but a new one is due.
    Renew,
    /// Of no use any more.
    Expired,
}

fn verdict(claims: Option<Claims>, now: i64) -> Verdict {
    match claims {
        Some(Claims { iat, exp }) if now < exp => {
            let renewal = (exp.saturating_sub(iat) / 100).saturating_mul(RENEWAL_PERCENT).min(MAX_AGE);
            if now < iat.saturating_add(renewal) { Verdict::Keep } else { Verdict::Renew }
        }
        _ => Verdict::Expired,
    }
}

/// The token for the volume at `volume`: the one that lies there, or a new one when it is time. A valid token stays if the
/// API server gives no new one.
pub(super) async fn token(
    client: &kube::Client,
    pod: &Pod,
    volume: &Path,
    wanted: &ServiceAccountTokenProjection,
) -> Result<Vec<u8>, String> {
    let old = tokio::fs::read(volume.join(&wanted.path)).await.unwrap_or_default();
    let verdict = verdict(claims(&old), Timestamp::now().as_second());
    if verdict == Verdict::Keep {
        return Ok(old);
    }
    match request(client, pod, wanted).await {
        Err(error) if verdict == Verdict::Renew => {
            tracing::warn!(%error, pod = %pod.name_any(), "a token can't be renewed, the old one stays");
            Ok(old)
        }
        other => other,
    }
}

async fn request(
    client: &kube::Client,
    pod: &Pod,
    wanted: &ServiceAccountTokenProjection,
) -> Result<Vec<u8>, String> {
    let namespace = pod.namespace().unwrap_or_default();
    let account = spec::of(pod).service_account_name.clone().filter(|name| !name.is_empty());
    let account = account.unwrap_or_else(|| "default".into());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: wanted.audience.clone().filter(|a| !a.is_empty()).map(|audience| vec![audience]),
            expiration_seconds: Some(wanted.expiration_seconds.unwrap_or(LIFETIME)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name_any()),
                uid: pod.uid(),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &namespace);
    let answer = accounts.create_token_request(&account, &PostParams::default(), &request).await;
    let answer = answer.map_err(|e| format!("failed to fetch token: {e}"))?;
    let token = answer.status.and_then(|status| status.token).filter(|token| !token.is_empty());
    token.map(String::into_bytes).ok_or_else(|| "failed to fetch token: the answer has none".into())
}

/// The token as a file: readable for all, unless the pod has a group or one user that alone need it.
pub(super) fn file(pod: &Pod, data: Vec<u8>, mode: u32) -> File {
    let group = spec::of(pod).security_context.as_ref().and_then(|s| s.fs_group);
    let uid = only_user(pod);
    let private = uid.is_some() || group.is_some();
    File { data, mode: if private { PRIVATE } else { mode }, uid }
}

/// The user that all containers of the pod run as, if it is one.
fn only_user(pod: &Pod) -> Option<u32> {
    let of_pod = spec::of(pod).security_context.as_ref().and_then(|s| s.run_as_user);
    let init = spec::init_containers(pod).map(|(_, container)| container);
    let mut users = init
        .chain(spec::main_containers(pod))
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn when_a_token_is_renewed() {
        let token = |iat: i64, exp: i64| {
            let payload = URL_SAFE_NO_PAD.encode(json!({ "iat": iat, "exp": exp, "sub": "x" }).to_string());
            format!("head.{payload}.signature").into_bytes()
        };
        let cases = [
            (token(0, 1000), 799, Verdict::Keep),
            (token(0, 1000), 800, Verdict::Renew),
            (token(0, 1000), 1000, Verdict::Expired),
            (token(0, 10 * MAX_AGE), MAX_AGE - 1, Verdict::Keep),
            (token(0, 10 * MAX_AGE), MAX_AGE, Verdict::Renew),
            (token(i64::MAX, i64::MAX), 0, Verdict::Keep),
            (b"no token".to_vec(), 0, Verdict::Expired),
            (vec![], 0, Verdict::Expired),
        ];
        for (token, now, expected) in cases {
            assert_eq!(verdict(claims(&token), now), expected, "{now}");
        }
    }

    #[test]
    fn whose_file_it_is() {
        let cases = [
            (json!({ "containers": [{ "name": "a" }] }), (0o644, None)),
            (json!({ "securityContext": { "fsGroup": 5 }, "containers": [{ "name": "a" }] }), (0o600, None)),
            (
                json!({ "securityContext": { "runAsUser": 7 }, "containers": [{ "name": "a" }, { "name": "b" }] }),
                (0o600, Some(7)),
            ),
            (
                json!({ "containers": [{ "name": "a", "securityContext": { "runAsUser": 7 } }, { "name": "b" }] }),
                (0o644, None),
            ),
        ];
        for (spec, expected) in cases {
            let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
            let file = file(&pod, vec![], 0o644);
            assert_eq!((file.mode, file.uid), expected, "{spec}");
        }
    }
}

//! Impersonation (`kubectl --as`): whoever may `impersonate` a user, group, uid or extra, may act as it.
//!
//! Every value of every header is authorised on its own, as upstream; one refusal refuses the request.

use http::HeaderMap;
use kubelite_api::status::ApiError;

use crate::auth::authn::service_account_groups;
use crate::auth::layers::forbidden;
use crate::auth::{Authorizer, Decision};
use crate::request::{RequestInfo, UserInfo};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// Impersonated values of one request, at the most: each costs an authorisation.
const MAX_VALUES: usize = 64;

/// The user that the request acts as: `user` itself if it impersonates nobody. The headers are taken out.
pub fn apply(
    authorizer: &dyn Authorizer,
    user: UserInfo,
    headers: &mut HeaderMap,
) -> Result<UserInfo, ApiError> {
    let wanted = Wanted::read(headers)?;
    headers.remove(USER);
    headers.remove(GROUP);
    headers.remove(UID);
    let extras: Vec<_> = headers.keys().filter(|k| k.as_str().starts_with(EXTRA)).cloned().collect();
    for key in extras {
        headers.remove(key);
    }
    let Some(wanted) = wanted else { return Ok(user) };
    for request in wanted.requests() {
        if let Decision::Deny(reason) = authorizer.authorize(&user, &request) {
            return Err(forbidden(&user, &request, &reason));
        }
    }
    tracing::debug!(user = %user.name, as_user = %wanted.name, "impersonation");
    Ok(wanted.into_user())
}

#[derive(Default)]
struct Wanted {
    name: String,
    groups: Vec<String>,
    uid: String,
    extra: Vec<(String, String)>,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let mut wanted = Wanted::default();
        let (mut any, mut count) = (false, 0);
        for (key, value) in headers {
            let key = key.as_str();
            if !key.starts_with("impersonate-") {
                continue;
            }
            (any, count) = (true, count + 1);
            let value =
                value.to_str().map_err(|_| ApiError::bad_request(format!("header {key} is no text")))?;
            match key {
                USER => value.clone_into(&mut wanted.name),
                GROUP => wanted.groups.push(value.to_owned()),
                UID => value.clone_into(&mut wanted.uid),
                _ => match key.strip_prefix(EXTRA) {
                    Some(extra) => wanted.extra.push((unescape(extra), value.to_owned())),
                    None => return Err(ApiError::bad_request(format!("unknown impersonation header {key}"))),
                },
            }
        }
        if any && wanted.name.is_empty() {
            return Err(ApiError::bad_request(
                "impersonation headers without Impersonate-User: name the user",
            ));
        }
        if count > MAX_VALUES {
            return Err(ApiError::bad_request(format!("more than {MAX_VALUES} impersonation headers")));
        }
        Ok(any.then_some(wanted))
    }

    /// What must be allowed for it.
    fn requests(&self) -> Vec<RequestInfo> {
        let mut all = vec![match service_account(&self.name) {
            Some((namespace, name)) => request("", "serviceaccounts", "", namespace, name),
            None => request("", "users", "", "", &self.name),
        }];
        all.extend(self.groups.iter().map(|group| request("", "groups", "", "", group)));
        if !self.uid.is_empty() {
            all.push(request("authentication.k8s.io", "uids", "", "", &self.uid));
        }
        all.extend(self.extra.iter().map(|(k, v)| request("authentication.k8s.io", "userextras", k, "", v)));
        all
    }

    fn into_user(self) -> UserInfo {
        let mut groups = self.groups;
        if let (true, Some((namespace, _))) = (groups.is_empty(), service_account(&self.name)) {
            groups = service_account_groups(namespace);
        }
        let own =
            if self.name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
        if !groups.iter().any(|g| g == own) {
            groups.push(own.to_owned());
        }
        let mut extra: Vec<(String, Vec<String>)> = Vec::new();
        for (key, value) in self.extra {
            match extra.iter_mut().find(|(k, _)| *k == key) {
                Some((_, values)) => values.push(value),
                None => extra.push((key, vec![value])),
            }
        }
        UserInfo { name: self.name, uid: self.uid, groups, extra }
    }
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("system:serviceaccount:")?.split_once(':')
}

fn request(group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    }
}

/// Keys of extras may hold `/` and others, percent-encoded in the header's name; what is no valid encoding stays.
fn unescape(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'%')
            .then(|| tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| key.to_owned())
}

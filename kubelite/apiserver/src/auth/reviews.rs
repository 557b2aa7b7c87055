//! Objects that are asked and never stored: token and access reviews, rule reviews, `kubectl auth whoami`, tokens.

use std::sync::Arc;

use async_trait::async_trait;
use kubelite_api::status::ApiError;
use serde_json::{Map, Value, json};

use crate::auth::authn::Credentials;
use crate::auth::chain::Chain;
use crate::auth::node::node_name;
use crate::auth::rbac::array;
use crate::auth::token::TokenKey;
use crate::auth::{Authorizer, Decision, Objects, Virtual, token_request};
use crate::request::{RequestInfo, UserInfo};

/// Answers reviews.
pub struct Reviews {
    /// The cache.
    pub objects: Arc<dyn Objects>,
    /// Who may do what.
    pub authorizer: Arc<Chain>,
    /// Whose token is whose.
    pub credentials: Arc<Credentials>,
    /// Signs tokens.
    pub key: Arc<TokenKey>,
}

#[async_trait]
impl Virtual for Reviews {
    fn handles(&self, request: &RequestInfo) -> bool {
        matches!(
            (request.group.as_str(), request.resource.as_str(), request.subresource.as_str()),
            ("", "serviceaccounts", "token")
                | ("authentication.k8s.io", "tokenreviews" | "selfsubjectreviews", "")
                | (
                    "authorization.k8s.io",
                    "subjectaccessreviews"
                        | "selfsubjectaccessreviews"
                        | "localsubjectaccessreviews"
                        | "selfsubjectrulesreviews",
                    ""
                )
        )
    }

    async fn create(
        &self,
        user: &UserInfo,
        request: &RequestInfo,
        mut object: Value,
    ) -> Result<Value, ApiError> {
        let shaped = |field: &str| object[field].is_object() || object[field].is_null();
        if !object.is_object() || !shaped("metadata") || !shaped("spec") {
            return Err(ApiError::bad_request("the body is no object with metadata and spec"));
        }
        let now = jiff::Timestamp::now().as_second();
        if request.resource == "serviceaccounts" {
            let objects = self.objects.as_ref();
            return token_request::create(objects, &self.key, user, request, object, now);
        }
        let spec = &object["spec"];
        let status = match request.resource.as_str() {
            "tokenreviews" => self.token_review(spec, now)?,
            "selfsubjectreviews" => json!({"userInfo": user_value(user)}),
            "selfsubjectrulesreviews" => self.rules_review(user, spec)?,
            "selfsubjectaccessreviews" => self.access_review(user, spec)?,
            "localsubjectaccessreviews" => {
                if spec["resourceAttributes"]["namespace"] != request.namespace.as_str() {
                    return Err(ApiError::bad_request(format!(
                        "spec.resourceAttributes.namespace must be {}, the namespace of the request",
                        request.namespace
                    )));
                }
                self.access_review(&spec_user(spec)?, spec)?
            }
            _ => self.access_review(&spec_user(spec)?, spec)?,
        };
        object["status"] = status;
        Ok(object)
    }
}

impl Reviews {
    fn token_review(&self, spec: &Value, now: i64) -> Result<Value, ApiError> {
        let token = spec["token"].as_str().filter(|t| !t.is_empty());
        let token = token
            .ok_or_else(|| ApiError::bad_request("token is required for TokenReview in authentication"))?;
        let mut audiences: Vec<String> =
            array(&spec["audiences"]).iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
        if audiences.is_empty() {
            audiences = self.credentials.audiences().to_vec();
        }
        Ok(match self.credentials.token_user(token, &audiences, now) {
            Ok((user, meant)) => {
                json!({"authenticated": true, "user": user_value(&user), "audiences": meant})
            }
            Err(error) => json!({"authenticated": false, "user": {}, "error": error}),
        })
    }

    fn access_review(&self, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
        let request = asked(spec)?;
        Ok(match self.authorizer.authorize(user, &request) {
            Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
            Decision::Deny(reason) if reason.is_empty() => json!({"allowed": false}),
            Decision::Deny(reason) => json!({"allowed": false, "reason": reason}),
        })
    }

    fn rules_review(&self, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
        let namespace = spec["namespace"].as_str().filter(|n| !n.is_empty());
        let namespace = namespace.ok_or_else(|| ApiError::bad_request("no namespace on request"))?;
        let rules = self.authorizer.rbac().rules(user, namespace);
        let (paths, resources): (Vec<Value>, Vec<Value>) =
            rules.into_iter().partition(|r| !array(&r["nonResourceURLs"]).is_empty());
        let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
        if node_name(user).is_some() {
            status["incomplete"] = json!(true);
            status["evaluationError"] = json!("node authorizer does not support user rule resolution");
        }
        Ok(status)
    }
}

/// The question of an access review, as a request.
fn asked(spec: &Value) -> Result<RequestInfo, ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
    match (resource.is_object(), path.is_object()) {
        (true, false) => Ok(RequestInfo {
            is_resource: true,
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            version: text(resource, "version"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            path: String::new(),
        }),
        (false, true) => {
            Ok(RequestInfo { verb: text(path, "verb"), path: text(path, "path"), ..RequestInfo::default() })
        }
        _ => Err(ApiError::bad_request(
            "exactly one of spec.resourceAttributes and spec.nonResourceAttributes must be specified",
        )),
    }
}

/// The user that an access review asks about.
fn spec_user(spec: &Value) -> Result<UserInfo, ApiError> {
    let name = spec["user"].as_str().unwrap_or_default().to_owned();
    let groups: Vec<String> =
        array(&spec["groups"]).iter().filter_map(|g| g.as_str().map(str::to_owned)).collect();
    if name.is_empty() && groups.is_empty() {
        return Err(ApiError::bad_request("at least one of spec.user and spec.groups must be specified"));
    }
    Ok(UserInfo { name, groups, uid: spec["uid"].as_str().unwrap_or_default().to_owned(), extra: Vec::new() })
}

fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        value["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        let extra: Map<String, Value> = user.extra.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        value["extra"] = Value::Object(extra);
    }
    value
}

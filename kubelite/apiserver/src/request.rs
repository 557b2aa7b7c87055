//! What a request is about and who asks: the two values that every layer shares.
//!
//! The HTTP front fills [`RequestInfo`] from method, path and query; the authentication layer fills [`UserInfo`]. Both
//! travel in the request's extensions. Authorisation, admission and the verbs read them and nothing else.

/// Who asks. The names are those of Kubernetes' `user.Info`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserInfo {
    /// E.g. `system:node:node1` or `system:serviceaccount:kube-system:default`.
    pub name: String,
    /// The uid, where the source of the identity has one.
    pub uid: String,
    /// E.g. `system:masters`, `system:authenticated`.
    pub groups: Vec<String>,
    /// Further facts (`authentication.kubernetes.io/pod-name` …).
    pub extra: Vec<(String, Vec<String>)>,
}

impl UserInfo {
    /// An authenticated user with these groups; `system:authenticated` is added.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut all: Vec<String> = groups.iter().map(ToString::to_string).collect();
        all.push("system:authenticated".to_owned());
        UserInfo { name: name.to_owned(), groups: all, ..UserInfo::default() }
    }

    /// Nobody: what a request without credentials is.
    pub fn anonymous() -> Self {
        UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..UserInfo::default()
        }
    }
}

/// What a request is about, as Kubernetes' authorizers see it (`RequestInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestInfo {
    /// False for paths outside `/api` and `/apis` (`/healthz`, `/version`, discovery).
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the lower-case method for other paths.
    pub verb: String,
    /// `""` is the core group.
    pub group: String,
    /// E.g. `v1`.
    pub version: String,
    /// The plural, e.g. `pods`.
    pub resource: String,
    /// E.g. `status`, `log`; empty if none.
    pub subresource: String,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// The path without query.
    pub path: String,
}

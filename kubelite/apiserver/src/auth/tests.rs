//! The table of decisions: who may do what with the bootstrap policy and a few roles.

use serde_json::{Value, json};

use crate::auth::authn::Credentials;
use crate::auth::chain::Chain;
use crate::auth::layers::forbidden;
use crate::auth::rbac::covers;
use crate::auth::reviews::Reviews;
use crate::auth::testing::{Memory, object};
use crate::auth::token::TokenKey;
use crate::auth::{Authenticator, Authorizer, Objects, Virtual, impersonate};
use crate::request::{RequestInfo, UserInfo};
use std::sync::Arc;

fn binding(namespace: &str, role_kind: &str, role: &str, subject: &Value) -> Value {
    let fields = json!({"roleRef": {"kind": role_kind, "name": role}, "subjects": [subject]});
    object(namespace, &format!("bind-{role}"), fields)
}

fn world() -> Memory {
    let user = |name: &str| json!({"kind": "User", "name": name});
    let rules = json!([
        {"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"]},
        {"verbs": ["update"], "apiGroups": ["apps"], "resources": ["*/scale"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]},
        {"verbs": ["*"], "apiGroups": ["x.io"], "resources": ["*"]},
    ]);
    let crd_role = json!({"rules": [{"verbs": ["get"], "apiGroups": ["c.io"], "resources": ["cs"]}]});
    let mut crd_role = object("", "crd-viewer", crd_role);
    crd_role["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    let pod = json!({"spec": {
        "nodeName": "n1", "serviceAccountName": "app",
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [
            {"name": "a", "secret": {"secretName": "vol"}},
            {"name": "b", "projected": {"sources": [{"configMap": {"name": "proj"}}]}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
        ],
        "containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}],
                        "envFrom": [{"configMapRef": {"name": "whole"}}]}],
    }});
    Memory::with_policy()
        .and("clusterroles", crd_role)
        .and("roles", object("t1", "odd", json!({"rules": rules})))
        .and("rolebindings", binding("t1", "ClusterRole", "edit", &user("alice")))
        .and("rolebindings", binding("t1", "ClusterRole", "view", &user("bob")))
        .and(
            "rolebindings",
            binding("t1", "ClusterRole", "admin", &json!({"kind": "Group", "name": "leads"})),
        )
        .and("rolebindings", binding("t1", "Role", "odd", &json!({"kind": "ServiceAccount", "name": "sa"})))
        .and("rolebindings", binding("t1", "Role", "missing", &user("bob")))
        .and("serviceaccounts", object("t1", "app", json!({})))
        .and("persistentvolumeclaims", object("t1", "claim", json!({"spec": {"volumeName": "pv1"}})))
        .and("nodes", object("", "n1", json!({})))
        .and("pods", object("t1", "p1", pod))
        .and(
            "pods",
            object(
                "t1",
                "p2",
                json!({"spec": {"nodeName": "n2", "serviceAccountName": "other",
            "volumes": [{"name": "a", "secret": {"secretName": "theirs"}}]}}),
            ),
        )
}

fn user(name: &str) -> UserInfo {
    match name {
        "anonymous" => UserInfo::anonymous(),
        "root" => UserInfo::new("root", &["system:masters"]),
        "n1" => UserInfo::new("system:node:n1", &["system:nodes"]),
        "false-node" => UserInfo::new("system:node:n1", &[]),
        "sa" => UserInfo::new("system:serviceaccount:t1:sa", &["system:serviceaccounts"]),
        "lead" => UserInfo::new("lead", &["leads"]),
        "scheduler" => UserInfo::new("system:kube-scheduler", &[]),
        "controllers" => UserInfo::new("system:kube-controller-manager", &[]),
        name => UserInfo::new(name, &[]),
    }
}

/// `group/resource[/subresource]@namespace:name`, or a path that begins with `/`.
fn request(verb: &str, what: &str) -> RequestInfo {
    if what.starts_with('/') {
        return RequestInfo { verb: verb.into(), path: what.into(), ..RequestInfo::default() };
    }
    let (what, place) = what.split_once('@').unwrap_or((what, ""));
    let (namespace, name) = place.split_once(':').unwrap_or((place, ""));
    let mut parts = what.split('/');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (group, resource, subresource) = (next(), next(), next());
    let group = if group == "core" { String::new() } else { group };
    RequestInfo {
        is_resource: true,
        verb: verb.into(),
        group,
        version: "v1".into(),
        resource,
        subresource,
        namespace: namespace.into(),
        name: name.into(),
        path: String::new(),
    }
}

const TABLE: &[(&str, &str, &str, bool)] = &[
    ("root", "delete", "core/nodes@:n1", true),
    ("root", "get", "/metrics", true),
    ("anonymous", "get", "/healthz", true),
    ("anonymous", "get", "/livez", true),
    ("anonymous", "get", "/readyz", true),
    ("anonymous", "get", "/version", true),
    ("anonymous", "post", "/version", false),
    ("anonymous", "get", "/api", false),
    ("anonymous", "get", "/apis/apps/v1", false),
    ("anonymous", "get", "/openapi/v2", false),
    ("anonymous", "get", "/metrics", false),
    ("anonymous", "list", "core/pods@t1", false),
    ("anonymous", "create", "authorization.k8s.io/selfsubjectaccessreviews", false),
    ("nobody", "get", "/api", true),
    ("nobody", "get", "/apis/apps/v1", true),
    ("nobody", "get", "/openapi/v3", true),
    ("nobody", "get", "/metrics", false),
    ("nobody", "create", "authorization.k8s.io/selfsubjectaccessreviews", true),
    ("nobody", "create", "authorization.k8s.io/subjectaccessreviews", false),
    ("nobody", "list", "core/pods@t1", false),
    ("nobody", "get", "/openid/v1/jwks", false),
    ("sa", "get", "/openid/v1/jwks", true),
    ("alice", "create", "core/pods@t1", true),
    ("alice", "create", "core/pods/exec@t1:p1", true),
    ("alice", "create", "core/pods@t2", false),
    ("alice", "list", "core/pods", false),
    ("alice", "get", "core/secrets@t1:s", true),
    ("alice", "get", "core/pods/log@t1:p1", true),
    ("alice", "create", "rbac.authorization.k8s.io/rolebindings@t1", false),
    ("alice", "delete", "core/namespaces@t1:t1", false),
    ("bob", "list", "core/pods@t1", true),
    ("bob", "get", "core/secrets@t1:s", false),
    ("bob", "delete", "core/pods@t1:p1", false),
    ("bob", "get", "core/pods/exec@t1:p1", false),
    ("bob", "get", "c.io/cs@t1:x", true),
    ("alice", "get", "c.io/cs@t1:x", true),
    ("lead", "get", "c.io/cs@t1:x", true),
    ("lead", "create", "rbac.authorization.k8s.io/rolebindings@t1", true),
    ("lead", "list", "core/nodes", false),
    ("sa", "get", "core/configmaps@t1:one", true),
    ("sa", "get", "core/configmaps@t1:two", false),
    ("sa", "list", "core/configmaps@t1", false),
    ("sa", "get", "core/configmaps@t2:one", false),
    ("sa", "update", "apps/deployments/scale@t1:d", true),
    ("sa", "update", "apps/deployments@t1:d", false),
    ("sa", "get", "core/pods/log@t1:p1", true),
    ("sa", "get", "core/pods@t1:p1", false),
    ("sa", "frobnicate", "x.io/things/status@t1:t", true),
    ("n1", "get", "core/secrets@t1:vol", true),
    ("n1", "get", "core/secrets@t1:pull", true),
    ("n1", "get", "core/secrets@t1:env", true),
    ("n1", "get", "core/secrets@t1:theirs", false),
    ("n1", "get", "core/secrets@t2:vol", false),
    ("n1", "list", "core/secrets@t1", false),
    ("n1", "update", "core/secrets@t1:vol", false),
    ("n1", "watch", "core/configmaps@t1:proj", true),
    ("n1", "get", "core/configmaps@t1:whole", true),
    ("n1", "get", "core/configmaps@t1:vol", false),
    ("n1", "get", "core/persistentvolumeclaims@t1:claim", true),
    ("n1", "get", "core/persistentvolumes@:pv1", true),
    ("n1", "get", "core/persistentvolumes@:pv2", false),
    ("n1", "create", "core/serviceaccounts/token@t1:app", true),
    ("n1", "create", "core/serviceaccounts/token@t1:other", false),
    ("n1", "get", "core/pods@t1:p1", true),
    ("n1", "get", "core/pods@t1:p2", false),
    ("n1", "patch", "core/nodes/status@:n1", true),
    ("n1", "delete", "core/nodes@:n2", false),
    ("n1", "update", "coordination.k8s.io/leases@kube-node-lease:n1", true),
    ("n1", "update", "coordination.k8s.io/leases@kube-node-lease:n2", false),
    ("n1", "update", "coordination.k8s.io/leases@kube-system:n1", false),
    ("n1", "create", "rbac.authorization.k8s.io/clusterrolebindings", false),
    ("n1", "create", "core/pods/exec@t1:p1", false),
    ("false-node", "get", "core/secrets@t1:vol", false),
    ("scheduler", "create", "core/pods/binding@t1:p1", true),
    ("scheduler", "create", "core/pods@t1", false),
    ("controllers", "create", "core/pods@t1", true),
    ("controllers", "delete", "x.io/things@t1:t", true),
    ("controllers", "create", "rbac.authorization.k8s.io/clusterrolebindings", false),
    ("alice", "impersonate", "core/users@:root", false),
    ("alice", "impersonate", "core/serviceaccounts@t1:sa", true),
];

#[test]
fn table_of_decisions() {
    let chain = Chain::new(world().shared());
    for (who, verb, what, expected) in TABLE {
        let decision = chain.authorize(&user(who), &request(verb, what));
        assert_eq!(decision.allowed(), *expected, "{who} {verb} {what}: {decision:?}");
    }
}

#[test]
fn refusals_in_upstreams_words() {
    let nobody = user("x");
    let text = |verb, what| forbidden(&nobody, &request(verb, what), "").message;
    assert_eq!(
        text("list", "core/pods@y"),
        "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"y\""
    );
    assert_eq!(
        text("get", "apps/deployments/scale@y:d"),
        "deployments.apps \"d\" is forbidden: User \"x\" cannot get resource \"deployments/scale\" in API group \
         \"apps\" in the namespace \"y\""
    );
    assert_eq!(
        text("list", "core/nodes"),
        "nodes is forbidden: User \"x\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"
    );
    assert_eq!(text("get", "/metrics"), "forbidden: User \"x\" cannot get path \"/metrics\"");
}

#[test]
fn a_rule_is_covered_by_rules_that_together_allow_all_of_it() {
    let rule =
        |verbs: Value, resources: Value| json!({"verbs": verbs, "apiGroups": [""], "resources": resources});
    let own = [rule(json!(["get", "list"]), json!(["pods"])), rule(json!(["get"]), json!(["secrets"]))];
    assert!(covers(&own, &rule(json!(["get"]), json!(["pods", "secrets"]))));
    assert!(!covers(&own, &rule(json!(["list"]), json!(["pods", "secrets"]))));
    assert!(!covers(&own, &rule(json!(["*"]), json!(["pods"]))));
    assert!(!covers(&own, &rule(json!(["get"]), json!(["pods/log"]))));
    assert!(!covers(&own, &rule(json!(["get"]), json!(["*"]))));
    let named =
        json!({"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"]});
    assert!(covers(std::slice::from_ref(&named), &named));
    assert!(!covers(std::slice::from_ref(&named), &rule(json!(["get"]), json!(["configmaps"]))));
    let paths = |p: &str| json!({"verbs": ["get"], "nonResourceURLs": [p]});
    assert!(covers(&[paths("/a/*")], &paths("/a/b/*")) && !covers(&[paths("/a/b")], &paths("/a/*")));
}

#[test]
fn impersonation_needs_the_verb_for_every_value() {
    let chain = Chain::new(world().shared());
    let act = |who: &str, headers: &[(&'static str, &str)]| {
        let mut map = http::HeaderMap::new();
        for (k, v) in headers {
            map.append(*k, v.parse().unwrap());
        }
        impersonate::apply(&chain, user(who), &mut map).map(|user| (user, map.is_empty()))
    };
    let (bob, clean) = act("root", &[("impersonate-user", "bob"), ("impersonate-group", "g")]).unwrap();
    assert_eq!((bob.name.as_str(), clean), ("bob", true));
    assert_eq!(bob.groups, ["g", "system:authenticated"]);
    let (sa, _) = act("alice", &[("impersonate-user", "system:serviceaccount:t1:sa")]).unwrap();
    assert_eq!(sa.groups.first().map(String::as_str), Some("system:serviceaccounts"));
    let code = |result: Result<_, kubelite_api::status::ApiError>| {
        result.map(|_: (UserInfo, bool)| ()).unwrap_err().code
    };
    assert_eq!(code(act("alice", &[("impersonate-user", "bob")])), 403);
    let raise =
        [("impersonate-user", "system:serviceaccount:t1:sa"), ("impersonate-group", "system:masters")];
    assert_eq!(code(act("alice", &raise)), 403);
    assert_eq!(code(act("root", &[("impersonate-group", "g")])), 400);
    assert_eq!(act("bob", &[]).unwrap().0, user("bob"));
}

fn reviews(objects: Arc<dyn Objects>) -> Reviews {
    let pkcs8 = ring::signature::EcdsaKeyPair::generate_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &ring::rand::SystemRandom::new(),
    );
    let key = Arc::new(TokenKey::from_pkcs8(pkcs8.unwrap().as_ref(), "https://iss").unwrap());
    Reviews {
        authorizer: Arc::new(Chain::new(objects.clone())),
        credentials: Arc::new(Credentials::new(objects.clone(), key.clone())),
        objects,
        key,
    }
}

#[tokio::test]
async fn a_token_lives_as_long_as_what_it_is_bound_to() {
    let of_pod = json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": "p1", "uid": "p1-uid"}}});
    let reviews_then = reviews(world().shared());
    let ask = request("create", "core/serviceaccounts/token@t1:app");
    let made = reviews_then.create(&user("n1"), &ask, of_pod.clone()).await.unwrap();
    let token = made["status"]["token"].as_str().unwrap();
    let as_bearer = |credentials: &Credentials, token: &str| {
        let request =
            http::Request::get("/").header("authorization", format!("Bearer {token}")).body(()).unwrap();
        credentials.authenticate(&request.into_parts().0)
    };
    let who = as_bearer(&reviews_then.credentials, token).unwrap();
    assert_eq!(who.name, "system:serviceaccount:t1:app");
    assert!(who.extra.iter().any(|(k, v)| k == "authentication.kubernetes.io/node-name" && v == &["n1"]));
    // The same key, but pod, then account, made anew under the same name.
    let changed = |resource: &str, name: &str| {
        let mut fresh = object("t1", name, json!({}));
        fresh["metadata"]["uid"] = json!("another");
        let base =
            Memory::default().and(resource, fresh).and("serviceaccounts", object("t1", "app", json!({})));
        Credentials::new(base.shared(), reviews_then.key.clone())
    };
    assert!(as_bearer(&changed("pods", "p1"), token).is_err());
    assert!(as_bearer(&changed("serviceaccounts", "app"), token).is_err());
    assert_eq!(as_bearer(&reviews_then.credentials, "x.y.z").unwrap_err().code, 401);
    let review = reviews_then
        .create(
            &user("root"),
            &request("create", "authentication.k8s.io/tokenreviews"),
            json!({"spec": {"token": token}}),
        )
        .await
        .unwrap();
    assert_eq!(review["status"]["authenticated"], true);
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:t1:app");
}

#[tokio::test]
async fn nodes_get_tokens_for_their_own_pods_only() {
    let reviews = reviews(world().shared());
    let ask = |name: &str, body: Value| {
        let request = request("create", &format!("core/serviceaccounts/token@t1:{name}"));
        let reviews = &reviews;
        async move { reviews.create(&user("n1"), &request, body).await.map_err(|e| e.code) }
    };
    let bound = |pod: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": pod, "uid": format!("{pod}-uid")}}});
    assert!(ask("app", bound("p1")).await.is_ok());
    assert_eq!(ask("app", json!({"spec": {}})).await.unwrap_err(), 403);
    assert_eq!(ask("app", bound("p2")).await.unwrap_err(), 403);
    assert_eq!(ask("nosuch", bound("p1")).await.unwrap_err(), 404);
    let mut short = bound("p1");
    short["spec"]["expirationSeconds"] = json!(599);
    assert_eq!(ask("app", short).await.unwrap_err(), 422);
    let mut old = bound("p1");
    old["spec"]["boundObjectRef"]["uid"] = json!("other");
    assert_eq!(ask("app", old).await.unwrap_err(), 409);
}

#[tokio::test]
async fn can_i() {
    let reviews = reviews(world().shared());
    let ask = |who: &'static str, verb: &str, resource: &str| {
        let body =
            json!({"spec": {"resourceAttributes": {"verb": verb, "resource": resource, "namespace": "t1"}}});
        let reviews = &reviews;
        async move {
            let request = request("create", "authorization.k8s.io/selfsubjectaccessreviews");
            reviews.create(&user(who), &request, body).await.unwrap()["status"]["allowed"].clone()
        }
    };
    assert_eq!(ask("bob", "list", "pods").await, true);
    assert_eq!(ask("bob", "delete", "pods").await, false);
    assert_eq!(ask("bob", "*", "*").await, false);
    assert_eq!(ask("root", "*", "*").await, true);
}

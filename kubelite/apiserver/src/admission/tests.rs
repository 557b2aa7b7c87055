use serde_json::json;

use super::*;
use crate::auth::testing::{Memory, object};

fn request(group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: "create".into(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        path: String::new(),
    }
}

fn world() -> Arc<dyn Objects> {
    let mut going = object("", "going", json!({"status": {"phase": "Terminating"}}));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "User", "name": "lead"}]});
    let mut fast = object("", "fast", json!({}));
    fast["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let mut strict = object("", "strict", json!({"status": {"phase": "Active"}}));
    strict["metadata"]["labels"] = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.37"});
    let boxed = json!({"overhead": {"podFixed": {"memory": "64Mi"}}, "scheduling": {"nodeSelector": {"boxes": "yes"}}});
    Memory::with_policy()
        .and("storageclasses", fast)
        .and("runtimeclasses", object("", "boxed", boxed))
        .and("namespaces", object("", "ns", json!({"status": {"phase": "Active"}})))
        .and("namespaces", going)
        .and("namespaces", strict)
        .and("serviceaccounts", object("strict", "default", json!({})))
        .and("serviceaccounts", object("ns", "default", json!({"imagePullSecrets": [{"name": "pull"}]})))
        .and("serviceaccounts", object("ns", "quiet", json!({"automountServiceAccountToken": false})))
        .and("pods", object("ns", "mine", json!({"spec": {"nodeName": "n1"}})))
        .and("pods", object("ns", "theirs", json!({"spec": {"nodeName": "n2"}})))
        .and("rolebindings", object("ns", "leads", binding))
        .shared()
}

/// One write.
struct Case<'a> {
    user: UserInfo,
    request: RequestInfo,
    operation: Operation,
    old: Option<&'a Value>,
}

async fn run(case: Case<'_>, object: &mut Value) -> Result<(), ApiError> {
    let objects = world();
    let authorizer = Arc::new(Chain::new(objects.clone()));
    let attributes = Attributes {
        user: &case.user,
        request: &case.request,
        operation: case.operation,
        old: case.old,
        dry_run: false,
    };
    for check in chain(&objects, &authorizer) {
        check.admit(&attributes, object).await?;
    }
    Ok(())
}

async fn create(user: &UserInfo, request: RequestInfo, object: &mut Value) -> Result<(), ApiError> {
    run(Case { user: user.clone(), request, operation: Operation::Create, old: None }, object).await
}

fn root() -> UserInfo {
    UserInfo::new("root", &["system:masters"])
}

fn node() -> UserInfo {
    UserInfo::new("system:node:n1", &["system:nodes"])
}

fn pod() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}})
}

#[tokio::test]
async fn nothing_is_made_in_a_namespace_that_is_missing_or_going() {
    let mut object = json!({"metadata": {"name": "c"}});
    let ask = |namespace: &str| request("", "configmaps", "", namespace, "");
    assert!(create(&root(), ask("ns"), &mut object).await.is_ok());
    let missing = create(&root(), ask("nosuch"), &mut object).await.unwrap_err();
    assert_eq!((missing.code, missing.message.as_str()), (404, "namespaces \"nosuch\" not found"));
    let going = create(&root(), ask("going"), &mut object).await.unwrap_err();
    assert_eq!(
        going.message,
        "configmaps \"c\" is forbidden: unable to create new content in namespace going because it is being terminated"
    );
    assert_eq!(going.details["causes"][0]["reason"], "NamespaceTerminating");
    let delete = |name: &str| Case {
        user: root(),
        request: request("", "namespaces", "", name, name),
        operation: Operation::Delete,
        old: None,
    };
    assert_eq!(run(delete("kube-system"), &mut Value::Null).await.unwrap_err().code, 403);
    assert!(run(delete("ns"), &mut Value::Null).await.is_ok());
}

#[tokio::test]
async fn a_pod_gets_account_token_priority_and_tolerations() {
    let mut pod = pod();
    create(&root(), request("", "pods", "", "ns", ""), &mut pod).await.unwrap();
    let spec = &pod["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["serviceAccount"], "default");
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
    let name = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(name.starts_with("kube-api-access-") && name.len() == "kube-api-access-".len() + 5);
    let sources = &spec["volumes"][0]["projected"]["sources"];
    assert_eq!(sources[0]["serviceAccountToken"], json!({"expirationSeconds": 3607, "path": "token"}));
    assert_eq!(sources[1]["configMap"]["name"], "kube-root-ca.crt");
    for container in [&spec["containers"][0], &spec["containers"][1], &spec["initContainers"][0]] {
        let mount = json!({"name": name, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
        assert_eq!(container["volumeMounts"], json!([mount]));
    }
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(spec["tolerations"][1]["tolerationSeconds"], 300);
}

#[tokio::test]
async fn a_namespace_says_what_its_pods_may_ask_of_the_node() {
    let mut bad = pod();
    bad["spec"]["hostNetwork"] = json!(true);
    let refused = create(&root(), request("", "pods", "", "strict", ""), &mut bad.clone()).await.unwrap_err();
    let why = r#"violates PodSecurity "baseline:v1.37": host namespaces (hostNetwork=true)"#;
    assert_eq!((refused.code, refused.message), (403, format!("pods \"p\" is forbidden: {why}")));
    assert!(create(&root(), request("", "pods", "", "ns", ""), &mut bad).await.is_ok());
    assert!(create(&root(), request("", "pods", "", "strict", ""), &mut pod()).await.is_ok());
    let change = |new: &Value, old: &Value| {
        let (mut new, old) = (new.clone(), old.clone());
        async move {
            let case = Case {
                user: root(),
                request: request("", "pods", "", "strict", "p"),
                operation: Operation::Update,
                old: Some(&old),
            };
            run(case, &mut new).await
        }
    };
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(change(&labelled, &bad).await.is_ok(), "it was there before");
    assert!(change(&bad, &pod()).await.is_err());
    let namespace = |labels: Value| async move {
        let mut object = json!({"metadata": {"name": "new", "labels": labels}});
        create(&root(), request("", "namespaces", "", "new", ""), &mut object).await
    };
    let ok = json!({"pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/warn-version": "latest"});
    assert!(namespace(ok).await.is_ok());
    for (labels, wanted) in [
        (
            json!({"pod-security.kubernetes.io/enforce": "strict"}),
            "must be one of privileged, baseline, restricted",
        ),
        (json!({"pod-security.kubernetes.io/audit-version": "1.20"}), "must be \"latest\" or \"v1.x\""),
    ] {
        let refused = namespace(labels).await.unwrap_err();
        assert_eq!(refused.code, 422);
        assert!(refused.message.contains(wanted), "{refused}");
    }
}

#[tokio::test]
async fn what_the_pod_says_itself_is_kept() {
    let mut pod = pod();
    pod["spec"]["serviceAccountName"] = json!("quiet");
    pod["spec"]["priorityClassName"] = json!("system-node-critical");
    pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    create(&root(), request("", "pods", "", "ns", ""), &mut pod).await.unwrap();
    assert!(pod["spec"]["volumes"].is_null());
    assert_eq!(pod["spec"]["priority"], 2_000_001_000);
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn pods_that_cannot_be() {
    let ask = || request("", "pods", "", "ns", "");
    let mut no_account = pod();
    no_account["spec"]["serviceAccountName"] = json!("ghost");
    assert_eq!(
        create(&root(), ask(), &mut no_account).await.unwrap_err().message,
        "pods \"p\" is forbidden: error looking up service account ns/ghost: serviceaccount \"ghost\" not found"
    );
    let mut no_class = pod();
    no_class["spec"]["priorityClassName"] = json!("ghost");
    let error = create(&root(), ask(), &mut no_class).await.unwrap_err();
    assert_eq!(error.message, "pods \"p\" is forbidden: no PriorityClass with name ghost was found");
    let mut own_number = pod();
    own_number["spec"]["priority"] = json!(7);
    assert_eq!(create(&root(), ask(), &mut own_number).await.unwrap_err().code, 403);
}

fn mirror() -> Value {
    json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "h"}},
           "spec": {"nodeName": "n1", "containers": [{"name": "a"}]}})
}

#[tokio::test]
async fn a_node_makes_only_its_own_mirror_pods() {
    let ask = || request("", "pods", "", "ns", "");
    assert!(create(&node(), ask(), &mut mirror()).await.is_ok());
    let edits: [fn(&mut Value); 6] = [
        |p| p["metadata"]["annotations"] = json!({}),
        |p| p["spec"]["nodeName"] = json!("n2"),
        |p| p["spec"]["serviceAccountName"] = json!("default"),
        |p| p["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]),
        |p| p["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "s"}}]),
        |p| p["metadata"]["ownerReferences"] = json!([{"kind": "Node", "name": "n2"}]),
    ];
    for (index, edit) in edits.iter().enumerate() {
        let mut pod = mirror();
        edit(&mut pod);
        assert_eq!(create(&node(), ask(), &mut pod).await.unwrap_err().code, 403, "edit {index}");
    }
}

#[tokio::test]
async fn a_node_touches_its_own_node_pods_and_lease() {
    let old_node = json!({"metadata": {"name": "n1", "labels": {"a": "b"}}, "spec": {}});
    let mine = object("ns", "mine", json!({"spec": {"nodeName": "n1"}}));
    let theirs = object("ns", "theirs", json!({"spec": {"nodeName": "n2"}}));
    let with = |base: &Value, path: &str, value: Value| {
        let mut changed = base.clone();
        *changed.pointer_mut(path).unwrap() = value;
        changed
    };
    let lease = |namespace| request("coordination.k8s.io", "leases", "", namespace, "n1");
    let update = Operation::Update;
    let cases = [
        (request("", "nodes", "", "", "n1"), update, Some(&old_node), old_node.clone(), true),
        (request("", "nodes", "status", "", "n2"), update, Some(&old_node), old_node.clone(), false),
        (
            request("", "nodes", "", "", "n1"),
            update,
            Some(&old_node),
            with(&old_node, "/spec", json!({"taints": [1]})),
            false,
        ),
        (
            request("", "nodes", "", "", "n1"),
            update,
            Some(&old_node),
            with(&old_node, "/metadata/labels", json!({"a": "b", "node-restriction.kubernetes.io/x": "1"})),
            false,
        ),
        (
            request("", "nodes", "", "", "n1"),
            update,
            Some(&old_node),
            with(
                &old_node,
                "/metadata/labels",
                json!({"a": "b", "node-role.kubernetes.io/control-plane": ""}),
            ),
            false,
        ),
        (
            request("", "nodes", "", "", "n1"),
            update,
            Some(&old_node),
            with(&old_node, "/metadata/labels", json!({"a": "c", "kubernetes.io/os": "linux"})),
            true,
        ),
        (request("", "pods", "status", "ns", "mine"), update, Some(&mine), mine.clone(), true),
        (request("", "pods", "status", "ns", "theirs"), update, Some(&theirs), theirs.clone(), false),
        (request("", "pods", "", "ns", "mine"), update, Some(&mine), mine.clone(), false),
        (request("", "pods", "", "ns", "mine"), Operation::Delete, Some(&mine), Value::Null, true),
        (request("", "pods", "", "ns", "theirs"), Operation::Delete, Some(&theirs), Value::Null, false),
        (request("", "pods", "eviction", "ns", "mine"), Operation::Create, None, json!({}), true),
        (request("", "pods", "eviction", "ns", "theirs"), Operation::Create, None, json!({}), false),
        (lease("kube-node-lease"), update, None, json!({}), true),
        (lease("ns"), update, None, json!({}), false),
        (
            request("coordination.k8s.io", "leases", "", "kube-node-lease", "n2"),
            update,
            None,
            json!({}),
            false,
        ),
    ];
    for (request, operation, old, mut object, expected) in cases {
        let text = format!("{request:?}");
        let result = run(Case { user: node(), request, operation, old }, &mut object).await;
        assert_eq!(result.is_ok(), expected, "{text}: {result:?}");
    }
}

#[tokio::test]
async fn nobody_gives_what_they_do_not_have() {
    let lead = UserInfo::new("lead", &[]);
    let rbac = |resource: &str| request("rbac.authorization.k8s.io", resource, "", "ns", "");
    let role = |verb: &str, resource: &str| json!({"metadata": {"name": "r"}, "rules": [{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]});
    assert!(create(&lead, rbac("roles"), &mut role("get", "pods")).await.is_ok());
    let error = create(&lead, rbac("roles"), &mut role("get", "nodes")).await.unwrap_err();
    assert!(error.message.contains("attempting to grant RBAC permissions not currently held"), "{error}");
    assert!(create(&root(), rbac("roles"), &mut role("*", "*")).await.is_ok());
    let binding = |role: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": []});
    assert!(create(&lead, rbac("rolebindings"), &mut binding("edit")).await.is_ok());
    assert!(create(&lead, rbac("rolebindings"), &mut binding("admin")).await.is_ok());
    assert_eq!(
        create(&lead, rbac("rolebindings"), &mut binding("cluster-admin")).await.unwrap_err().code,
        403
    );
    assert_eq!(create(&lead, rbac("rolebindings"), &mut binding("ghost")).await.unwrap_err().code, 404);
}

#[tokio::test]
async fn the_signer_decides_who_approves() {
    let ask =
        |subresource| request("certificates.k8s.io", "certificatesigningrequests", subresource, "", "r");
    let mut csr = json!({"metadata": {"name": "r"}, "spec": {"signerName": "example.com/x"}, "status": {"certificate": "c"}});
    let old = json!({"metadata": {"name": "r"}, "spec": {"signerName": "example.com/x"}});
    let controllers = UserInfo::new("system:kube-controller-manager", &[]);
    for (user, allowed) in [(root(), true), (controllers, true), (UserInfo::new("lead", &[]), false)] {
        for subresource in ["approval", "status"] {
            let case = Case {
                user: user.clone(),
                request: ask(subresource),
                operation: Operation::Update,
                old: Some(&old),
            };
            assert_eq!(run(case, &mut csr).await.is_ok(), allowed, "{} {subresource}", user.name);
        }
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    let spec = json!({"signerName": "kubernetes.io/kube-apiserver-client", "request": encoded});
    let mut csr = json!({"metadata": {"name": "r"}, "spec": spec});
    assert_eq!(create(&root(), ask(""), &mut csr).await.unwrap_err().code, 403);
}

#[tokio::test]
async fn new_nodes_are_tainted_and_volumes_are_protected() {
    let mut fresh = json!({"metadata": {"name": "n1"}});
    create(&node(), request("", "nodes", "", "", ""), &mut fresh).await.unwrap();
    assert_eq!(fresh["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let mut claim = json!({"metadata": {"name": "c"}, "spec": {}});
    create(&root(), request("", "persistentvolumeclaims", "", "ns", ""), &mut claim).await.unwrap();
    assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    assert_eq!(claim["spec"]["storageClassName"], "fast");
}

#[tokio::test]
async fn a_runtime_class_brings_overhead_and_nodes() {
    let ask = || request("", "pods", "", "ns", "");
    let mut sandboxed = pod();
    sandboxed["spec"]["runtimeClassName"] = json!("boxed");
    create(&root(), ask(), &mut sandboxed).await.unwrap();
    assert_eq!(sandboxed["spec"]["overhead"], json!({"memory": "64Mi"}));
    assert_eq!(sandboxed["spec"]["nodeSelector"], json!({"boxes": "yes"}));
    let mut ghost = pod();
    ghost["spec"]["runtimeClassName"] = json!("ghost");
    let error = create(&root(), ask(), &mut ghost).await.unwrap_err();
    assert_eq!(error.message, "pods \"p\" is forbidden: pod rejected: RuntimeClass \"ghost\" not found");
    let mut own = pod();
    own["spec"]["overhead"] = json!({"cpu": "1"});
    assert_eq!(create(&root(), ask(), &mut own).await.unwrap_err().code, 403);
}

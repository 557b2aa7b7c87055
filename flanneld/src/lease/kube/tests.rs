//! Listing and watching, against an API server that says what it is told to, in paused time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use hyper::{Request, Response};
use kube::client::{Body, Client};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::annotations::Annotations;
use super::{Access, Inner, Name, Nodes};
use crate::lease::observed::Health;
use crate::lease::store::{Event, StoreError};
use crate::look::status::Manager;

/// How an answer ends.
#[derive(Clone, Copy)]
enum End {
    Well,
    Broken,
    Never,
}

/// What is asked for, by the end of its path and query, and what is said to it.
type Say = (&'static str, u16, Vec<Value>, End);

fn node(name: &str, version: u32, ip: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": version.to_string(), "annotations": {
        "flannel.alpha.coreos.com/kube-subnet-manager": "true", "flannel.alpha.coreos.com/public-ip": ip}},
        "spec": {"podCIDR": format!("10.5.{}.0/24", &name[1..])}})
}

fn line(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "too old", "reason": "Expired", "code": code})
}

/// Nodes of a server that expects these questions in this order.
fn nodes(script: Vec<Say>, batch: usize) -> (Nodes, Arc<Mutex<VecDeque<Say>>>) {
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    let rest = script.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let asked = request.uri().to_string();
        let (wanted, code, lines, end) =
            rest.lock().unwrap().pop_front().unwrap_or_else(|| panic!("nobody expected {asked}"));
        assert!(asked.contains(wanted), "{asked} is not {wanted}");
        let lines = lines.into_iter().map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))));
        let end = match end {
            End::Well => stream::empty().boxed(),
            End::Broken => stream::iter([Err(io::Error::other("the cable is cut"))]).boxed(),
            End::Never => stream::pending().boxed(),
        };
        let body = StreamBody::new(stream::iter(lines).chain(end));
        async move { Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap()) }
    });
    let access = Access {
        url: String::new(),
        kubeconfig: String::new(),
        annotations: Annotations::new("flannel.alpha.coreos.com").unwrap(),
        node: Name::Node("n1".into()),
        net_config: "/dev/null".into(),
        set_network_unavailable: true,
        batch,
        begin_alone: false,
    };
    let (client, health) = (Client::new(service, "default"), Health::of(Manager::Kubernetes));
    (Nodes(Arc::new(Inner { client, access, own: "n1".into(), health })), script)
}

fn keys(events: &[Event]) -> Vec<String> {
    let key = |event: &Event| match event {
        Event::Put(record) => format!("+{}", record.key),
        Event::Delete(key) => format!("-{key}"),
    };
    events.iter().map(key).collect()
}

/// Whatever ends a watch, the next one begins where it was.
#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_was() {
    let page = |items: &[Value], token: &str| json!({"metadata": {"resourceVersion": "10", "continue": token}, "items": items});
    let bookmark = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"resourceVersion": "15"}});
    let (nodes, rest) = nodes(
        vec![
            ("limit=250", 200, vec![page(&[node("n1", 3, "192.0.2.1")], "more")], End::Well),
            ("continue=more", 200, vec![page(&[node("n2", 4, "192.0.2.2")], "")], End::Well),
            (
                "resourceVersion=10",
                200,
                vec![line("ADDED", &node("n3", 11, "192.0.2.3")), line("DELETED", &node("n2", 12, ""))],
                End::Well,
            ),
            ("resourceVersion=12", 200, vec![line("BOOKMARK", &bookmark)], End::Broken),
            ("resourceVersion=15", 500, vec![status(500)], End::Well),
            ("resourceVersion=15", 200, vec![], End::Never),
            ("resourceVersion=15", 200, vec![line("MODIFIED", &node("n3", 16, "192.0.2.33"))], End::Well),
            ("resourceVersion=16", 410, vec![status(410)], End::Well),
        ],
        5000,
    );
    let (snapshot, mut events) = nodes.subscribe().await.unwrap();
    assert_eq!((snapshot.records.len(), snapshot.revision), (2, 10));
    let (first, _) = events.next().await.unwrap().unwrap();
    assert_eq!(keys(&first), ["+10.5.3.0-24", "-10.5.2.0-24"], "what is there already is taken at once");
    let start = Instant::now();
    let (second, _) = events.next().await.unwrap().unwrap();
    assert_eq!(keys(&second), ["+10.5.3.0-24"]);
    assert!(start.elapsed().as_secs() >= 150, "a watch without a word is left");
    let told = nodes.0.health.told(Instant::now());
    assert_eq!((told.kind, told.error, told.last_answer), (Manager::Kubernetes, None, Some(0.0)));
    assert_eq!(told.watch_restarts, 2, "one that broke, and one that said nothing");
    assert!(matches!(events.next().await, Some(Err(StoreError::Compacted))));
    assert!(events.next().await.is_none() && rest.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_more_is_taken_at_once_than_asked_for() {
    let page = json!({"metadata": {"resourceVersion": "10"}, "items": []});
    let many = (2..7).map(|n| line("ADDED", &node(&format!("n{n}"), 10 + n, "192.0.2.9"))).collect();
    let (nodes, _) =
        nodes(vec![("limit=250", 200, vec![page], End::Well), ("watch", 200, many, End::Never)], 2);
    let (_, mut events) = nodes.subscribe().await.unwrap();
    let mut sizes = Vec::new();
    while let Ok(Some(Ok((events, _)))) = timeout(Duration::from_secs(60), events.next()).await {
        sizes.push(events.len());
    }
    assert_eq!(sizes, [2, 2, 1]);
}

/// What is refused is told with its reason, and the way out.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_with_the_right_that_is_missing() {
    let mut refused = status(403);
    refused["message"] = "nodes is forbidden: User \"x\" cannot list resource \"nodes\"".into();
    let (nodes, _) = nodes(vec![("limit=250", 403, vec![refused], End::Well)], 1);
    let error = nodes.subscribe().await.err().unwrap().to_string();
    assert!(error.contains("cannot list resource") && error.contains("patch on nodes/status"), "{error}");
    assert_eq!(nodes.0.health.told(Instant::now()).error, Some(error), "flanneld status tells it");
}

//! kube-rs as a client: typed objects, a watch, and the streams of pods over WebSocket.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::Lab;
use e2e::probe;
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api, AttachParams, DeleteParams, ListParams, LogParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NAME: &str = "kube-rs";
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_pod_is_watched_read_and_spoken_to() -> Result<()> {
    let lab = Lab::attach()?;
    let kubeconfig = Kubeconfig::read_from(lab.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let pods: Api<Pod> = Api::default_namespaced(Client::try_from(config)?);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": NAME}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": probe::IMAGE,
            "command": ["sh", "-c", "echo one; echo two; echo through > /www/index.html; exec httpd -f -p 8080 -h /www"]}]},
    }))?;
    let outcome = tokio::time::timeout(LIMIT, speak(&pods, &pod)).await;
    pods.delete(NAME, &DeleteParams::default()).await?;
    outcome.context("it took too long")?
}

async fn speak(pods: &Api<Pod>, pod: &Pod) -> Result<()> {
    let version = pods.list_metadata(&ListParams::default()).await?.metadata.resource_version;
    pods.create(&PostParams::default(), pod).await?;
    until_running(pods, version.as_deref().unwrap_or("0")).await?;

    let mut lines = pods.log_stream(NAME, &LogParams { follow: true, ..LogParams::default() }).await?.lines();
    let log = [lines.try_next().await?, lines.try_next().await?];
    ensure!(log == [Some("one".to_owned()), Some("two".to_owned())], "{log:?}");

    let mut exec = pods
        .exec(NAME, ["sh", "-c", "read line; echo got $line; exit 3"], &AttachParams::default().stdin(true))
        .await?;
    let (mut stdin, mut stdout) =
        (exec.stdin().context("no standard input")?, exec.stdout().context("no standard output")?);
    let status = exec.take_status().context("no status")?;
    stdin.write_all(b"hello\n").await?;
    let mut text = String::new();
    stdout.read_to_string(&mut text).await?;
    ensure!(text == "got hello\n", "{text:?}");
    let status = status.await.context("no status came")?;
    let cause =
        status.details.and_then(|details| details.causes?.into_iter().next()).context("no exit code")?;
    ensure!(cause.message.as_deref() == Some("3"), "{cause:?}");

    let mut forward = pods.portforward(NAME, &[8080]).await?;
    let mut stream = forward.take_stream(8080).context("no stream")?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.ends_with("through\n"), "{answer:?}");
    Ok(())
}

async fn until_running(pods: &Api<Pod>, version: &str) -> Result<()> {
    let only = WatchParams::default().fields(&format!("metadata.name={NAME}"));
    let mut events = std::pin::pin!(pods.watch(&only, version).await?);
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event
            && pod.status.and_then(|status| status.phase).as_deref() == Some("Running")
        {
            return Ok(());
        }
    }
    anyhow::bail!("the watch ended before the pod ran")
}

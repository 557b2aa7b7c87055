//! What scenarios ask of the cluster: run a pod, look into it, send from one to another.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::run::{run, wait_for};

/// The image of the scenarios' pods.
pub const IMAGE: &str = "kubelite/busybox:1";
const READY_LIMIT: Duration = Duration::from_secs(45);

/// A pod of a scenario; it is deleted when this value goes out of scope, also when the scenario fails.
#[derive(Debug)]
pub struct Pod<'a> {
    lab: &'a Lab,
    /// Its name, in the namespace `default`.
    pub name: String,
    /// Its address.
    pub ip: String,
}

impl<'a> Pod<'a> {
    /// Runs a shell line in a pod on the `n`-th host and waits until it is Ready.
    pub fn start(lab: &'a Lab, name: &str, n: u8, script: &str) -> Result<Pod<'a>> {
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"scenario": name}},
            "spec": {
                "nodeName": crate::network::host_name(n), "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", script]}],
            },
        });
        // From here on dropping it deletes the pod.
        let mut pod = Pod { lab, name: name.to_owned(), ip: String::new() };
        apply(lab, &manifest)?;
        pod.ip = pod.wait_ready()?;
        Ok(pod)
    }

    /// A command inside the pod; its standard output.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        run(self.lab.kubectl(&["exec", &self.name, "--"]).args(command))
    }

    /// The pod's object.
    pub fn get(&self) -> Result<Value> {
        get(self.lab, &["pod", &self.name])
    }

    fn wait_ready(&self) -> Result<String> {
        wait_for(&format!("pod {} to be Ready", self.name), READY_LIMIT, || {
            let pod = self.get()?;
            Ok(ready(&pod).then(|| text(&pod, "/status/podIP")))
        })
        .with_context(|| format!("look at `kubectl describe pod {}`", self.name))
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        // A scenario that failed reports its own error; this one could only hide it.
        let _ = run(&mut self.lab.kubectl(&["delete", "pod", &self.name, "--now", "--ignore-not-found"]));
    }
}

/// Creates or changes an object.
pub fn apply(lab: &Lab, object: &Value) -> Result<()> {
    let file = lab.dir.join(format!("scenario-{}.json", text(object, "/metadata/name")));
    std::fs::write(&file, object.to_string())?;
    let done = run(lab.kubectl(&["apply", "-f"]).arg(&file));
    std::fs::remove_file(&file)?;
    done.map(drop)
}

/// `kubectl get … -o json`.
pub fn get(lab: &Lab, what: &[&str]) -> Result<Value> {
    let text = run(lab.kubectl(&["get", "-o", "json"]).args(what))?;
    serde_json::from_str(&text).context("kubectl printed no JSON")
}

/// Whether a pod's condition Ready is True.
pub fn ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// A string within an object, by JSON pointer; empty if it is not there.
pub fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

//! The in-memory twin of a container runtime: what is started runs until a test ends it.

use super::*;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

#[derive(Default)]
struct State {
    next_id: u32,
    clock: i64,
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, (Container, ContainerStatus)>,
    images: BTreeSet<String>,
    calls: Vec<String>,
}

/// A runtime without processes. Sandboxes get addresses of 10.1.0.0/16.
#[derive(Default)]
pub struct Memory {
    state: Mutex<State>,
}

impl Memory {
    /// A runtime that has `images`.
    pub fn new(images: &[&str]) -> Memory {
        let state = State { images: images.iter().map(|i| i.to_string()).collect(), ..State::default() };
        Memory { state: Mutex::new(state) }
    }

    /// Ends the running container `name` of the pod with `exit_code`; false if there is none.
    pub fn exit(&self, pod_uid: &str, name: &str, exit_code: i32) -> bool {
        let mut state = self.state.lock();
        let running = |(c, _): &(Container, ContainerStatus)| {
            c.pod_uid == pod_uid && c.name == name && c.state == ContainerState::Running
        };
        let id = state.containers.iter().find(|(_, c)| running(c)).map(|(id, _)| id.clone());
        id.is_some_and(|id| state.end(&id, exit_code))
    }

    /// What was called so far that changes something, in order, as `verb name`.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }
}

impl State {
    fn new_id(&mut self, kind: &str) -> String {
        self.next_id += 1;
        format!("{kind}{}", self.next_id)
    }

    fn now(&mut self) -> i64 {
        self.clock += 1_000_000_000;
        self.clock
    }

    fn end(&mut self, id: &str, exit_code: i32) -> bool {
        let now = self.now();
        let Some((container, status)) = self.containers.get_mut(id) else { return false };
        if container.state == ContainerState::Running {
            container.state = ContainerState::Exited;
            status.state = ContainerState::Exited;
            status.finished_at = now;
            status.exit_code = exit_code;
            status.reason = if exit_code == 0 { "Completed" } else { "Error" }.into();
        }
        true
    }
}

fn not_found(id: &str) -> RuntimeError {
    RuntimeError::NotFound(format!("{id} does not exist"))
}

fn unsupported(what: &str) -> RuntimeError {
    RuntimeError::Failed { code: "Unimplemented".into(), message: format!("{what} needs processes") }
}

#[async_trait]
impl Runtime for Memory {
    async fn version(&self) -> Result<Version> {
        Ok(Version { name: "memory".into(), version: "1".into() })
    }

    async fn status(&self) -> Result<RuntimeStatus> {
        let ready = || Readiness { ready: true, ..Readiness::default() };
        Ok(RuntimeStatus { runtime: ready(), network: ready() })
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let mut state = self.state.lock();
        let id = state.new_id("sandbox");
        let created_at = state.now();
        let sandbox = Sandbox {
            id: id.clone(),
            name: config.name.clone(),
            namespace: config.namespace.clone(),
            uid: config.uid.clone(),
            attempt: config.attempt,
            ready: true,
            created_at,
        };
        state.sandboxes.insert(id.clone(), sandbox);
        state.calls.push(format!("run-sandbox {}", config.name));
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        if let Some(sandbox) = state.sandboxes.get_mut(id) {
            sandbox.ready = false;
            let name = sandbox.name.clone();
            state.calls.push(format!("stop-sandbox {name}"));
        }
        let inside = |(c, _): &(Container, ContainerStatus)| c.sandbox_id == id;
        let ids: Vec<String> =
            state.containers.iter().filter(|(_, c)| inside(c)).map(|(id, _)| id.clone()).collect();
        ids.iter().for_each(|id| _ = state.end(id, 137));
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.containers.retain(|_, (c, _)| c.sandbox_id != id);
        if let Some(sandbox) = state.sandboxes.remove(id) {
            state.calls.push(format!("remove-sandbox {}", sandbox.name));
        }
        Ok(())
    }

    async fn list_sandboxes(&self, pod_uid: Option<&str>) -> Result<Vec<Sandbox>> {
        let state = self.state.lock();
        Ok(state.sandboxes.values().filter(|s| pod_uid.is_none_or(|uid| s.uid == uid)).cloned().collect())
    }

    async fn sandbox_ips(&self, id: &str) -> Result<Vec<IpAddr>> {
        let number: u32 = id.trim_start_matches("sandbox").parse().map_err(|_| not_found(id))?;
        Ok(vec![IpAddr::from((0x0a01_0000 | (number & 0xffff)).to_be_bytes())])
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        new: &ContainerConfig,
        pod: &SandboxConfig,
    ) -> Result<String> {
        let mut state = self.state.lock();
        if !state.sandboxes.get(sandbox_id).is_some_and(|s| s.ready) {
            return Err(not_found(sandbox_id));
        }
        if !state.images.contains(&new.image) {
            return Err(not_found(&new.image));
        }
        let id = state.new_id("container");
        let created_at = state.now();
        let status = ContainerStatus {
            id: id.clone(),
            name: new.name.clone(),
            attempt: new.attempt,
            state: ContainerState::Created,
            created_at,
            image: new.user_image.clone(),
            image_ref: new.image.clone(),
            labels: new.labels.clone(),
            annotations: new.annotations.clone(),
            mounts: new.mounts.clone(),
            ..ContainerStatus::default()
        };
        let container = Container {
            id: id.clone(),
            sandbox_id: sandbox_id.to_string(),
            name: new.name.clone(),
            pod_uid: pod.uid.clone(),
            attempt: new.attempt,
            state: ContainerState::Created,
        };
        state.containers.insert(id.clone(), (container, status));
        state.calls.push(format!("create {}", new.name));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        let now = state.now();
        let (container, status) = state.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        container.state = ContainerState::Running;
        status.state = ContainerState::Running;
        status.started_at = now;
        let call = format!("start {}", container.name);
        state.calls.push(call);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let mut state = self.state.lock();
        if let Some(name) = state.containers.get(id).map(|(c, _)| c.name.clone()) {
            state.calls.push(format!("stop {name} {}s", grace.as_secs()));
            state.end(id, 143);
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        if let Some((container, _)) = state.containers.remove(id) {
            state.calls.push(format!("remove {}", container.name));
        }
        Ok(())
    }

    async fn list_containers(&self, pod_uid: Option<&str>) -> Result<Vec<Container>> {
        let state = self.state.lock();
        let all = state.containers.values().map(|(c, _)| c.clone());
        Ok(all.filter(|c| pod_uid.is_none_or(|uid| c.pod_uid == uid)).collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        self.state.lock().containers.get(id).map(|(_, s)| s.clone()).ok_or_else(|| not_found(id))
    }

    async fn exec_sync(&self, _: &str, _: &[String], _: Duration) -> Result<ExecOutput> {
        Err(unsupported("exec"))
    }

    async fn exec(&self, _: &str, _: &[String], _: Streams) -> Result<String> {
        Err(unsupported("exec"))
    }

    async fn attach(&self, _: &str, _: Streams) -> Result<String> {
        Err(unsupported("attach"))
    }

    async fn port_forward(&self, _: &str, _: &[u16]) -> Result<String> {
        Err(unsupported("port forwarding"))
    }

    async fn reopen_log(&self, _: &str) -> Result<()> {
        Err(unsupported("a log"))
    }

    async fn pull_image(&self, image: &str, _: Option<&ImageAuth>, _: &SandboxConfig) -> Result<String> {
        Err(RuntimeError::NotFound(format!("failed to pull and unpack image \"{image}\": not found")))
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        let there = self.state.lock().images.contains(image);
        Ok(there.then(|| Image { id: image.to_string(), ..Image::default() }))
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        let state = self.state.lock();
        Ok(state.images.iter().map(|id| Image { id: id.clone(), ..Image::default() }).collect())
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        self.state.lock().images.remove(image);
        Ok(())
    }

    async fn container_stats(&self, _: Option<&str>) -> Result<Vec<ContainerStats>> {
        Err(unsupported("statistics"))
    }
}

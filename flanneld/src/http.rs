//! `/healthz`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 32;

/// Whether packets are carried: a lease is held and the device is there.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// Says so or takes it back.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// As it was last said.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The health server; it ends with the value.
#[derive(Debug)]
pub struct Health {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    ready: Ready,
    registry: Arc<Registry>,
    task: JoinHandle<()>,
}

impl Health {
    /// Serves on this address, or on what another process that served there passed on.
    pub async fn open(
        address: SocketAddr,
        given: Option<std::net::TcpListener>,
        ready: Ready,
        registry: Arc<Registry>,
    ) -> anyhow::Result<Health> {
        let listener = Arc::new(match given {
            Some(given) => TcpListener::from_std(given)?,
            None => listen(address).await?,
        });
        let task = tokio::spawn(serve(listener.clone(), ready.clone(), registry.clone()));
        Ok(Health { address, listener, ready, registry, task })
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections: another process with the same descriptor does.
    pub fn pause(&self) {
        self.task.abort();
    }

    /// Takes connections again.
    pub fn resume(&mut self) {
        self.task.abort();
        self.task = tokio::spawn(serve(self.listener.clone(), self.ready.clone(), self.registry.clone()));
    }
}

impl AsFd for Health {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: Arc<TcpListener>, ready: Ready, registry: Arc<Registry>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the health server cannot accept");
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                continue;
            }
        };
        let (ready, registry) = (ready.clone(), registry.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let answer = answer(&request, &ready, &registry);
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(std::time::Duration::from_secs(10));
            // A client that breaks off is its own matter.
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
            drop(place);
        });
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    use anyhow::Context;
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot serve health on {address} (--healthz-ip, --healthz-port)"))
}

fn answer(request: &Request<Incoming>, ready: &Ready, registry: &Registry) -> Response<Full<Bytes>> {
    let (code, media, body) = match request.uri().path() {
        "/healthz" => (200, "text/plain", "flanneld is running".to_owned()),
        "/readyz" if ready.get() => (200, "text/plain", "flanneld is ready".to_owned()),
        "/readyz" => (503, "text/plain", "flanneld is not ready yet".to_owned()),
        "/metrics" => {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, registry) {
                Ok(()) => (200, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
                Err(error) => (500, "text/plain", error.to_string()),
            }
        }
        _ => (404, "text/plain", "404 page not found".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(media));
    response
}

//! Puts per second of the embedded store and of a real etcd, on the same disk, in one run.
//!
//! `bench_puts <directory> [seconds]` starts /usr/bin/etcd on loopback ports, and measures with 1 and 64 clients: the
//! engine in this process, the same engine behind its gRPC service, and etcd. Rounds alternate, because a disk's
//! mood changes.

#![allow(clippy::print_stdout, reason = "the table is what the program is for")]

use std::future::Future;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use etcd_client::Client;
use kubelite_store::grpc::{self, Access};
use kubelite_store::{Options, PutRequest, Store};
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 3;
const VALUE: [u8; 512] = [b'x'; 512];

/// Ends etcd with the program.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().context("usage: bench_puts <directory> [seconds]")?;
    let seconds = arguments.next().unwrap_or_else(|| "3".to_owned()).parse()?;
    let (dir, time) = (Path::new(&dir), Duration::from_secs(seconds));
    let store = Store::open(dir.join("kubelite"), Options::default())?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let ours = format!("http://{}", listener.local_addr()?);
    tokio::spawn(grpc::serve(store.clone(), listener, None, Access::Everyone, CancellationToken::new()));
    let (theirs, _etcd) = start_etcd(&dir.join("etcd"))?;
    println!("clients  engine/s  grpc/s  etcd/s");
    for clients in [1, 64] {
        let mut sums = [0.0; 3];
        for _ in 0..ROUNDS {
            sums[0] += in_process(&store, clients, time).await?;
            sums[1] += over_grpc(&ours, clients, time).await?;
            sums[2] += over_grpc(&theirs, clients, time).await?;
        }
        let [engine, grpc, etcd] = sums.map(|sum| sum / ROUNDS as f64);
        println!("{clients:7}  {engine:8.0}  {grpc:6.0}  {etcd:6.0}");
    }
    Ok(())
}

fn start_etcd(dir: &Path) -> anyhow::Result<(String, Etcd)> {
    let free = || anyhow::Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
    let (client, peer) = (format!("http://127.0.0.1:{}", free()?), format!("http://127.0.0.1:{}", free()?));
    let child = Command::new("/usr/bin/etcd")
        .args(["--name=bench", "--log-level=error", &format!("--initial-cluster=bench={peer}")])
        .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
        .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
        .arg(format!("--data-dir={}", dir.display()))
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start /usr/bin/etcd")?;
    Ok((client, Etcd(child)))
}

async fn in_process(store: &Store, clients: usize, time: Duration) -> anyhow::Result<f64> {
    let store = store.clone();
    rate(clients, time, move |client, number| {
        let store = store.clone();
        async move {
            let key = format!("bench/{client}/{}", number % 100);
            let put = PutRequest { key: key.into(), value: VALUE.to_vec().into(), ..PutRequest::default() };
            store.put(put).await?;
            Ok(())
        }
    })
    .await
}

async fn over_grpc(endpoint: &str, clients: usize, time: Duration) -> anyhow::Result<f64> {
    let client = connect(endpoint).await?;
    rate(clients, time, move |writer, number| {
        let mut client = client.clone();
        async move {
            client.put(format!("bench/{writer}/{}", number % 100), VALUE, None).await?;
            Ok(())
        }
    })
    .await
}

/// Waits until the server answers.
async fn connect(endpoint: &str) -> anyhow::Result<Client> {
    for _ in 0..100 {
        if let Ok(mut client) = Client::connect([endpoint], None).await
            && client.get("ready", None).await.is_ok()
        {
            return Ok(client);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{endpoint} does not answer")
}

/// Puts per second with so many clients, each waiting for its answer before it sends the next one.
async fn rate<F, P>(clients: usize, time: Duration, put: F) -> anyhow::Result<f64>
where
    F: Fn(usize, usize) -> P + Clone + Send + 'static,
    P: Future<Output = anyhow::Result<()>> + Send,
{
    let start = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let put = put.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while start.elapsed() < time {
                    put(client, done).await?;
                    done += 1;
                }
                anyhow::Ok(done)
            })
        })
        .collect();
    let mut total = 0;
    for task in tasks {
        total += task.await??;
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

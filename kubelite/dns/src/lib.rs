//! The cluster's DNS server: names of services and pods from the API, everything else from the host's resolvers.
//!
//! `(services, endpoint slices)` → [`zone`], one atomic pointer → [`answer`] → a datagram or a stream. Each node runs one for its own pods.
//! The protocol's messages are hickory's.

mod answer;
mod forward;
mod zone;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use answer::Step;
use anyhow::{Context, Result};
use arc_swap::ArcSwapOption;
use forward::Forwarder;
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kubelite_informer::Informer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use zone::Zone;

/// Changes that come within this time go into one zone.
const GATHER: Duration = Duration::from_millis(20);
/// Queries by UDP that are worked on at a time, and connections.
const MAX_QUERIES: usize = 1000;
const MAX_CONNECTIONS: usize = 100;
/// A connection without a query is closed after this time.
const IDLE: Duration = Duration::from_secs(10);
/// A query is far smaller; what is larger is no query.
const LARGEST_QUERY: usize = 4096;

/// What the server is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens, by UDP and TCP.
    pub listen: SocketAddr,
    /// E.g. `cluster.local`.
    pub domain: String,
    /// The resolvers for all other names, in the order in which they are asked.
    pub upstreams: Vec<SocketAddr>,
}

struct Server {
    zone: ArcSwapOption<Zone>,
    forwarder: Forwarder,
    turn: AtomicUsize,
}

/// Answers until `shutdown`. The caches are filled by the caller; until they are, the answer is that it is not known yet (SERVFAIL).
pub async fn run(
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    config: Config,
    shutdown: CancellationToken,
) -> Result<()> {
    let busy = || format!("cannot listen on {} for DNS: does another DNS server run here?", config.listen);
    let udp = Arc::new(UdpSocket::bind(config.listen).await.with_context(busy)?);
    let tcp = TcpListener::bind(config.listen).await.with_context(busy)?;
    // Asking oneself would never end.
    let upstreams = config.upstreams.into_iter().filter(|upstream| *upstream != config.listen).collect();
    let server = Arc::new(Server {
        zone: ArcSwapOption::empty(),
        forwarder: Forwarder::new(upstreams),
        turn: AtomicUsize::new(0),
    });
    let serve = async {
        tokio::join!(
            follow(&server, &config.domain, &services, &slices),
            datagrams(&server, &udp),
            connections(&server, &tcp)
        );
    };
    tokio::select! {
        () = serve => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

/// Makes a new zone whenever something changed.
async fn follow(
    server: &Server,
    domain: &str,
    services: &Informer<Service>,
    slices: &Informer<EndpointSlice>,
) {
    let dirty = Arc::new(Notify::new());
    let (by_service, by_slice) = (dirty.clone(), dirty.clone());
    services.on_change(move |_| by_service.notify_one());
    slices.on_change(move |_| by_slice.notify_one());
    services.synced().await;
    slices.synced().await;
    loop {
        let zone = Zone::new(domain, &services.all(), &slices.all());
        server.zone.store(Some(Arc::new(zone)));
        dirty.notified().await;
        tokio::time::sleep(GATHER).await;
    }
}

async fn datagrams(server: &Arc<Server>, socket: &Arc<UdpSocket>) {
    let slots = Arc::new(Semaphore::new(MAX_QUERIES));
    let mut buffer = vec![0; LARGEST_QUERY];
    loop {
        // An error is that of an earlier answer that nobody took.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(query) = parse(&buffer[..length]) else { continue };
        // Most names are known at once; only a question to others needs a task.
        if let Some(answer) = server.at_once(&query) {
            send(socket, client, &query, &answer).await;
            continue;
        }
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            send(socket, client, &query, &answer::failure(&query, ResponseCode::ServFail)).await;
            continue;
        };
        let (server, socket) = (server.clone(), socket.clone());
        tokio::spawn(async move {
            let answer = server.answer(&query, false).await;
            send(&socket, client, &query, &answer).await;
            drop(slot);
        });
    }
}

async fn send(socket: &UdpSocket, client: SocketAddr, query: &Message, answer: &Message) {
    if let Some(bytes) = answer::datagram(query, answer) {
        // A client that is gone needs no answer.
        let _ = socket.send_to(&bytes, client).await;
    }
}

async fn connections(server: &Arc<Server>, listener: &TcpListener) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let server = server.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(&server, stream).await {
                tracing::debug!("a DNS connection ended: {error:#}");
            }
            drop(slot);
        });
    }
}

/// Any number of queries, one after the other (RFC 7766).
async fn connection(server: &Server, mut stream: TcpStream) -> Result<()> {
    while let Ok(Ok(length)) = timeout(IDLE, stream.read_u16()).await {
        let mut buffer = vec![0; usize::from(length).min(LARGEST_QUERY)];
        timeout(IDLE, stream.read_exact(&mut buffer)).await??;
        let query = parse(&buffer).context("what came is no query")?;
        let bytes = server.answer(&query, true).await.to_vec()?;
        stream.write_u16(u16::try_from(bytes.len())?).await?;
        stream.write_all(&bytes).await?;
    }
    Ok(())
}

/// A query; nothing for what can't be read or is an answer itself.
fn parse(bytes: &[u8]) -> Option<Message> {
    Message::from_vec(bytes).ok().filter(|message| message.metadata.message_type == MessageType::Query)
}

impl Server {
    /// The answer, if nobody else has to be asked for it.
    fn at_once(&self, query: &Message) -> Option<Message> {
        let Some(zone) = self.zone.load_full() else {
            return Some(answer::failure(query, ResponseCode::ServFail));
        };
        match answer::step(&zone, query, self.turn.fetch_add(1, Ordering::Relaxed)) {
            Step::Answer(answer) => Some(answer),
            Step::Forward | Step::Follow(..) => None,
        }
    }

    async fn answer(&self, query: &Message, stream: bool) -> Message {
        let failure = |error: anyhow::Error| {
            tracing::debug!("a name could not be looked up: {error:#}");
            answer::failure(query, ResponseCode::ServFail)
        };
        let Some(zone) = self.zone.load_full() else { return answer::failure(query, ResponseCode::ServFail) };
        match answer::step(&zone, query, self.turn.fetch_add(1, Ordering::Relaxed)) {
            Step::Answer(answer) => answer,
            Step::Forward => self.forwarder.ask(query, stream).await.unwrap_or_else(failure),
            Step::Follow(mut answer, name) => {
                let Some(question) = query.queries.first() else { return answer };
                let mut further = query.clone();
                further.queries = vec![Query::query(name, question.query_type())];
                match self.forwarder.ask(&further, stream).await {
                    Ok(rest) => {
                        answer.metadata.response_code = rest.metadata.response_code;
                        answer.add_answers(rest.answers);
                        answer
                    }
                    Err(error) => failure(error),
                }
            }
        }
    }
}

//! What the zone doesn't know is asked of the host's own resolvers, and kept as long as they say.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::text;

/// Per question to one resolver.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions that are under way; beyond that they are refused at once.
const MAX_ASKED: usize = 1000;
/// Answers that are kept.
const MAX_KEPT: usize = 5000;
/// The longest that an answer is kept, and the longest that it is kept that there is none.
const KEEP: Duration = Duration::from_secs(300);
const KEEP_NOTHING: Duration = Duration::from_secs(30);
const LARGEST: usize = 65_535;

type Asked = (String, RecordType, bool);

/// The resolvers beyond the cluster.
pub struct Forwarder {
    upstreams: Vec<SocketAddr>,
    under_way: Semaphore,
    kept: Mutex<HashMap<Asked, (Instant, Instant, Message)>>,
}

impl Forwarder {
    /// Asks these, in this order.
    pub fn new(upstreams: Vec<SocketAddr>) -> Forwarder {
        Forwarder { upstreams, under_way: Semaphore::new(MAX_ASKED), kept: Mutex::default() }
    }

    /// The answer to a query, from memory or from the first resolver that has one. `stream`: the client can take a large one.
    pub async fn ask(&self, query: &Message, stream: bool) -> Result<Message> {
        let question = query.queries.first().context("no question")?;
        let asked = (
            text(question.name()),
            question.query_type(),
            query.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok),
        );
        if let Some(mut answer) = self.remember(&asked) {
            answer.metadata.id = query.metadata.id;
            answer.queries.clone_from(&query.queries);
            return Ok(answer);
        }
        let _permit = self.under_way.try_acquire().context("too many questions are under way")?;
        let mut problem = None;
        for upstream in &self.upstreams {
            match timeout(PATIENCE, ask_one(*upstream, query, stream)).await {
                // A resolver that failed says nothing about the name: the next one may know.
                Ok(Ok(answer))
                    if matches!(
                        answer.metadata.response_code,
                        ResponseCode::ServFail | ResponseCode::Refused
                    ) =>
                {
                    problem.get_or_insert(Ok(answer));
                }
                Ok(Ok(answer)) => {
                    self.keep(asked, &answer);
                    return Ok(answer);
                }
                Ok(Err(error)) => drop(problem.get_or_insert(Err(error))),
                Err(_) => tracing::debug!(%upstream, "a resolver doesn't answer"),
            }
        }
        problem.unwrap_or_else(|| bail!("no resolver of /etc/resolv.conf answers"))
    }

    fn remember(&self, asked: &Asked) -> Option<Message> {
        let (since, until, mut answer) = self.kept.lock().get(asked).cloned()?;
        let now = Instant::now();
        if now >= until {
            return None;
        }
        let age = u32::try_from((now - since).as_secs()).unwrap_or(u32::MAX);
        for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals)
        {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    fn keep(&self, asked: Asked, answer: &Message) {
        let known = matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        if !known || answer.metadata.truncation {
            return;
        }
        let (records, longest) = if answer.answers.is_empty() {
            (&answer.authorities, KEEP_NOTHING)
        } else {
            (&answer.answers, KEEP)
        };
        let Some(ttl) = records.iter().map(|record| record.ttl).min() else { return };
        let now = Instant::now();
        let mut kept = self.kept.lock();
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (_, until, _)| *until > now);
        }
        if kept.len() < MAX_KEPT {
            kept.insert(asked, (now, now + Duration::from_secs(ttl.into()).min(longest), answer.clone()));
        }
    }
}

/// One question to one resolver, under an id and from a port of chance (RFC 5452).
async fn ask_one(upstream: SocketAddr, query: &Message, stream: bool) -> Result<Message> {
    let mut sent = query.clone();
    sent.metadata.id = rand::random();
    let bytes = sent.to_vec()?;
    let mut answer =
        if stream { by_tcp(upstream, &bytes).await? } else { by_udp(upstream, &bytes, &sent).await? };
    if !belongs(&sent, &answer) {
        bail!("{upstream} answered another question");
    }
    answer.metadata.id = query.metadata.id;
    answer.queries.clone_from(&query.queries);
    Ok(answer)
}

async fn by_udp(upstream: SocketAddr, bytes: &[u8], sent: &Message) -> Result<Message> {
    let any: SocketAddr = if upstream.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    // Only what this resolver sends is received from here on.
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if belongs(sent, &answer) => return Ok(answer),
            _ => tracing::debug!(%upstream, "an answer that belongs to no question"),
        }
    }
}

async fn by_tcp(upstream: SocketAddr, bytes: &[u8]) -> Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_u16(u16::try_from(bytes.len())?).await?;
    stream.write_all(bytes).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    Ok(Message::from_vec(&buffer)?)
}

fn belongs(sent: &Message, answer: &Message) -> bool {
    let question = |message: &Message| {
        message.queries.first().map(|q| (text(q.name()), q.query_type(), q.query_class()))
    };
    sent.metadata.id == answer.metadata.id && question(sent) == question(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record};
    use std::str::FromStr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn query(name: &str) -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
        query
    }

    /// A resolver that first sends rubbish and a stranger's answer, and then answers with this code; and how often it was asked.
    async fn resolver(code: ResponseCode) -> (SocketAddr, Arc<AtomicUsize>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::Relaxed);
                let mut answer = Message::from_vec(&buffer[..length]).unwrap().into_response();
                answer.metadata.response_code = code;
                let name = answer.queries[0].name().clone();
                if code == ResponseCode::NoError {
                    answer.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
                }
                let mut strange = answer.clone();
                strange.metadata.id = strange.metadata.id.wrapping_add(1);
                for bytes in [vec![1, 2, 3], strange.to_vec().unwrap(), answer.to_vec().unwrap()] {
                    socket.send_to(&bytes, client).await.unwrap();
                }
            }
        });
        (address, asked)
    }

    #[tokio::test]
    async fn the_first_resolver_that_knows_is_believed_and_remembered() {
        let (broken, broken_asked) = resolver(ResponseCode::ServFail).await;
        let (good, good_asked) = resolver(ResponseCode::NoError).await;
        let forwarder = Forwarder::new(vec![broken, good]);
        for (id, name) in [(7, "example.test."), (8, "EXAMPLE.test.")] {
            let mut query = query(name);
            query.metadata.id = id;
            let answer = forwarder.ask(&query, false).await.unwrap();
            assert_eq!((answer.metadata.id, answer.answers.len()), (id, 1));
            assert_eq!(answer.queries, query.queries, "in the client's own letters");
        }
        assert_eq!((broken_asked.load(Ordering::Relaxed), good_asked.load(Ordering::Relaxed)), (1, 1));
    }

    #[tokio::test]
    async fn failures_are_told_and_not_remembered() {
        let (broken, asked) = resolver(ResponseCode::ServFail).await;
        let forwarder = Forwarder::new(vec![broken]);
        for _ in 0..2 {
            let answer = forwarder.ask(&query("example.test."), false).await.unwrap();
            assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        let nobody = Forwarder::new(Vec::new()).ask(&query("example.test."), false).await;
        assert!(nobody.unwrap_err().to_string().contains("resolv.conf"));
    }
}

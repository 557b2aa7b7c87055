//! The Watch service: many watches over one stream of messages.
//!
//! One task owns all watches of a stream and sends in order, so that a progress answer stands behind every event it
//! speaks of. It sleeps until the client asks for something or a watch has something.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{PbEvent, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService};
use futures::StreamExt;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::access::{Rights, denied};
use super::{Service, header, wire};
use crate::error::Error;
use crate::types::{Event, KeyRange, Revision};
use crate::watch::{WatchBatch, WatchRequest, Watcher};

/// How many answers wait for a client that does not read.
const SEND_BUFFER: usize = 16;
/// How many watches one stream may have.
const MAX_WATCHES: usize = 4096;
/// How often a watch that asked for it hears that it is up to date: etcd's interval.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// The number in answers that concern no single watch.
const NO_WATCH: i64 = -1;

type Answer = Result<PbWatchResponse, Status>;

/// What a client asked of one watch, apart from the keys.
struct Wishes {
    previous: bool,
    puts: bool,
    deletes: bool,
    progress: bool,
}

struct Watching {
    watcher: Watcher,
    wishes: Wishes,
}

/// The task behind one stream.
struct Session {
    service: Service,
    rights: Rights,
    watches: BTreeMap<i64, Watching>,
    next_id: i64,
    wake: Arc<Notify>,
    /// The revision that the client wants to hear of once every watch is there.
    progress_at: Option<Revision>,
    out: mpsc::Sender<Answer>,
}

/// The client does not listen any more.
struct Gone;

#[tonic::async_trait]
impl PbWatchService for Service {
    type WatchStream = ReceiverStream<Answer>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (out, answers) = mpsc::channel(SEND_BUFFER);
        let session = Session {
            service: self.clone(),
            rights: self.access.rights(&request),
            watches: BTreeMap::new(),
            next_id: 0,
            wake: Arc::new(Notify::new()),
            progress_at: None,
            out,
        };
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

impl Session {
    async fn run(mut self, mut requests: Streaming<PbWatchRequest>) {
        let shutdown = self.service.shutdown.clone();
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        let wake = self.wake.clone();
        loop {
            let done = tokio::select! {
                () = shutdown.cancelled() => Err(Gone),
                () = self.out.closed() => Err(Gone),
                request = requests.next() => match request {
                    Some(Ok(PbWatchRequest { request_union: Some(request) })) => self.handle(request).await,
                    Some(Ok(_)) => Ok(()),
                    Some(Err(_)) | None => Err(Gone),
                },
                () = wake.notified() => Ok(()),
                _ = ticks.tick() => self.tell_progress().await,
            };
            if done.is_err() || self.pump().await.is_err() {
                return;
            }
        }
    }

    async fn handle(&mut self, request: PbWatchRequestUnion) -> Result<(), Gone> {
        match request {
            PbWatchRequestUnion::CreateRequest(create) => {
                // An empty key is the lowest one.
                let key = if create.key.is_empty() { vec![0] } else { create.key };
                let range = KeyRange::from_wire(key, create.range_end);
                let wishes = Wishes {
                    previous: create.prev_kv,
                    puts: !create.filters.contains(&0),
                    deletes: !create.filters.contains(&1),
                    progress: create.progress_notify,
                };
                let request = WatchRequest { range, start: create.start_revision };
                self.create(create.watch_id, request, wishes).await
            }
            PbWatchRequestUnion::CancelRequest(cancel) => match self.watches.remove(&cancel.watch_id) {
                Some(_) => self.send(cancel.watch_id, |answer| answer.canceled = true).await,
                None => Ok(()),
            },
            PbWatchRequestUnion::ProgressRequest(_) => {
                self.progress_at = Some(self.service.store.revision());
                Ok(())
            }
        }
    }

    async fn create(&mut self, wanted: i64, request: WatchRequest, wishes: Wishes) -> Result<(), Gone> {
        if self.rights.keys(&request.range).is_err() {
            let denied = denied();
            return self
                .refuse(format!("rpc error: code = PermissionDenied desc = {}", denied.message()))
                .await;
        }
        if self.watches.len() >= MAX_WATCHES {
            return self.refuse(format!("a stream may have {MAX_WATCHES} watches: open another one")).await;
        }
        let id = if wanted > 0 { wanted } else { self.free_id() };
        if self.watches.contains_key(&id) {
            return self.refuse(format!("watch id {id} is in use on this stream")).await;
        }
        let watcher = self.service.store.watch_with(request, self.wake.clone());
        self.watches.insert(id, Watching { watcher, wishes });
        self.send(id, |answer| answer.created = true).await
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn refuse(&mut self, reason: String) -> Result<(), Gone> {
        self.send(NO_WATCH, |answer| {
            answer.created = true;
            answer.canceled = true;
            answer.cancel_reason = reason;
        })
        .await
    }

    /// Sends what the watches have, round by round, until none has anything.
    async fn pump(&mut self) -> Result<(), Gone> {
        loop {
            let mut batches = Vec::new();
            for (&id, watching) in &mut self.watches {
                batches.extend(watching.watcher.poll().transpose().map(|batch| (id, batch)));
            }
            if batches.is_empty() {
                return self.answer_progress().await;
            }
            for (id, batch) in batches {
                match batch {
                    Ok(WatchBatch::Events(events)) => self.send_events(id, events).await?,
                    Ok(WatchBatch::UpToDate(_)) => {}
                    Err(error) => self.end(id, error).await?,
                }
            }
        }
    }

    async fn send_events(&mut self, id: i64, events: Vec<Event>) -> Result<(), Gone> {
        let Some(Watching { wishes, .. }) = self.watches.get(&id) else { return Ok(()) };
        let revision = events.last().map_or(0, |event| event.kv.mod_revision);
        let wanted =
            events.into_iter().filter(|event| if event.deleted { wishes.deletes } else { wishes.puts });
        let events: Vec<PbEvent> = wanted.map(|event| pb_event(event, wishes.previous)).collect();
        if events.is_empty() {
            return Ok(());
        }
        self.send(id, |answer| {
            answer.header = header(revision);
            answer.events = events;
        })
        .await
    }

    async fn end(&mut self, id: i64, error: Error) -> Result<(), Gone> {
        self.watches.remove(&id);
        self.send(id, |answer| {
            answer.canceled = true;
            if let Error::Compacted { oldest, .. } = error {
                answer.compact_revision = oldest;
            }
            answer.cancel_reason = error.to_string();
        })
        .await
    }

    /// Answers a request for progress once every watch has delivered that far.
    async fn answer_progress(&mut self) -> Result<(), Gone> {
        let Some(wanted) = self.progress_at else { return Ok(()) };
        if self.watches.values().any(|watching| watching.watcher.position() < wanted) {
            return Ok(());
        }
        self.progress_at = None;
        self.send(NO_WATCH, |answer| answer.header = header(wanted)).await
    }

    /// Tells the watches that asked for it how far they are.
    async fn tell_progress(&mut self) -> Result<(), Gone> {
        let wanted = self.watches.iter().filter(|(_, watching)| watching.wishes.progress);
        let positions: Vec<_> = wanted.map(|(&id, watching)| (id, watching.watcher.position())).collect();
        for (id, position) in positions {
            self.send(id, |answer| answer.header = header(position)).await?;
        }
        Ok(())
    }

    async fn send(&self, id: i64, fill: impl FnOnce(&mut PbWatchResponse)) -> Result<(), Gone> {
        let mut answer =
            PbWatchResponse { header: self.service.header(), watch_id: id, ..PbWatchResponse::default() };
        fill(&mut answer);
        self.out.send(Ok(answer)).await.map_err(|_| Gone)
    }
}

fn pb_event(event: Event, previous: bool) -> PbEvent {
    PbEvent {
        r#type: i32::from(event.deleted),
        kv: Some(wire::key_value(event.kv)),
        prev_kv: event.previous.filter(|_| previous).map(wire::key_value),
    }
}

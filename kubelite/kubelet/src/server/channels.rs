//! Exec and attach for clients that speak `v5.channel.k8s.io` (KEP-4006): the client's WebSocket ends here, and each of
//! its channels is a SPDY stream to the runtime.
//!
//! A message begins with its channel. What v5 adds to v4 is CLOSE: `[255, channel]` ends that channel, which is how
//! stdin ends without the connection. SPDY has this in every frame; containerd 1.6's WebSocket has not.

use super::spdy::{self, Frame, HEAD, Head};
use super::tunnel::{MESSAGE, Runtime, Socket};
use crate::runtime::Streams;
use bytes::Bytes;
use futures::stream::SplitStream;
use futures::{Sink, SinkExt, StreamExt};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
/// The runtime's Status, as v4 and v5 have it.
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Answers to the runtime's pings that wait while stdin is being written; further ones are dropped.
const ANSWERS: usize = 8;
/// A client answers the end of its WebSocket within this time, or is left.
const FAREWELL: Duration = Duration::from_secs(5);

/// The channels of a connection with their streams: the client writes to the first ones, the runtime to the others.
struct Channels {
    inputs: Inputs,
    outputs: Outputs,
    /// What opens the streams.
    opening: Vec<u8>,
}

impl Channels {
    fn open(streams: &Streams) -> io::Result<Channels> {
        let table = [
            (ERROR, "error", true),
            (STDIN, "stdin", streams.stdin),
            (STDOUT, "stdout", streams.stdout),
            (STDERR, "stderr", streams.stderr),
            (RESIZE, "resize", streams.tty),
        ];
        let mut opener = spdy::Opener::new()?;
        let (mut inputs, mut outputs, mut opening) = (vec![], vec![], vec![]);
        let wanted = table.into_iter().filter(|(.., wanted)| *wanted);
        // A client's streams have odd numbers.
        for ((channel, name, _), stream) in wanted.zip((1..).step_by(2)) {
            opening.extend(opener.open(stream, &[("streamtype", name)])?);
            let side = if matches!(channel, STDIN | RESIZE) { &mut inputs } else { &mut outputs };
            side.push((channel, stream));
        }
        Ok(Channels { inputs: Inputs(inputs), outputs: Outputs(outputs), opening })
    }
}

/// Channels that the client has not closed, with their streams.
struct Inputs(Vec<(u8, u32)>);

impl Inputs {
    /// What a message is for the runtime: the stream, whether it ends, and its bytes. A message for a channel that isn't
    /// there is nothing.
    ///
    /// # Errors
    /// If the message is malformed.
    fn take<'a>(&mut self, message: &'a [u8]) -> io::Result<Option<(u32, bool, &'a [u8])>> {
        match message {
            [CLOSE, channel] => {
                let at = self.0.iter().position(|(c, _)| c == channel);
                Ok(at.map(|at| (self.0.swap_remove(at).1, true, &[][..])))
            }
            [CLOSE, rest @ ..] => {
                let text = format!("CLOSE is followed by {} bytes instead of one channel", rest.len());
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
            [] | [_] => Ok(None),
            [channel, bytes @ ..] => {
                let input = self.0.iter().find(|(c, _)| c == channel);
                Ok(input.map(|(_, stream)| (*stream, false, bytes)))
            }
        }
    }
}

/// Channels that the runtime has not ended, with their streams.
struct Outputs(Vec<(u8, u32)>);

impl Outputs {
    fn channel(&self, stream: u32) -> Option<u8> {
        self.0.iter().find(|(_, s)| *s == stream).map(|(channel, _)| *channel)
    }

    fn end(&mut self, stream: u32) {
        self.0.retain(|(_, s)| *s != stream);
    }

    /// Whether the runtime said how it went.
    fn told(&self) -> bool {
        self.0.iter().all(|(channel, _)| *channel != ERROR)
    }

    /// A message without content here tells the client that the connection stands.
    fn first(&self) -> u8 {
        self.0.iter().map(|(channel, _)| *channel).min().unwrap_or(ERROR)
    }
}

/// Carries the client's channels to the runtime and back until either side ends.
pub(super) async fn carry(socket: Socket, runtime: Runtime, streams: Streams) -> io::Result<()> {
    let Channels { mut inputs, mut outputs, opening } = Channels::open(&streams)?;
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_runtime, to_runtime) = tokio::io::split(runtime);
    let mut to_runtime = BufWriter::new(to_runtime);
    to_runtime.write_all(&opening).await?;
    to_runtime.flush().await?;
    let begin = Message::Binary(Bytes::copy_from_slice(&[outputs.first()]));
    to_client.send(begin).await.map_err(io::Error::other)?;
    let (answer, answers) = mpsc::channel(ANSWERS);
    let result = tokio::select! {
        result = inward(&mut from_client, &mut to_runtime, &mut inputs, answers) => result,
        result = outward(&mut from_runtime, &mut to_client, &mut outputs, &answer) => result,
    };
    // A client takes a normal end without a Status for success: it gets this only when the runtime told its Status.
    let (code, reason) = match &result {
        Ok(()) => (CloseCode::Normal, ""),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            (CloseCode::Protocol, "a malformed message")
        }
        Err(_) => (CloseCode::Error, "the connection to the container runtime broke"),
    };
    let close = async {
        to_client.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await?;
        // Closed while the client's bytes are unread, the connection would be reset, and the Status perhaps lost.
        while from_client.next().await.transpose()?.is_some() {}
        Ok::<_, WsError>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, close).await {
        tracing::debug!(%error, "a client of exec or attach left early");
    }
    result
}

async fn inward(
    client: &mut SplitStream<Socket>,
    runtime: &mut (impl AsyncWrite + Unpin),
    inputs: &mut Inputs,
    mut answers: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    loop {
        let sent = tokio::select! {
            Some(frame) = answers.recv() => write(runtime, &frame, &[]).await,
            message = client.next() => match message.transpose().map_err(io::Error::other)? {
                Some(Message::Binary(message)) => match inputs.take(&message)? {
                    Some((stream, fin, bytes)) => {
                        write(runtime, &spdy::data(stream, fin, bytes.len())?, bytes).await
                    }
                    None => Ok(()),
                },
                Some(Message::Close(_)) | None => return Ok(()),
                // Pings are answered by the WebSocket itself; v5 has no text.
                Some(_) => Ok(()),
            }
        };
        if sent.is_err() {
            // The runtime closes when the command ends, read or not. What it said before that, and that it ended, is
            // read on the other side.
            std::future::pending::<()>().await;
        }
    }
}

async fn write(runtime: &mut (impl AsyncWrite + Unpin), head: &[u8], bytes: &[u8]) -> io::Result<()> {
    runtime.write_all(head).await?;
    runtime.write_all(bytes).await?;
    runtime.flush().await
}

async fn outward(
    runtime: &mut (impl AsyncRead + Unpin),
    client: &mut (impl Sink<Message, Error = WsError> + Unpin),
    outputs: &mut Outputs,
    answers: &mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut block = vec![0; MESSAGE];
    while !outputs.0.is_empty() {
        let mut head = [0; HEAD];
        match runtime.read_exact(&mut head).await {
            Ok(_) => {}
            // However it ended.
            Err(_) if outputs.told() => break,
            Err(error) => return Err(error),
        }
        match Head::parse(head)? {
            Head::Control { kind, fin, length } => {
                let mut payload = vec![0; length];
                runtime.read_exact(&mut payload).await?;
                match Frame::parse(kind, fin, &payload)? {
                    Frame::End(stream) => outputs.end(stream),
                    // Waiting here while stdin is being written could be for ever; a lost pong is harmless.
                    Frame::Answer(frame) => drop(answers.try_send(frame)),
                    Frame::Passed => {}
                }
            }
            Head::Data { stream, fin, length } => {
                data(runtime, client, outputs.channel(stream), length, &mut block).await?;
                if fin {
                    outputs.end(stream);
                }
            }
        }
    }
    Ok(())
}

/// Passes a frame's bytes on in messages; those of a stream that is no output are dropped.
async fn data(
    runtime: &mut (impl AsyncRead + Unpin),
    client: &mut (impl Sink<Message, Error = WsError> + Unpin),
    channel: Option<u8>,
    length: usize,
    block: &mut [u8],
) -> io::Result<()> {
    let mut rest = length;
    while rest > 0 {
        let part = rest.min(block.len());
        let bytes = block.get_mut(..part).unwrap_or_default();
        runtime.read_exact(bytes).await?;
        rest -= part;
        if let Some(channel) = channel {
            let message: Bytes = [&[channel], &*bytes].concat().into();
            client.send(Message::Binary(message)).await.map_err(io::Error::other)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
        let Channels { mut inputs, mut outputs, .. } = Channels::open(&streams).unwrap();
        // In order: error 1, stdin 3, stdout 5, resize 7.
        type Expected = Option<Option<(u32, bool, &'static [u8])>>;
        let cases: [(&[u8], Expected); 13] = [
            (b"\x00abc", Some(Some((3, false, b"abc")))),
            (b"\x04{}", Some(Some((7, false, b"{}")))),
            (b"", Some(None)),
            (b"\x00", Some(None)),
            // Channels of the runtime's, and none of anybody's.
            (b"\x01abc", Some(None)),
            (b"\x03abc", Some(None)),
            (b"\x09abc", Some(None)),
            (&[CLOSE, 9], Some(None)),
            (&[CLOSE], None),
            (&[CLOSE, 0, 0], None),
            (&[CLOSE, 0], Some(Some((3, true, b"")))),
            // After its end.
            (&[CLOSE, 0], Some(None)),
            (b"\x00abc", Some(None)),
        ];
        for (message, expected) in cases {
            assert_eq!(inputs.take(message).ok(), expected, "{message:?}");
        }
        assert_eq!((outputs.first(), outputs.channel(1), outputs.channel(3)), (STDOUT, Some(ERROR), None));
        assert!(!outputs.told());
        outputs.end(1);
        outputs.end(1);
        assert!(outputs.told() && outputs.0 == [(STDOUT, 5)]);
    }

    /// A runtime that ends in the middle, or speaks another protocol, is an error; what it said before comes through.
    #[tokio::test]
    async fn runtimes() {
        let told = [&spdy::data(1, true, 2).unwrap()[..], b"{}"].concat();
        let text = [&spdy::data(5, false, 3).unwrap()[..], b"out"].concat();
        let end = spdy::data(5, true, 0).unwrap().to_vec();
        let cases = [
            ([&text[..], &told, &end].concat(), true, 2),
            ([&text[..], &told].concat(), true, 2),
            (text.clone(), false, 1),
            ([&told[..], &text[..9]].concat(), false, 1),
            ([&text[..], b"HTTP/1.1 "].concat(), false, 1),
            ([&text[..], &[0xff; 8]].concat(), false, 1),
            (vec![], false, 0),
        ];
        for (bytes, fine, messages) in cases {
            let streams = Streams { stdin: true, stdout: true, stderr: false, tty: false };
            let mut outputs = Channels::open(&streams).unwrap().outputs;
            let (answer, _answers) = mpsc::channel(ANSWERS);
            let mut sent = vec![];
            let mut client = Box::pin(futures::sink::unfold((), |(), message: Message| {
                sent.push(message);
                std::future::ready(Ok::<_, WsError>(()))
            }));
            let result = outward(&mut &bytes[..], &mut client, &mut outputs, &answer).await;
            assert_eq!(result.is_ok(), fine, "{bytes:?} {result:?}");
            drop(client);
            assert_eq!(sent.len(), messages, "{bytes:?}");
        }
    }
}

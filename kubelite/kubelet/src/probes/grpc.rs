//! One call of gRPC's health checking protocol (`grpc.health.v1.Health/Check`), unary and without TLS: small enough to
//! be written by hand over HTTP/2.

use super::action::{Outcome, authority, dial_error};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;
/// gRPC's status code OK.
const OK: &str = "0";
/// Bytes of an answer; a health check's are seven.
const MAX_ANSWER: usize = 64 << 10;
/// Before each message: a byte for compression, and its length.
const PREFIX: usize = 5;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks for the health of `service`, the empty name meaning the whole server.
pub(super) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let call = call(host, port, service);
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(SERVING)) => Outcome::Success,
        Ok(Ok(status)) => {
            let name = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
            let name = usize::try_from(status).ok().and_then(|at| name.get(at)).unwrap_or(&"UNKNOWN");
            Outcome::Failure(format!("service unhealthy (responded with \"{name}\")"))
        }
        Ok(Err(text)) => Outcome::Failure(text),
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service \"{}\" within {}s: context deadline exceeded",
            authority(host, port),
            timeout.as_secs()
        )),
    }
}

async fn call(host: &str, port: u16, service: &str) -> Result<i32, String> {
    let to = authority(host, port);
    let failed = |error: String| format!("failed to connect service \"{to}\": {error}");
    let stream = TcpStream::connect((host, port)).await.map_err(|e| failed(dial_error(host, port, &e)))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| failed(e.to_string()))?;
    let request = http::Request::post(format!("http://{to}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(framed(&Request { service: service.to_string() })))
        .map_err(|e| failed(e.to_string()))?;
    // Dropped with this future, the connection ends with the call.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
    // An error without a message has its status in the head.
    let early = status(answer.headers());
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
    match early.or(body.trailers().and_then(status)).as_deref() {
        Some(OK) => parse(&body.to_bytes()).ok_or_else(|| "the answer is no health check's".into()),
        code => Err(format!("error: health rpc failed: rpc error: code = {}", code.unwrap_or("unknown"))),
    }
}

fn status(headers: &http::HeaderMap) -> Option<String> {
    headers.get("grpc-status").and_then(|s| s.to_str().ok()).map(str::to_string)
}

fn framed(message: &Request) -> Bytes {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = vec![0];
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes.into()
}

fn parse(body: &[u8]) -> Option<i32> {
    Some(Answer::decode(body.get(PREFIX..)?).ok()?.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(framed(&Request { service: "ab".into() })[..], [0, 0, 0, 0, 4, 10, 2, b'a', b'b']);
        assert_eq!(parse(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(parse(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(parse(&[0, 0]), None);
    }
}

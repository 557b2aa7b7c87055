//! Exec and attach over `v5.channel.k8s.io`, message by message, and with the kubectl that is there.

use crate::api::Api;
use crate::front::Front;
use crate::node::{Node, wait};
use crate::streaming::{LIMIT, free_address};
use crate::tls::{API_SERVER, Authority};
use crate::{pod, ready, sh};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

const V5: &str = "v5.channel.k8s.io";
const CLOSE_STDIN: &[u8] = &[255, 0];

/// What a client has got at the end: bytes by channel, and how the WebSocket was closed.
#[derive(Debug)]
struct End {
    channels: BTreeMap<u8, Vec<u8>>,
    code: Option<CloseCode>,
}

impl End {
    fn text(&self, channel: u8) -> String {
        self.channels.get(&channel).map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.text(3)).unwrap_or_else(|e| panic!("{e}: {:?}", self.text(3)))
    }
}

struct Client {
    authority: Authority,
    kubelet: SocketAddr,
}

impl Client {
    async fn open(&self, path: &str) -> WebSocketStream<TlsStream<tokio::net::TcpStream>> {
        let stream = self.authority.connect(self.kubelet, Some((API_SERVER, ""))).await;
        let mut request = format!("ws://{}{path}", self.kubelet).into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", V5.parse().unwrap());
        let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], V5);
        socket
    }

    /// Sends the messages and reads until the end.
    async fn exec(&self, options: &str, script: &str, messages: &[&[u8]]) -> End {
        let script: String = script.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/exec/default/web/c?command=/bin/sh&command=-c&command={script}&{options}");
        let (mut to, from) = self.open(&path).await.split();
        let send = async {
            for message in messages {
                to.send(Message::Binary(message.to_vec().into())).await.unwrap();
            }
            // Kept until the end: a client that leaves is another case.
            to
        };
        let (end, _to) = tokio::join!(tokio::time::timeout(LIMIT, read(from)), send);
        end.unwrap_or_else(|_| panic!("{script} does not end"))
    }
}

async fn read(
    mut from: impl StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
) -> End {
    let mut end = End { channels: BTreeMap::new(), code: None };
    while let Some(Ok(message)) = from.next().await {
        match message {
            Message::Binary(bytes) => {
                let (channel, bytes) = bytes.split_first().unwrap();
                end.channels.entry(*channel).or_default().extend(bytes);
            }
            Message::Close(frame) => end.code = frame.map(|f| f.code),
            _ => {}
        }
    }
    end
}

#[tokio::test(flavor = "multi_thread")]
async fn closable_channels() {
    let node = Node::start();
    let api = Api::new();
    let authority = Authority::new();
    let kubelet = free_address().await;
    let (shutdown, task) = node.kubelet_at(&api, &authority, kubelet);
    let mut container = sh("c", "cat; echo stdin ended; sleep 1000");
    container["stdin"] = true.into();
    container["stdinOnce"] = true.into();
    let (path, object) = pod("web", json!({ "containers": [container] }));
    api.put(&path, object);
    wait(&api, &path, "ready", ready).await;
    let client = Client { authority: authority.clone(), kubelet };

    ends(&client).await;
    much(&client).await;
    terminal(&client).await;
    malformed(&client).await;
    attached(&client).await;
    kubectl(&api, &authority, kubelet).await;
    shutdown.cancel();
    tokio::time::timeout(LIMIT, task).await.expect("a tunnel outlives the kubelet").unwrap().unwrap();
}

async fn ends(client: &Client) {
    let all = "input=1&output=1&error=1";
    // Channels that nobody has, or that are the runtime's, and what comes after the end, change nothing.
    let messages: &[&[u8]] =
        &[b"\x00hello ", b"\x09noise", b"\x03noise", &[255, 77], b"", b"\x00world", CLOSE_STDIN, b"\x00late"];
    let end = client.exec(all, "wc -c", messages).await;
    assert_eq!((end.text(1).trim(), end.code), ("11", Some(CloseCode::Normal)), "{end:?}");
    assert_eq!(end.status()["status"], "Success");

    let end = client.exec("output=1&error=1", "echo out; echo err >&2; exit 7", &[]).await;
    assert_eq!((end.text(1).as_str(), end.text(2).as_str()), ("out\n", "err\n"), "{end:?}");
    let status = end.status();
    assert_eq!((&status["status"], &status["reason"]), (&json!("Failure"), &json!("NonZeroExitCode")));
    assert_eq!(status["details"]["causes"][0]["message"], "7", "{status}");

    // A command that ends while its input goes on.
    let block = [&[0][..], &[b'x'; 32 << 10]].concat();
    let end = client.exec(all, "head -c 5", &[block.as_slice(); 4]).await;
    assert_eq!((end.text(1).as_str(), end.code), ("xxxxx", Some(CloseCode::Normal)), "{end:?}");
    assert_eq!(end.status()["status"], "Success");
}

/// 10 MB out, then 10 MB in and out again, both far beyond a window of SPDY's.
async fn much(client: &Client) {
    let end = client.exec("output=1", "yes 0123456 | head -c 10000000", &[]).await;
    let expected: Vec<u8> = b"0123456\n".iter().copied().cycle().take(10_000_000).collect();
    assert!(end.channels[&1] == expected, "{} bytes", end.channels[&1].len());

    let input: Vec<u8> = (0..10_000_000u32).map(|n| (n % 251) as u8).collect();
    let messages: Vec<Vec<u8>> = input.chunks(100_000).map(|c| [&[0], c].concat()).collect();
    let mut messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    messages.push(CLOSE_STDIN);
    let end = client.exec("input=1&output=1", "cat", &messages).await;
    assert!(end.channels[&1] == input, "{} bytes", end.channels[&1].len());
    assert_eq!(end.status()["status"], "Success");
}

async fn terminal(client: &Client) {
    let size = br#"{"Width":123,"Height":45}"#;
    let resize = [&[4][..], size].concat();
    let script = "until stty size 2>/dev/null | grep -x '45 123'; do sleep 0.1; done";
    let end = client.exec("input=1&output=1&tty=1", script, &[&resize]).await;
    assert_eq!(end.text(1), "45 123\r\n", "{end:?}");
    assert_eq!(end.status()["status"], "Success");
}

async fn malformed(client: &Client) {
    for message in [&[255][..], &[255, 0, 0]] {
        let end = client.exec("input=1&output=1", "cat", &[message]).await;
        assert_eq!((end.code, end.text(3).as_str()), (Some(CloseCode::Protocol), ""), "{end:?}");
    }
    // A frame that is no WebSocket frame, and one that is too long: the connection ends, the kubelet doesn't.
    let long = [&[0x82, 0xff][..], &(1u64 << 40).to_be_bytes(), &[0; 4]].concat();
    for bytes in [&[0xff; 64][..], &long] {
        let mut socket = client.open("/exec/default/web/c?command=cat&input=1&output=1").await;
        socket.get_mut().write_all(bytes).await.unwrap();
        let end = tokio::time::timeout(LIMIT, read(socket)).await.expect("the connection stays");
        assert_ne!(end.code, Some(CloseCode::Normal), "{end:?}");
    }
    let end = client.exec("output=1", "echo still here", &[]).await;
    assert_eq!(end.text(1), "still here\n");
}

/// The container reads its stdin to the end, which CLOSE is, and its answer comes over the same connection.
async fn attached(client: &Client) {
    let mut socket = client.open("/attach/default/web/c?input=1&output=1&error=1").await;
    for message in [b"\x00forty-two\n", CLOSE_STDIN] {
        socket.send(Message::Binary(message.to_vec().into())).await.unwrap();
    }
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("forty-two\nstdin ended\n") {
        let message = tokio::time::timeout(LIMIT, socket.next()).await;
        let Ok(Some(Ok(Message::Binary(bytes)))) = message else {
            panic!("{message:?} after {:?}", String::from_utf8_lossy(&seen))
        };
        seen.extend(&bytes[1..]);
    }
}

/// kubectl as it is by default: v5 at once, and not SPDY after a refusal.
async fn kubectl(api: &Api, authority: &Authority, kubelet: SocketAddr) {
    let front = Front::start(api, authority, kubelet).await;
    let home = tempfile::tempdir().unwrap();
    let arguments = ["-v=6", "exec", "-i", "web", "--", "/bin/sh", "-c", "wc -c; exit 3"];
    let mut child = front.kubectl(home.path(), &arguments);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&[b'x'; 50_000]).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("kubectl stays").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "50000", "{said}");
    assert_eq!(output.status.code(), Some(3), "{said}");
    // One upgrade, no second one by SPDY.
    let upgrades: Vec<&str> = said.lines().filter(|line| line.contains("/exec?")).collect();
    assert!(upgrades.len() == 1 && upgrades[0].contains("101"), "{said}");
}

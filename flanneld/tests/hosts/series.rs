//! Small messages from pod to pod, one each millisecond, and what became of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hostnet::netns::run_in;
use nix::sys::socket::{setsockopt, sockopt};

use super::lab::Pod;
use super::traffic::dial;
use super::wire::udp;

/// Between two messages.
const PACE: Duration = Duration::from_millis(1);
/// What is under way when the sender stops has arrived after this time.
const LAST: Duration = Duration::from_millis(500);
const TCP_PORT: u16 = 7001;

/// A series that goes on until it is stopped.
pub struct Series {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<(u64, Vec<Instant>)>,
}

/// What became of a series.
#[derive(Debug)]
#[allow(dead_code, reason = "all of it is printed")]
pub struct Outcome {
    /// Messages that did not arrive.
    pub lost: u64,
    /// Messages that were sent, lost ones included.
    pub sent: u64,
    /// The longest time in which none arrived.
    pub gap: Duration,
}

impl Series {
    /// Datagrams.
    pub fn udp(from: &Pod, to: &Pod) -> Series {
        let (sender, receiver) = (udp(from.ns.path(), (from.ip, 0)), udp(to.ns.path(), (to.ip, 0)));
        // That this test stands still for a moment must not look like a loss.
        setsockopt(&receiver, sockopt::RcvBufForce, &(8 << 20)).unwrap();
        let address = receiver.local_addr().unwrap();
        Series::start(
            // An error is an answer by ICMP to an earlier one: that one is lost, and this one is sent by the next call.
            move |number| {
                drop(sender.send_to(&number, address).or_else(|_| sender.send_to(&number, address)));
            },
            move |stop| receive(&receiver, stop),
        )
    }

    /// Messages on one connection.
    pub fn tcp(from: &Pod, to: &Pod) -> Series {
        let address = (to.ip, TCP_PORT);
        let listener = run_in(to.ns.path(), || TcpListener::bind(address)).unwrap().unwrap();
        let mut sender = dial(from.ns.path(), to.ip, TCP_PORT).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        Series::start(
            move |number| sender.write_all(&number).expect("the connection broke"),
            move |_| {
                let (mut times, mut number) = (Vec::new(), [0; 8]);
                // Until the sender closes its end.
                while stream.read_exact(&mut number).is_ok() {
                    assert_eq!(u64::from_be_bytes(number), times.len() as u64, "in order, none twice");
                    times.push(Instant::now());
                }
                (times.len() as u64, times)
            },
        )
    }

    fn start(
        mut send: impl FnMut([u8; 8]) + Send + 'static,
        receive: impl FnOnce(&AtomicBool) -> (u64, Vec<Instant>) + Send + 'static,
    ) -> Series {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, ended) = (stop.clone(), Arc::new(AtomicBool::new(false)));
        let end = ended.clone();
        let receiver = std::thread::spawn(move || receive(&ended));
        let sender = std::thread::spawn(move || {
            let (start, mut number) = (Instant::now(), 0_u64);
            while !stopped.load(Ordering::Relaxed) {
                send(number.to_be_bytes());
                number += 1;
                let due = start + PACE * u32::try_from(number).unwrap();
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            std::thread::sleep(LAST);
            end.store(true, Ordering::Relaxed);
            number
        });
        Series { stop, sender, receiver }
    }

    /// Ends it.
    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap();
        let (arrived, times) = self.receiver.join().unwrap();
        assert!(sent > 100, "too few messages to say anything");
        let gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::MAX);
        Outcome { lost: sent - arrived, sent, gap }
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool) -> (u64, Vec<Instant>) {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (mut times, mut seen, mut number) = (Vec::new(), std::collections::BTreeSet::new(), [0; 8]);
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut number) {
            Ok(_) => {
                times.push(Instant::now());
                assert!(seen.insert(u64::from_be_bytes(number)), "one arrived twice");
            }
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionRefused
                ),
                "{error}"
            ),
        }
    }
    (seen.len() as u64, times)
}

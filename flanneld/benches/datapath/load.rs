//! What the pods do: streams of bytes, floods of small datagrams, questions and answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hostnet::netns::run_in;
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use super::cpu::{self, Pinned};
use super::lab::Pod;

/// Bytes of a datagram's payload.
const SMALL: usize = 64;
/// Before counting begins, streams have found their speed.
const SETTLE: Duration = Duration::from_millis(300);
/// A socket buffer that does not overflow in the few milliseconds in which its reader does not run.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Loads from the first pod to the second.
pub struct Loads<'a> {
    pub pods: &'a [Pod; 2],
    pub processors: &'a [Pinned; 2],
    pub duration: Duration,
    pub daemons: [Pid; 2],
}

impl Loads<'_> {
    /// Waits until the pods reach each other.
    pub fn warm_up(&self) {
        let listener = self.listen();
        let connect = || TcpStream::connect_timeout(&listener.local_addr().unwrap(), Duration::from_secs(1));
        let deadline = Instant::now() + Duration::from_secs(20);
        while run_in(self.pods[0].ns.path(), connect).unwrap().is_err() {
            assert!(Instant::now() < deadline, "the pods do not reach each other");
        }
    }

    /// Bytes in so many streams: Gbit/s received, and Gbit per second of processor time.
    pub fn tcp(&self, streams: usize) -> (f64, f64) {
        self.during_streams(streams, |received| {
            let (bytes, cpu, start) = (received.load(Ordering::Relaxed), self.cpu(), Instant::now());
            std::thread::sleep(self.duration);
            let (bytes, cpu, time) =
                (received.load(Ordering::Relaxed) - bytes, self.cpu() - cpu, start.elapsed().as_secs_f64());
            let gbit = bytes as f64 * 8e-9;
            (gbit / time, gbit / cpu)
        })
    }

    /// [`Loads::questions`] while a stream takes all that there is.
    pub fn questions_under_load(&self) -> (f64, f64) {
        self.during_streams(1, |_| self.questions())
    }

    /// Does something while so many streams run; it can see how many bytes have come.
    fn during_streams<T>(&self, streams: usize, work: impl FnOnce(&AtomicU64) -> T) -> T {
        let listener = self.listen();
        let (received, stop) = (&AtomicU64::new(0), &AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..streams {
                let mut stream = self.dial(&listener);
                let (mut sink, _) = listener.accept().unwrap();
                scope.spawn(move || {
                    self.processors[1].stay();
                    let mut buffer = vec![0; 256 << 10];
                    while let Ok(length @ 1..) = sink.read(&mut buffer) {
                        received.fetch_add(length as u64, Ordering::Relaxed);
                    }
                });
                scope.spawn(move || {
                    self.processors[0].stay();
                    let buffer = vec![7; 128 << 10];
                    while !stop.load(Ordering::Relaxed) && stream.write_all(&buffer).is_ok() {}
                });
            }
            std::thread::sleep(SETTLE);
            let result = work(received);
            stop.store(true, Ordering::Relaxed);
            result
        })
    }

    /// Small datagrams, as many as one thread sends: thousands a second received, and the share that was lost.
    pub fn datagrams(&self) -> (f64, f64) {
        let (sink, source) = (bind(&self.pods[1]), bind(&self.pods[0]));
        source.connect(sink.local_addr().unwrap()).unwrap();
        let _ = setsockopt(&sink, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        // A little longer than it takes until the last one is there.
        sink.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                self.processors[1].stay();
                let mut buffer = [0; 2 * SMALL];
                let mut count = 0_u64;
                while sink.recv(&mut buffer).is_ok() {
                    count += 1;
                }
                count
            });
            let sender = scope.spawn(|| {
                self.processors[0].stay();
                let (end, mut count) = (Instant::now() + self.duration, 0_u64);
                while Instant::now() < end {
                    count += (0..64).filter(|_| source.send(&[7; SMALL]).is_ok()).count() as u64;
                }
                count
            });
            let sent = sender.join().unwrap();
            let received = receiver.join().unwrap();
            let lost = 1.0 - received as f64 / sent as f64;
            (received as f64 / self.duration.as_secs_f64() / 1000.0, lost)
        })
    }

    /// One byte there and one back, over and over: median and 99th percentile in microseconds.
    pub fn questions(&self) -> (f64, f64) {
        let listener = self.listen();
        let mut stream = self.dial(&listener);
        let (mut other, _) = listener.accept().unwrap();
        for end in [&stream, &other] {
            end.set_nodelay(true).unwrap();
        }
        std::thread::scope(|scope| {
            scope.spawn(move || {
                self.processors[1].stay();
                let mut byte = [0];
                while other.read_exact(&mut byte).is_ok() && other.write_all(&byte).is_ok() {}
            });
            let asker = scope.spawn(move || {
                self.processors[0].stay();
                let (mut byte, mut times) = ([0], Vec::with_capacity(1 << 20));
                let end = Instant::now() + self.duration;
                while Instant::now() < end {
                    let start = Instant::now();
                    stream.write_all(&byte).unwrap();
                    stream.read_exact(&mut byte).unwrap();
                    times.push(start.elapsed());
                }
                times.sort_unstable();
                let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
                (at(0.5), at(0.99))
            });
            asker.join().unwrap()
        })
    }

    fn cpu(&self) -> f64 {
        cpu::seconds(&self.daemons)
    }

    fn listen(&self) -> TcpListener {
        let pod = &self.pods[1];
        inside(pod.ns.path(), || TcpListener::bind((pod.ip, 0)))
    }

    fn dial(&self, listener: &TcpListener) -> TcpStream {
        let to: SocketAddr = listener.local_addr().unwrap();
        inside(self.pods[0].ns.path(), || TcpStream::connect(to))
    }
}

fn bind(pod: &Pod) -> UdpSocket {
    inside(pod.ns.path(), || UdpSocket::bind((pod.ip, 0)))
}

fn inside<T: Send>(ns: &Path, work: impl FnOnce() -> std::io::Result<T> + Send) -> T {
    run_in(ns, work).unwrap().unwrap()
}

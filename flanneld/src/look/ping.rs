//! `flanneld ping`: how long an address of the pod network takes to answer, from this host by way of the tunnel.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Output;
use super::trace::echo::{Heard, Trouble};
use super::trace::judge::{Finding, Verdict, milliseconds};
use super::trace::probe::Prober;

/// `flanneld ping`.
#[derive(Debug, Args)]
pub struct PingArgs {
    /// An address of the pod network
    #[arg(value_name = "POD_IP")]
    to: Ipv4Addr,
    /// Say at which hop packets to it end
    #[arg(long)]
    trace: bool,
    /// How many pings
    #[arg(short, long, alias = "c", value_name = "N", default_value_t = 4)]
    count: u16,
    /// Size of the whole IP packet in bytes; it is not fragmented
    #[arg(short, long, alias = "s", value_name = "BYTES", default_value_t = 84, value_parser = clap::value_parser!(u16).range(28..))]
    size: u16,
    /// How a trace is printed
    #[arg(short, long, alias = "o", value_enum, default_value_t, requires = "trace")]
    output: Output,
}

/// Between two pings.
const PAUSE: Duration = Duration::from_secs(1);

/// Pings or traces; success if everything was answered.
pub(super) async fn run(args: &PingArgs, socket: &Path) -> Result<ExitCode> {
    if args.trace {
        return trace(args, socket).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (to, count, size, stopped) = (args.to, args.count, usize::from(args.size), stop.clone());
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut pinging = tokio::task::spawn_blocking(move || ping(to, count, size, &stopped));
    let all = tokio::select! {
        all = &mut pinging => all,
        _ = async { tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} } } => {
            stop.store(true, Relaxed);
            pinging.await
        }
    }??;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn trace(args: &PingArgs, socket: &Path) -> Result<ExitCode> {
    let mut findings = Vec::new();
    let text = args.output == Output::Text;
    let mut tell = |finding: &Finding| {
        findings.push(finding.clone());
        if text { Ok(super::print(&line(finding))?) } else { Ok(()) }
    };
    let well = super::trace::run(args.to, socket, &mut tell).await?;
    if !text {
        super::print(&(serde_json::to_string_pretty(&findings)? + "\n"))?;
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Ok => "ok",
        Verdict::Unsure => "?",
        Verdict::Fail => "FAIL",
    };
    let next = finding.next.as_ref().map(|next| format!("{:16}→ {next}\n", "")).unwrap_or_default();
    format!("{mark:<5}{:<11}{}\n{next}", finding.stage, finding.says)
}

fn ping(to: Ipv4Addr, count: u16, size: usize, stop: &AtomicBool) -> Result<bool> {
    let mut prober = Prober::open().context("cannot open a raw socket (root, with CAP_NET_RAW?)")?;
    let (mut times, mut sent) = (Vec::new(), 0_u16);
    while sent < count && !stop.load(Relaxed) {
        sent += 1;
        let (start, last) = (Instant::now(), sent == count);
        match prober.send(to, size) {
            Err(error) => say(&format!("cannot send to {to}: {error}"))?,
            Ok(sequence) => {
                let heard = prober.hear(to, None, start + PAUSE)?;
                let took = start.elapsed();
                match heard {
                    Some(Heard::Echo { sequence: answered, ttl, size, .. }) if answered == sequence => {
                        times.push(took);
                        say(&format!(
                            "{size} bytes from {to}: seq={sent} ttl={ttl} time={}",
                            milliseconds(took)
                        ))?;
                    }
                    Some(Heard::Trouble { from, what, .. }) => {
                        say(&format!("from {from}: seq={sent} {}", told(what)))?;
                    }
                    _ => say(&format!("no answer: seq={sent}"))?,
                }
            }
        }
        if !last && !stop.load(Relaxed) {
            std::thread::sleep(PAUSE.saturating_sub(start.elapsed()));
        }
    }
    say(&summary(sent, &times))?;
    Ok(sent > 0 && times.len() == usize::from(sent))
}

fn say(text: &str) -> io::Result<()> {
    super::print(&format!("{text}\n"))?;
    io::stdout().flush()
}

fn told(what: Trouble) -> String {
    match what {
        Trouble::Net => "network unreachable".to_owned(),
        Trouble::Host => "host unreachable".to_owned(),
        Trouble::Port => "port unreachable".to_owned(),
        Trouble::Prohibited => "prohibited by a firewall".to_owned(),
        Trouble::TooBig(mtu) => format!("too large, {mtu} bytes would pass"),
        Trouble::Expired => "it went in circles".to_owned(),
        Trouble::Other(kind, code) => format!("ICMP type {kind} code {code}"),
    }
}

fn summary(sent: u16, times: &[Duration]) -> String {
    let received = times.len();
    let lost = 100 - (100 * received).checked_div(sent.into()).unwrap_or(100);
    let counts = format!("{sent} sent, {received} answered, {lost} % lost");
    let (Some(least), Some(most)) = (times.iter().min(), times.iter().max()) else { return counts };
    let mean = times.iter().sum::<Duration>() / u32::try_from(received).unwrap_or(1);
    format!("{counts}; min/avg/max {}/{}/{}", milliseconds(*least), milliseconds(mean), milliseconds(*most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_and_a_finding_has_its_line() {
        let times = [2, 4].map(Duration::from_millis);
        assert_eq!(summary(4, &times), "4 sent, 2 answered, 50 % lost; min/avg/max 2.00 ms/3.00 ms/4.00 ms");
        assert_eq!(summary(3, &[]), "3 sent, 0 answered, 100 % lost");
        let finding = Finding {
            stage: "tunnel",
            verdict: Verdict::Fail,
            says: "dead".into(),
            next: Some("start it".into()),
        };
        assert_eq!(line(&finding), "FAIL tunnel     dead\n                → start it\n");
    }
}

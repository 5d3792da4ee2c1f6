//! What sends the packets: small UDP datagrams, run inside the lab's namespaces.
//!
//! On veth the whole way of a packet (sending, routing, forwarding, every program attached to it) runs on the sender's
//! CPU, so wall time per packet there is the cost of the way. The best decile of slices of one millisecond leaves out
//! those in which the thread was preempted or the virtual CPU stolen.

use std::{
    io::IoSlice,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, setsockopt, sockopt::SndBuf};
use serde::{Deserialize, Serialize};

use super::{clock, stats};

/// Datagrams given to the kernel at once.
const BATCH: usize = 32;
/// 22 bytes make an Ethernet frame of 64.
const PAYLOAD: [u8; 22] = [b'x'; 22];
/// A slice over which time per packet is taken.
const SLICE: Duration = Duration::from_millis(1);
/// No slice is kept beyond this: half a minute.
const SLICES_MAX: usize = 30_000;

/// How to send.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// Where to.
    #[arg(long)]
    pub(crate) to: SocketAddr,
    /// For how long, seconds.
    #[arg(long)]
    pub(crate) seconds: f64,
    /// Packets a second; 0 is as many as possible.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u64,
    /// End after this many packets.
    #[arg(long, default_value_t = u64::MAX)]
    pub(crate) count: u64,
    /// With --rate: go round so many ports, from that of --to on, each a flow of its own.
    #[arg(long, default_value_t = 1)]
    pub(crate) ports: u16,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// Packets the kernel took.
    pub(crate) packets: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Wall nanoseconds per packet in the best decile of slices; 0 where there was no full slice.
    pub(crate) best_ns: f64,
}

/// Sends, and prints a [`Sent`] as JSON.
pub(crate) fn send(args: &LoadArgs) -> Result<()> {
    let sent = if args.rate == 0 { flood(args)? } else { trickle(args)? };
    println!("{}", serde_json::to_string(&sent).context("write what was sent")?);
    Ok(())
}

fn socket(to: SocketAddr) -> Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).context("make a UDP socket")?;
    socket.connect(to).with_context(|| format!("connect to {to}"))?;
    setsockopt(&socket, SndBuf, &(4 << 20)).context("make the send buffer larger")?;
    Ok(socket)
}

fn flood(args: &LoadArgs) -> Result<Sent> {
    let socket = socket(args.to)?;
    let payload = [IoSlice::new(&PAYLOAD)];
    let batch = [payload; BATCH];
    let none: [Option<SockaddrStorage>; BATCH] = [None; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let start = clock::now();
    let (mut packets, mut slices) = (0, Vec::with_capacity(SLICES_MAX));
    let (mut slice_start, mut slice_packets) = (start, 0);
    loop {
        let now = clock::now();
        if now - slice_start >= SLICE && slice_packets > 0 && slices.len() < SLICES_MAX {
            slices.push((now - slice_start).as_nanos() as f64 / f64::from(slice_packets));
            (slice_start, slice_packets) = (now, 0);
        }
        if (now - start).as_secs_f64() >= args.seconds || packets >= args.count {
            break;
        }
        // A refused or dropped datagram (ECONNREFUSED, EPERM) is no reason to end: sending goes on.
        let want = BATCH.min(usize::try_from(args.count - packets).unwrap_or(BATCH));
        if let Ok(taken) =
            sendmmsg(socket.as_raw_fd(), &mut headers, &batch[..want], &none[..want], [], MsgFlags::empty())
        {
            let taken = u32::try_from(taken.count()).unwrap_or(0);
            packets += u64::from(taken);
            slice_packets += taken;
        }
    }
    Ok(Sent { packets, seconds: start.elapsed().as_secs_f64(), best_ns: stats::quantile(&slices, 0.1) })
}

fn trickle(args: &LoadArgs) -> Result<Sent> {
    let socket = socket(args.to)?;
    let pause = Duration::from_secs_f64(1.0 / args.rate as f64);
    let start = clock::now();
    let mut packets = 0;
    while packets < args.count && start.elapsed().as_secs_f64() < args.seconds {
        let port = args.to.port() + u16::try_from(packets % u64::from(args.ports.max(1))).unwrap_or(0);
        packets += u64::from(socket.send_to(&PAYLOAD, (args.to.ip(), port)).is_ok());
        thread::sleep(pause);
    }
    Ok(Sent { packets, seconds: start.elapsed().as_secs_f64(), best_ns: 0.0 })
}

//! Requests to rtnetlink and nfnetlink, and their answers.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};

/// How often a dump is begun again because the kernel's tables changed under it. After that we take
/// what we have: the notifications that follow repair it.
const DUMP_ATTEMPTS: usize = 4;

/// Room for the largest datagram.
const BUFFER_BYTES: usize = 64 * 1024;

/// `struct nlmsghdr`, bytes (`include/uapi/linux/netlink.h`).
const HEADER_BYTES: usize = 16;

/// A socket for requests, bound to the namespace it was opened in.
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    /// Messages of the kernel that we could not read.
    pub(crate) unread: u64,
}

impl Requests {
    /// Opens one in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Self::open_to(NETLINK_ROUTE)
    }

    /// The same to nfnetlink.
    pub(crate) fn open_netfilter() -> io::Result<Self> {
        Self::open_to(NETLINK_NETFILTER)
    }

    fn open_to(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, buffer: vec![], unread: 0 })
    }

    /// Every object a dump request yields, as one consistent table where the kernel lets us.
    pub(crate) fn dump(&mut self, request: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut unread = 0;
        let objects = self.dump_as(request, |frame| {
            let message = frame.message();
            unread += u64::from(message.is_none());
            message
        })?;
        self.unread += unread;
        Ok(objects)
    }

    /// What `read` makes of every object of a dump.
    pub(crate) fn dump_as<T>(
        &mut self,
        request: &RouteNetlinkMessage,
        mut read: impl FnMut(&Notification<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut payload = vec![0; request.buffer_len()];
        request.serialize(&mut payload);
        self.dump_raw(request.message_type(), &payload, &mut read)
    }

    /// The same for a request that the library does not know, or not all of the answer to.
    pub(crate) fn dump_raw<T>(
        &mut self,
        kind: u16,
        payload: &[u8],
        mut read: impl FnMut(&Notification<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut got = vec![];
        for _ in 0..DUMP_ATTEMPTS {
            self.send_bytes(kind, NLM_F_REQUEST | NLM_F_DUMP, payload)?;
            got.clear();
            if self.answers(|frame| got.extend(read(frame)))? {
                break;
            }
        }
        Ok(got)
    }

    /// The answer to a request for one object.
    pub(crate) fn get(&mut self, request: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut got = None;
        self.send(&request, NLM_F_REQUEST | NLM_F_ACK)?;
        self.answers(|frame| got = frame.message())?;
        Ok(got)
    }

    /// The answer to a request that the library does not know, as `read` understands it.
    pub(crate) fn get_as<T>(
        &mut self,
        kind: u16,
        payload: &[u8],
        mut read: impl FnMut(&Notification<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut got = None;
        self.send_bytes(kind, NLM_F_REQUEST | NLM_F_ACK, payload)?;
        self.answers(|frame| got = read(frame))?;
        Ok(got)
    }

    /// Has the kernel change something, and waits for its word on it. `how` are the flags of the change: `NLM_F_CREATE`.
    pub(crate) fn change(&mut self, request: &RouteNetlinkMessage, how: u16) -> io::Result<()> {
        self.send(request, NLM_F_REQUEST | NLM_F_ACK | how)?;
        self.answers(|_| {}).map(drop)
    }

    fn send(&mut self, request: &RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut payload = vec![0; request.buffer_len()];
        request.serialize(&mut payload);
        self.send_bytes(request.message_type(), flags, &payload)
    }

    fn send_bytes(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend(payload);
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut header = NetlinkBuffer::new(&mut bytes);
        header.set_length(length);
        header.set_message_type(kind);
        header.set_flags(flags);
        header.set_sequence_number(self.sequence);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads up to the end of the answer. False if the kernel says that the table changed meanwhile.
    fn answers(&mut self, mut each: impl FnMut(&Notification<'_>)) -> io::Result<bool> {
        let mut consistent = true;
        loop {
            receive(&self.socket, &mut self.buffer)?;
            for bytes in messages(&self.buffer) {
                let Ok(frame) = NetlinkBuffer::new_checked(bytes) else { continue };
                if frame.sequence_number() != self.sequence {
                    continue;
                }
                consistent &= frame.flags() & NLM_F_DUMP_INTR == 0;
                match frame.message_type() {
                    NLMSG_DONE => return Ok(consistent),
                    NLMSG_ERROR => match error(frame.payload()) {
                        Some(error) => return Err(error),
                        None => return Ok(consistent),
                    },
                    _ => each(&Notification::of(&frame)),
                }
            }
        }
    }
}

/// What an answer says of a request: that it was refused, that it was done (`None`); no answer is none.
pub(crate) fn refusal(message: &Notification<'_>) -> Option<Option<io::Error>> {
    (message.kind == NLMSG_ERROR).then(|| error(message.payload))
}

/// `struct nlmsgerr` begins with a negative errno, or 0.
fn error(payload: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(*payload.first_chunk()?);
    (code != 0).then(|| io::Error::from_raw_os_error(code.saturating_neg()))
}

/// One datagram, tried again when a signal interrupts.
///
/// The kernel fills no more than 32 KiB (`NLMSG_GOODSIZE`, `netlink_recvmsg`), so the buffer is never too small.
fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        buffer.clear();
        buffer.reserve(BUFFER_BYTES);
        match socket.recv(buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}

/// The messages in a datagram. What follows a damaged length is left out.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*datagram.first_chunk::<4>()?) as usize;
        if length < HEADER_BYTES || length > datagram.len() {
            return None;
        }
        let message = &datagram[..length];
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// A message of the kernel.
pub(crate) struct Notification<'a> {
    /// Port id of the request that caused it; 0 for the kernel's own doing.
    pub(crate) port_id: u32,
    /// `RTM_*`.
    pub(crate) kind: u16,
    /// It replaces what was there under the same key.
    pub(crate) replaces: bool,
    /// What follows the header.
    pub(crate) payload: &'a [u8],
}

impl<'a> Notification<'a> {
    /// Reads the header.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        NetlinkBuffer::new_checked(bytes).ok().map(|frame| Self::of(&frame))
    }

    fn of(frame: &NetlinkBuffer<&'a [u8]>) -> Self {
        Self {
            port_id: frame.port_number(),
            kind: frame.message_type(),
            replaces: frame.flags() & NLM_F_REPLACE != 0,
            payload: frame.payload(),
        }
    }

    /// The rest, where the library can read it.
    pub(crate) fn message(&self) -> Option<RouteNetlinkMessage> {
        let mut header = NetlinkHeader::default();
        header.message_type = self.kind;
        RouteNetlinkMessage::deserialize(&header, self.payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn damaged_datagrams_yield_no_message_beyond_their_end(datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = 0;
            for message in messages(&datagram) {
                bytes += message.len();
                drop(Notification::new(message).and_then(|n| n.message()));
            }
            prop_assert!(bytes <= datagram.len());
        }
    }

    #[test]
    fn a_datagram_of_two_messages_yields_both() {
        let mut one = vec![0; 20];
        one[0] = 18;
        let two: Vec<u8> = one.iter().chain(&one).copied().collect();
        assert_eq!(messages(&two).map(<[u8]>::len).collect::<Vec<_>>(), [18, 18]);
    }
}

//! Classifiers as filters of a clsact qdisc, for kernels without TCX links.
//!
//! A filter belongs to the device and outlives us. So each names the process that added it (`Owner`), and nothing is
//! removed but netprobe's own filters and a clsact qdisc that is there because of netprobe and that nobody uses. The
//! functions work in the namespace of the calling thread.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable as _};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
};

use super::owner::{Life, Owner};
use crate::probe::netlink::Requests;

/// Where ours goes among the filters at ingress: before the preferences that people write and that the kernel gives, but
/// with room before it, since the kernel gives a filter without one the place before the first, and fails at 0.
const FIRST: u16 = 47;
/// The least preference that ours takes.
const LEAST: u16 = 2;
/// Behind the others, at egress.
const LAST: u16 = u16::MAX;
/// `ETH_P_ALL` in network byte order, as `tcm_info` has it.
const ANY_PROTOCOL: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;
/// How long another netprobe may take for one device.
const PATIENCE: Duration = Duration::from_secs(2);

/// A program to attach.
#[derive(Clone, Copy)]
pub(super) struct Program<'a> {
    pub(super) name: &'a str,
    pub(super) fd: BorrowedFd<'a>,
    pub(super) egress: bool,
}

/// A filter of a clsact qdisc, or the head of a preference (handle 0).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Filter {
    egress: bool,
    /// `tcm_info`: the preference, and the protocol in network byte order.
    info: u32,
    handle: u32,
    kind: String,
    /// Of a bpf filter.
    name: String,
    /// Id of its program.
    program: u32,
}

impl Filter {
    /// Reads what follows the netlink header. What the library cannot read is still there, and not ours.
    fn read(egress: bool, payload: &[u8]) -> Option<Self> {
        let header = TcHeader::parse(payload).ok()?;
        let mut filter = Self { egress, info: header.info, handle: header.handle.into(), ..Self::default() };
        for attribute in TcMessage::parse(payload).map(|message| message.attributes).unwrap_or_default() {
            match attribute {
                TcAttribute::Kind(kind) => filter.kind = kind,
                TcAttribute::Options(options) => options.into_iter().for_each(|option| match option {
                    TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name = name,
                    TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = id,
                    _ => {}
                }),
                _ => {}
            }
        }
        Some(filter)
    }

    fn preference(&self) -> u16 {
        (self.info >> 16) as u16
    }

    /// The netprobe that added it, if one did.
    fn owner(&self) -> Option<Owner> {
        if self.kind == TcFilterBpf::KIND { Owner::of(&self.name, self.handle) } else { None }
    }

    /// Somebody else's, and not the head of a preference.
    fn is_foreign(&self) -> bool {
        self.handle != 0 && self.owner().is_none()
    }

    /// It says that the qdisc is there because of netprobe.
    fn has_qdisc(&self) -> bool {
        self.owner().is_some() && Owner::has_qdisc(self.handle)
    }
}

/// Where our filters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// All there, none of others before them.
    First,
    /// All there, behind filters of others: at egress always so, at ingress where there was no room before them.
    Behind,
    /// All there, behind filters of others that came later, with room before them.
    Overtaken,
    /// Somebody took one away, or the qdisc with it.
    Missing,
}

/// Looks where `owner`'s filters are, `programs` of them.
pub(super) fn look(ifindex: u32, owner: Owner, programs: usize) -> io::Result<Standing> {
    let filters = Tc::open(ifindex)?.filters()?;
    Ok(standing(&filters, owner, programs))
}

fn standing(filters: &[Filter], owner: Owner, programs: usize) -> Standing {
    let ours: Vec<&Filter> = filters.iter().filter(|filter| filter.owner() == Some(owner)).collect();
    if ours.len() < programs {
        return Standing::Missing;
    }
    let mut standing = Standing::First;
    for filter in ours {
        let beside = || filters.iter().filter(|other| other.egress == filter.egress && *other != filter);
        let is_before = |other: &Filter| other.is_foreign() && other.preference() < filter.preference();
        if !beside().any(is_before) {
            continue;
        }
        let taken: Vec<u16> = beside().map(Filter::preference).filter(|other| *other != filter.preference()).collect();
        let better = place(filter.egress, &taken).is_some_and(|place| place < filter.preference());
        if better && !filter.egress {
            return Standing::Overtaken;
        }
        standing = Standing::Behind;
    }
    standing
}

/// Adds the programs to a device, and before it the qdisc where there is none. `tell` hears beforehand whether the qdisc
/// is there because of netprobe. What dead runs left here is removed first, and what `owner` has here already.
///
/// Says whether filters of others come before ours.
pub(super) fn attach(
    ifindex: u32,
    programs: &[Program<'_>],
    owner: Owner,
    tell: &mut dyn FnMut(bool) -> io::Result<()>,
) -> Result<bool> {
    let _turn = turn();
    let mut tc = Tc::open(ifindex)?;
    let qdisc = match tc.qdisc()?.as_deref() {
        Some("clsact") => {
            let inherited = tc.filters()?.iter().any(Filter::has_qdisc);
            tell(inherited).context("tell the guardian")?;
            let old = |of: Owner, program| of == owner || of.life(program) == Life::Dead;
            tc.remove(&old).context("remove what a dead run left")?;
            inherited
        }
        Some(other) => bail!("its qdisc {other} has no place for a filter at egress"),
        None => {
            tell(true).context("tell the guardian")?;
            if let Err(error) = tc.add_qdisc() {
                // Whatever is there now is not ours.
                tell(false).context("tell the guardian")?;
                return Err(error).context("add a clsact qdisc");
            }
            true
        }
    };
    let added = programs.iter().try_fold(false, |behind, program| {
        let what = || format!("add the filter {}", program.name);
        Ok(tc.add_filter(program, owner.handle(qdisc)).with_context(what)? || behind)
    });
    if added.is_err() {
        // The first of two, where the second was refused.
        tc.clear(&|of, _| of == owner, qdisc).context("remove what was added")?;
    }
    added
}

/// Removes from a device what `owner` added, and the qdisc if it is there because of netprobe and nobody uses it. `qdisc`:
/// it is known that it is, also where no filter of ours says so. A device that is gone has nothing.
pub(super) fn detach(ifindex: u32, owner: Owner, qdisc: bool) -> io::Result<()> {
    let _turn = turn();
    let mut tc = Tc::open(ifindex)?;
    if tc.qdisc()?.as_deref() != Some("clsact") {
        return Ok(());
    }
    tc.clear(&|of, _| of == owner, qdisc)
}

/// Requests about one device.
struct Tc {
    requests: Requests,
    ifindex: i32,
}

impl Tc {
    fn open(ifindex: u32) -> io::Result<Self> {
        Ok(Self { requests: Requests::open()?, ifindex: i32::try_from(ifindex).map_err(io::Error::other)? })
    }

    fn header(&self, parent: TcHandle) -> TcHeader {
        let mut header = TcHeader::default();
        (header.index, header.parent) = (self.ifindex, parent);
        header
    }

    /// Kind of the qdisc for ingress and egress filters: `clsact`, `ingress`, or none.
    fn qdisc(&mut self) -> io::Result<Option<String>> {
        let ifindex = self.ifindex;
        let kinds = self.requests.dump_as(&RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()), |frame| {
            let header = TcHeader::parse(frame.payload).ok()?;
            (header.index == ifindex && header.parent == TcHandle::CLSACT).then_some(())?;
            TcMessage::parse(frame.payload).ok()?.attributes.into_iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind),
                _ => None,
            })
        })?;
        Ok(kinds.into_iter().next())
    }

    fn qdisc_message(&self) -> TcMessage {
        let mut header = self.header(TcHandle::CLSACT);
        header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
        TcMessage::from_parts(header, vec![TcAttribute::Kind("clsact".to_owned())])
    }

    fn add_qdisc(&mut self) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewQueueDiscipline(self.qdisc_message());
        self.requests.change(&message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// All filters of both directions.
    fn filters(&mut self) -> io::Result<Vec<Filter>> {
        let mut found = Vec::new();
        for egress in [false, true] {
            let message = TcMessage::from_parts(self.header(parent(egress)), vec![]);
            let request = RouteNetlinkMessage::GetTrafficFilter(message);
            found.extend(self.requests.dump_as(&request, |frame| Filter::read(egress, frame.payload))?);
        }
        Ok(found)
    }

    /// Adds a filter in direct-action mode. Says whether filters of others come before it.
    fn add_filter(&mut self, program: &Program<'_>, handle: u32) -> Result<bool> {
        let filters = self.filters()?;
        let there = || filters.iter().filter(|filter| filter.egress == program.egress);
        let taken: Vec<u16> = there().map(Filter::preference).collect();
        let preference = place(program.egress, &taken).context("every preference is taken")?;
        let mut header = self.header(parent(program.egress));
        header.handle = handle.into();
        header.info = u32::from(preference) << 16 | ANY_PROTOCOL;
        let options = [
            TcFilterBpfOption::ProgFd(u32::try_from(program.fd.as_raw_fd())?),
            TcFilterBpfOption::ProgName(program.name.to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        let options = TcAttribute::Options(options.into_iter().map(TcOption::Bpf).collect());
        let attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned()), options];
        let message = RouteNetlinkMessage::NewTrafficFilter(TcMessage::from_parts(header, attributes));
        self.requests.change(&message, NLM_F_CREATE | NLM_F_EXCL)?;
        Ok(there().any(|filter| filter.is_foreign() && filter.preference() < preference))
    }

    /// Removes netprobe's filters of which `whose` says so, given who added them and the id of their program.
    fn remove(&mut self, whose: &dyn Fn(Owner, u32) -> bool) -> io::Result<Vec<Filter>> {
        let of = |filter: &Filter| filter.owner().is_some_and(|owner| whose(owner, filter.program));
        let filters: Vec<Filter> = self.filters()?.into_iter().filter(of).collect();
        for filter in &filters {
            let mut header = self.header(parent(filter.egress));
            (header.handle, header.info) = (filter.handle.into(), filter.info);
            let attributes = vec![TcAttribute::Kind(filter.kind.clone())];
            let message = RouteNetlinkMessage::DelTrafficFilter(TcMessage::from_parts(header, attributes));
            match self.requests.change(&message, 0) {
                // Somebody was faster.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                result => result?,
            }
        }
        Ok(filters)
    }

    /// Removes such filters, and the qdisc where it is there because of netprobe and nobody uses it.
    fn clear(&mut self, whose: &dyn Fn(Owner, u32) -> bool, qdisc: bool) -> io::Result<()> {
        let removed = self.remove(whose)?;
        let ours = qdisc || removed.iter().any(Filter::has_qdisc);
        if ours && self.filters()?.is_empty() {
            let message = RouteNetlinkMessage::DelQueueDiscipline(self.qdisc_message());
            self.requests.change(&message, 0)?;
        }
        Ok(())
    }
}

const fn parent(egress: bool) -> TcHandle {
    let minor = if egress { TcHandle::MIN_EGRESS } else { TcHandle::MIN_INGRESS };
    TcHandle { major: TcHandle::CLSACT.major, minor }
}

/// The preference for ours among those that are taken: at ingress before them all where that goes, else as early as it
/// goes; at egress as late as it goes.
fn place(egress: bool, taken: &[u16]) -> Option<u16> {
    let free = |preference: &u16| !taken.contains(preference);
    if egress {
        return (LEAST..=LAST).rev().find(free);
    }
    let before = taken.iter().min().map_or(FIRST, |first| FIRST.min(first.saturating_sub(1)));
    if before >= LEAST { Some(before) } else { (LEAST..=LAST).find(free) }
}

/// One netprobe at a time changes the filters of a namespace: else one could remove the qdisc that another has just
/// found. The name is bound in the thread's namespace, and free again when the socket closes, however its process ends.
fn turn() -> Option<UnixDatagram> {
    const PAUSE: Duration = Duration::from_millis(5);
    let address = SocketAddr::from_abstract_name("netprobe-clsact").ok()?;
    for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
        match UnixDatagram::bind_addr(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => thread::sleep(PAUSE),
            other => return other.ok(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;

    use super::*;

    #[test]
    fn at_ingress_ours_comes_before_the_others_where_it_can() {
        assert_eq!(place(false, &[]), Some(FIRST));
        assert_eq!(place(false, &[49152, 49151]), Some(FIRST));
        assert_eq!(place(false, &[FIRST, 49152]), Some(FIRST - 1));
        assert_eq!(place(false, &[3, 10]), Some(2));
        assert_eq!(place(false, &[1]), Some(2), "nothing comes before 1");
        assert_eq!(place(false, &[2, 3]), Some(4), "1 would leave no room for a filter without a preference");
    }

    #[test]
    fn at_egress_ours_comes_last() {
        assert_eq!(place(true, &[]), Some(LAST));
        assert_eq!(place(true, &[1, 49152]), Some(LAST));
        assert_eq!(place(true, &[LAST]), Some(LAST - 1));
    }

    #[test]
    fn filters_are_where_they_belong_or_not() {
        let at = |egress, preference: u16, name: &str, handle| Filter {
            egress,
            info: u32::from(preference) << 16,
            handle,
            kind: TcFilterBpf::KIND.to_owned(),
            name: name.to_owned(),
            program: 9,
        };
        let owner = Owner::own();
        let ours =
            [at(false, FIRST, "netprobe_in", owner.handle(true)), at(true, LAST, "netprobe_out", owner.handle(true))];
        let with = |more: &[Filter]| standing(&[&ours, more].concat(), owner, ours.len());
        assert_eq!(with(&[]), Standing::First);
        assert_eq!(standing(&ours[..1], owner, 2), Standing::Missing);
        assert_eq!(with(&[at(false, 10, "theirs", 1)]), Standing::Overtaken);
        assert_eq!(with(&[at(false, 10, "", 0)]), Standing::First, "the head of a preference is no filter");
        assert_eq!(with(&[at(false, 100, "theirs", 1), at(true, LAST, "theirs", 1)]), Standing::First);
        assert_eq!(with(&[at(true, 10, "theirs", 1)]), Standing::Behind, "at egress they come first");
        let at_two = [at(false, 2, "netprobe_in", owner.handle(true)), at(false, 1, "theirs", 1)];
        assert_eq!(standing(&at_two, owner, 1), Standing::Behind, "no room before 1");
    }

    fn bytes(handle: u32, kind: &str, options: Vec<TcFilterBpfOption>) -> Vec<u8> {
        let mut header = TcHeader::default();
        (header.handle, header.info) = (handle.into(), u32::from(FIRST) << 16 | ANY_PROTOCOL);
        let options = TcAttribute::Options(options.into_iter().map(TcOption::Bpf).collect());
        let message = TcMessage::from_parts(header, vec![TcAttribute::Kind(kind.to_owned()), options]);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn a_filter_is_ours_by_kind_name_and_handle() {
        let handle = Owner::own().handle(true);
        let named = |name: &str| vec![TcFilterBpfOption::ProgName(name.to_owned()), TcFilterBpfOption::ProgId(9)];
        let ours = Filter::read(true, &bytes(handle, "bpf", named("netprobe_out"))).expect("it is a filter");
        assert_eq!((ours.owner(), ours.has_qdisc(), ours.program), (Some(Owner::own()), true, 9));
        assert_eq!((ours.egress, ours.preference()), (true, FIRST));
        for (handle, kind, name) in [(handle, "bpf", "cil_to_netdev"), (handle, "u32", "netprobe_out"), (0, "bpf", "")]
        {
            let theirs = Filter::read(true, &bytes(handle, kind, named(name))).expect("it is there");
            assert_eq!((theirs.owner(), theirs.has_qdisc()), (None, false), "{kind} {name}");
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_there_and_not_ours() {
        let mut damaged = bytes(1, "bpf", vec![]);
        damaged.extend([0xff; 3]);
        assert_eq!(Filter::read(false, &damaged).map(|filter| filter.owner()), Some(None));
    }
}

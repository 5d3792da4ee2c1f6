//! Packets in pcapng (draft-ietf-opsawg-pcapng), as Wireshark and tcpdump read it.

use std::{borrow::Cow, io, time::Duration};

use pcap_file::{
    DataLink, Endianness,
    pcapng::{
        PcapNgBlock, PcapNgWriter, RawBlock,
        blocks::{
            ENHANCED_PACKET_BLOCK,
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution},
            interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption},
            opt_common::CommonOption,
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};

/// `epb_flags`: the packet came in by the device.
const INBOUND: u32 = 1;
/// The packet left by the device.
const OUTBOUND: u32 = 2;

/// Codes of options: the end, `opt_comment`, `epb_flags`.
const OPTION_END: u16 = 0;
/// See [`OPTION_END`].
const OPTION_COMMENT: u16 = 1;
/// See [`OPTION_END`].
const OPTION_FLAGS: u16 = 2;
/// Bytes of a block around its body: type, and its length at both ends.
const AROUND: usize = 12;

/// What a file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Kernel.
    pub os: String,
    /// What was asked for.
    pub comment: String,
}

/// A place where packets were seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// In words.
    pub description: String,
    /// Packets begin with an Ethernet header; else with the IP header.
    pub ethernet: bool,
    /// Most bytes kept of a packet.
    pub snap: u32,
    /// The user's filter; may be empty.
    pub filter: String,
}

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct PacketBlock<'a> {
    /// Number of its interface, in the order in which they were added.
    pub interface: u32,
    /// Time since 1970, UTC.
    pub time: Duration,
    /// The packet's own length.
    pub len: u32,
    /// What was kept of it.
    pub data: &'a [u8],
    /// It came in by the device; else it left.
    pub inbound: bool,
    /// In words.
    pub comment: &'a str,
}

/// What was counted at an interface since the capture began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets that were to be captured.
    pub received: u64,
    /// Of those, packets that found no room.
    pub dropped: u64,
    /// Of those, packets that were written.
    pub delivered: u64,
}

/// Blocks, gathered in memory: always whole ones.
pub struct Blocks {
    writer: PcapNgWriter<Vec<u8>>,
    interfaces: u32,
    /// Room for a packet's block.
    body: Vec<u8>,
}

impl Blocks {
    /// A section without interfaces.
    ///
    /// # Errors
    ///
    /// When a text is longer than the format allows; likewise below.
    pub fn begin(section: &Section) -> io::Result<Self> {
        let options = vec![
            SectionHeaderOption::OS(section.os.as_str().into()),
            SectionHeaderOption::UserApplication(concat!("netprobe ", env!("CARGO_PKG_VERSION")).into()),
            SectionHeaderOption::Common(CommonOption::Comment(section.comment.as_str().into())),
        ];
        let header = SectionHeaderBlock { endianness: Endianness::native(), options, ..SectionHeaderBlock::default() };
        let writer = PcapNgWriter::with_section_header(Vec::new(), header).map_err(io::Error::other)?;
        Ok(Self { writer, interfaces: 0, body: Vec::new() })
    }

    /// Adds the next interface.
    ///
    /// # Errors
    ///
    /// See [`Self::begin`].
    pub fn interface(&mut self, interface: &Interface) -> io::Result<()> {
        use InterfaceDescriptionOption::{IfDescription, IfFilter, IfName, IfTsResol};

        let mut options = vec![
            IfName(interface.name.as_str().into()),
            IfDescription(interface.description.as_str().into()),
            IfTsResol(InterfaceTsResolution::NANO),
        ];
        if !interface.filter.is_empty() {
            // The first byte says that it is text.
            let filter: Vec<u8> = std::iter::once(0).chain(interface.filter.bytes()).collect();
            options.push(IfFilter(filter.into()));
        }
        let linktype = if interface.ethernet { DataLink::ETHERNET } else { DataLink::RAW };
        self.add(InterfaceDescriptionBlock { linktype, snaplen: interface.snap, options })?;
        self.interfaces += 1;
        Ok(())
    }

    /// Adds a packet. There are many: the library would make a value of each, and write it twice to know its length.
    ///
    /// # Errors
    ///
    /// See [`Self::begin`]; and where there is no such interface.
    pub fn packet(&mut self, packet: &PacketBlock<'_>) -> io::Result<()> {
        if packet.interface >= self.interfaces {
            return Err(io::Error::other("a packet of an interface that the file does not have"));
        }
        self.body.clear();
        let body = &mut self.body;
        let ns = u64::try_from(packet.time.as_nanos()).map_err(io::Error::other)?;
        let word = |long: usize| u32::try_from(long).map_err(io::Error::other);
        let head = [packet.interface, (ns >> 32) as u32, ns as u32, word(packet.data.len())?, packet.len];
        body.extend(head.into_iter().flat_map(u32::to_ne_bytes));
        padded(body, packet.data);
        let comment = packet.comment.as_bytes();
        let length = u16::try_from(comment.len()).map_err(io::Error::other)?;
        let flags = if packet.inbound { INBOUND } else { OUTBOUND };
        option(body, OPTION_FLAGS, 4);
        body.extend(flags.to_ne_bytes());
        option(body, OPTION_COMMENT, length);
        padded(body, comment);
        option(body, OPTION_END, 0);
        let length = word(body.len() + AROUND)?;
        let body = Cow::Borrowed(body.as_slice());
        let block = RawBlock { type_: ENHANCED_PACKET_BLOCK, initial_len: length, body, trailer_len: length };
        self.writer.write_raw_block(&block).map(drop).map_err(io::Error::other)
    }

    /// Adds what was counted at an interface between `from` and `to`.
    ///
    /// # Errors
    ///
    /// See [`Self::begin`].
    pub fn statistics(
        &mut self,
        interface_id: u32,
        (from, to): (Duration, Duration),
        statistics: Statistics,
    ) -> io::Result<()> {
        use InterfaceStatisticsOption::{IsbEndTime, IsbIfDrop, IsbIfRecv, IsbStartTime, IsbUsrDeliv};

        let options = vec![
            IsbStartTime(from),
            IsbEndTime(to),
            IsbIfRecv(statistics.received),
            IsbIfDrop(statistics.dropped),
            IsbUsrDeliv(statistics.delivered),
        ];
        self.add(InterfaceStatisticsBlock { interface_id, timestamp: to, options })
    }

    /// The blocks that were gathered.
    #[must_use]
    pub fn gathered(&self) -> &[u8] {
        self.writer.get_ref()
    }

    /// Forgets them: they are where they belong.
    pub fn clear(&mut self) {
        self.writer.get_mut().clear();
    }

    fn add<'a>(&mut self, block: impl PcapNgBlock<'a>) -> io::Result<()> {
        self.writer.write_pcapng_block(block).map(drop).map_err(io::Error::other)
    }
}

/// The head of an option.
fn option(to: &mut Vec<u8>, code: u16, length: u16) {
    to.extend(code.to_ne_bytes());
    to.extend(length.to_ne_bytes());
}

/// `bytes`, and zeroes up to the next word.
fn padded(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(bytes);
    to.resize(to.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader, blocks::enhanced_packet::EnhancedPacketOption};

    use super::*;

    fn interface(name: &str, filter: &str) -> Interface {
        let text = str::to_owned;
        let description = text("device eth0 in the namespace of shop/web-0");
        Interface { name: text(name), description, ethernet: true, snap: 1600, filter: text(filter) }
    }

    fn written() -> Vec<u8> {
        let section = Section { os: "Linux 6.18".into(), comment: "capture of shop/web-0".into() };
        let mut blocks = Blocks::begin(&section).expect("short texts");
        blocks.interface(&interface("shop/web-0:eth0", "")).expect("short texts");
        blocks.interface(&interface("node:veth1", "tcp port 80")).expect("short texts");
        let time = Duration::new(1_700_000_000, 123_456_789);
        let packet =
            PacketBlock { interface: 1, time, len: 1514, data: &[7; 61], inbound: true, comment: "from shop/web-0" };
        blocks.packet(&packet).expect("it fits");
        blocks.packet(&PacketBlock { interface: 0, inbound: false, data: &[], ..packet }).expect("it fits");
        let statistics = Statistics { received: 3, dropped: 1, delivered: 2 };
        blocks.statistics(1, (time, time + Duration::from_secs(1)), statistics).expect("it fits");
        blocks.gathered().to_vec()
    }

    fn read(bytes: &[u8]) -> Vec<Block<'static>> {
        let mut reader = PcapNgReader::new(bytes).expect("it begins with a section");
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block() {
            blocks.push(block.expect("the block is right").0.into_owned());
        }
        blocks
    }

    #[test]
    fn what_is_written_is_read_back() {
        let blocks = read(&written());
        let [
            Block::InterfaceDescription(_),
            Block::InterfaceDescription(second),
            Block::EnhancedPacket(first),
            Block::EnhancedPacket(empty),
            Block::InterfaceStatistics(statistics),
        ] = blocks.as_slice()
        else {
            panic!("{blocks:#?}")
        };
        assert!(second.options.contains(&InterfaceDescriptionOption::IfName("node:veth1".into())));
        assert!(second.options.contains(&InterfaceDescriptionOption::IfFilter(b"\0tcp port 80".as_slice().into())));
        assert_eq!((first.interface_id, first.original_len, first.data.len()), (1, 1514, 61));
        assert_eq!(first.timestamp, Duration::new(1_700_000_000, 123_456_789), "to the nanosecond");
        assert_eq!(first.options[0], EnhancedPacketOption::Flags(1));
        assert_eq!(empty.options[0], EnhancedPacketOption::Flags(2));
        assert_eq!(first.options[1], EnhancedPacketOption::Common(CommonOption::Comment("from shop/web-0".into())));
        assert!(statistics.options.contains(&InterfaceStatisticsOption::IsbIfDrop(1)));
    }

    #[test]
    fn blocks_are_whole_and_gathered_once() {
        let section = Section::default();
        let mut blocks = Blocks::begin(&section).expect("short texts");
        blocks.interface(&interface("a", "")).expect("short texts");
        let begin = blocks.gathered().to_vec();
        blocks.clear();
        let packet =
            PacketBlock { interface: 0, time: Duration::ZERO, len: 5, data: b"hello", inbound: true, comment: "" };
        blocks.packet(&packet).expect("it fits");
        assert_eq!(blocks.gathered().len() % 4, 0);
        assert_eq!(read(&[begin.as_slice(), blocks.gathered()].concat()).len(), 2);
    }

    #[test]
    fn a_packet_of_no_interface_is_an_error() {
        let mut blocks = Blocks::begin(&Section::default()).expect("short texts");
        let packet = PacketBlock { interface: 0, time: Duration::ZERO, len: 0, data: &[], inbound: true, comment: "" };
        assert!(blocks.packet(&packet).is_err());
    }
}

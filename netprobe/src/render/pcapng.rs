//! Packets in pcapng (draft-ietf-opsawg-pcapng), as Wireshark and tcpdump read it.

use std::{borrow::Cow, io, time::Duration};

use pcap_file::{
    DataLink,
    pcapng::{
        PcapNgBlock, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
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
        let header = SectionHeaderBlock { options, ..SectionHeaderBlock::default() };
        let writer = PcapNgWriter::with_section_header(Vec::new(), header).map_err(io::Error::other)?;
        Ok(Self { writer })
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
        self.add(InterfaceDescriptionBlock { linktype, snaplen: interface.snap, options })
    }

    /// Adds a packet.
    ///
    /// # Errors
    ///
    /// See [`Self::begin`].
    pub fn packet(&mut self, packet: &PacketBlock<'_>) -> io::Result<()> {
        let options = vec![
            EnhancedPacketOption::Flags(if packet.inbound { INBOUND } else { OUTBOUND }),
            EnhancedPacketOption::Common(CommonOption::Comment(Cow::Borrowed(packet.comment))),
        ];
        self.add(EnhancedPacketBlock {
            interface_id: packet.interface,
            timestamp: packet.time,
            original_len: packet.len,
            data: Cow::Borrowed(packet.data),
            options,
        })
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

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};

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

//! Does a packet pass the user's filter? Run by the programs, and by tests on the host.

use crate::{
    config::{Filter, FilterTest},
    flow::{FlowKey, words},
    limits::{FILTER_CLAUSES, FILTER_TESTS},
};

/// Which side of a flow a test looks at.
const SOURCE: u8 = 1;
/// See [`SOURCE`].
const DESTINATION: u8 = 2;

/// What tests look at beside the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Bytes of the IP packet and an Ethernet header: the same at every hook, and what tcpdump calls `len` on Ethernet.
    /// 0 where it is not IP.
    pub len: u32,
    /// TCP flags.
    pub flags: u8,
    /// ICMP or ICMPv6 type.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code.
    pub icmp_code: u8,
}

/// Whether `test` holds for a packet of `flow` (turned round where `reversed`) with these traits.
#[inline(always)]
#[must_use]
pub fn holds(test: &FilterTest, flow: &FlowKey, reversed: bool, traits: Traits) -> bool {
    let Traits { len, flags, icmp_type, icmp_code } = traits;
    if test.ether_type != 0 && test.ether_type != flow.ether_type {
        return false;
    }
    if test.family != 0 && test.family != flow.family {
        return false;
    }
    if test.proto != 0 && test.proto != flow.proto {
        return false;
    }
    if test.has_icmp_type != 0 && test.icmp_type != icmp_type {
        return false;
    }
    if test.has_icmp_code != 0 && test.icmp_code != icmp_code {
        return false;
    }
    if len < test.len_low || len > test.len_high {
        return false;
    }
    let masked = flags & test.flags_mask;
    if test.flags_any != 0 {
        if masked == 0 {
            return false;
        }
    } else if masked != test.flags_value {
        return false;
    }
    let (source, destination) = if reversed { (DESTINATION, SOURCE) } else { (SOURCE, DESTINATION) };
    // ICMP carries its echo identifier where the others have ports; `port 7` does not mean it.
    let any_port = test.port_low == 0 && test.port_high == u16::MAX;
    if !any_port && !matches!(flow.proto, 6 | 17 | 132) {
        return false;
    }
    (test.sides & source != 0 && side(test, &flow.src, flow.sport))
        || (test.sides & destination != 0 && side(test, &flow.dst, flow.dport))
}

#[inline(always)]
fn side(test: &FilterTest, address: &[u8; 16], port: u16) -> bool {
    if port < test.port_low || port > test.port_high {
        return false;
    }
    let (address, mask, want) = (words(address), words(&test.mask), words(&test.address));
    address.0 & mask.0 == want.0 && address.1 & mask.1 == want.1
}

/// Whether a packet passes `filter`, of which the first `tests` and `clauses` are in use.
///
/// Every test is made and kept as one bit, then the clauses are compared with the bits. `forget` returns what it is
/// given; a program passes it through memory that the verifier does not track, because otherwise the verifier follows
/// each combination of bits on its own: two to the power of the tests.
#[inline(always)]
#[must_use]
pub fn passes(
    filter: &Filter,
    (tests, clauses): (u32, u32),
    flow: &FlowKey,
    reversed: bool,
    traits: Traits,
    forget: impl Fn(u32) -> u32,
) -> bool {
    let mut bits = 0u32;
    for index in 0..FILTER_TESTS {
        if index as u32 >= tests {
            break;
        }
        bits = forget(bits | u32::from(holds(&filter.tests[index], flow, reversed, traits)) << index);
    }
    for index in 0..FILTER_CLAUSES {
        if index as u32 >= clauses {
            break;
        }
        let clause = filter.clauses[index];
        if bits & clause.need == clause.need && bits & clause.deny == 0 {
            return true;
        }
    }
    tests == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::FilterClause,
        flow::mapped,
        wire::{bytes_of, zeroed},
    };

    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const ICMP: u8 = 1;
    const EITHER: u8 = SOURCE | DESTINATION;
    const CLIENT: [u8; 16] = mapped([10, 0, 0, 1]);
    const SERVER: [u8; 16] = mapped([10, 0, 1, 2]);
    const ALL_BITS: [u8; 16] = [0xff; 16];

    /// From the client's port 40000 to the server's 3306.
    fn flow(proto: u8) -> FlowKey {
        FlowKey { src: CLIENT, dst: SERVER, sport: 40_000, dport: 3306, proto, family: 4, ether_type: 0x800 }
    }

    /// Fits everything.
    fn any() -> FilterTest {
        FilterTest { port_high: u16::MAX, len_high: u32::MAX, sides: EITHER, ..zeroed() }
    }

    fn host(address: [u8; 16], sides: u8) -> FilterTest {
        FilterTest { address, mask: ALL_BITS, sides, ..any() }
    }

    fn port(port: u16, sides: u8) -> FilterTest {
        FilterTest { port_low: port, port_high: port, sides, ..any() }
    }

    fn fits(test: &FilterTest, flow: &FlowKey) -> bool {
        holds(test, flow, false, Traits::default())
    }

    #[test]
    fn a_test_of_nothing_holds_for_every_packet() {
        for proto in [TCP, UDP, ICMP, 58, 132, 47, 0] {
            assert!(fits(&any(), &flow(proto)), "protocol {proto}");
        }
        assert!(fits(&any(), &FlowKey::EMPTY), "also for one that is not IP");
    }

    #[test]
    fn a_host_is_looked_for_on_the_sides_named() {
        let tcp = flow(TCP);
        assert_eq!([SOURCE, DESTINATION, EITHER].map(|side| fits(&host(CLIENT, side), &tcp)), [true, false, true]);
        assert_eq!([SOURCE, DESTINATION, EITHER].map(|side| fits(&host(SERVER, side), &tcp)), [false, true, true]);
        assert!(!fits(&host(mapped([10, 0, 0, 2]), EITHER), &tcp));
    }

    #[test]
    fn a_packet_of_the_answer_is_turned_round_before_it_is_tested() {
        let answer = flow(TCP).reversed();
        for (test, name) in [(host(CLIENT, SOURCE), "source"), (port(3306, DESTINATION), "destination port")] {
            assert!(holds(&test, &answer, true, Traits::default()), "{name}");
            assert!(!holds(&test, &answer, false, Traits::default()), "{name}");
        }
    }

    #[test]
    fn address_and_port_must_fit_on_the_same_side() {
        let crossed = FilterTest { port_low: 3306, port_high: 3306, ..host(CLIENT, EITHER) };
        assert!(!fits(&crossed, &flow(TCP)));
        let straight = FilterTest { port_low: 3306, port_high: 3306, ..host(SERVER, EITHER) };
        assert!(fits(&straight, &flow(TCP)));
    }

    #[test]
    fn a_net_compares_only_the_bits_of_its_mask() {
        let mut mask = ALL_BITS;
        mask[14] = 0;
        mask[15] = 0;
        let net = FilterTest { address: mapped([10, 0, 0, 0]), mask, ..any() };
        assert!(fits(&net, &flow(TCP)));
        let elsewhere = FilterTest { address: mapped([10, 1, 0, 0]), mask, ..any() };
        assert!(!fits(&elsewhere, &flow(TCP)));
    }

    #[test]
    fn an_ipv6_net_may_end_within_a_byte_and_in_either_half() {
        let end = |first: u8, fifth: u8| [0xfd, first, 0, 0, fifth, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let packet = FlowKey { src: end(0x5a, 0x1f), dst: end(0x5b, 0xff), family: 6, ..flow(TCP) };
        let mut mask = [0; 16];
        mask[..5].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xf0]);
        let net = |first, fifth| FilterTest {
            address: [0xfd, first, 0, 0, fifth, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            mask,
            sides: SOURCE,
            ..any()
        };
        assert!(fits(&net(0x5a, 0x10), &packet));
        assert!(!fits(&net(0x5a, 0x20), &packet));
        assert!(!fits(&net(0x5b, 0xf0), &packet), "that is the destination");
        let last_bit = FilterTest { address: [0; 16], mask: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], ..any() };
        assert!(!fits(&last_bit, &packet), "both ends are odd");
    }

    #[test]
    fn ipv4_and_ipv6_are_told_apart_by_the_family() {
        let v4 = FilterTest { family: 4, ..any() };
        let v6 = FilterTest { family: 6, ..any() };
        let packet = FlowKey { family: 6, ..flow(TCP) };
        assert_eq!([fits(&v4, &flow(TCP)), fits(&v6, &flow(TCP))], [true, false]);
        assert_eq!([fits(&v4, &packet), fits(&v6, &packet)], [false, true]);
    }

    #[test]
    fn a_port_is_one_of_protocols_that_have_ports() {
        let test = port(3306, EITHER);
        assert_eq!([TCP, UDP, 132].map(|proto| fits(&test, &flow(proto))), [true; 3]);
        // An echo's identifier, and whatever else stands there.
        assert_eq!([ICMP, 58, 47, 0].map(|proto| fits(&test, &flow(proto))), [false; 4]);
        let udp_only = FilterTest { proto: UDP, ..test };
        assert_eq!([TCP, UDP].map(|proto| fits(&udp_only, &flow(proto))), [false, true]);
    }

    #[test]
    fn a_range_has_both_its_ends() {
        let range = |port_low, port_high| FilterTest { port_low, port_high, sides: DESTINATION, ..any() };
        let of_3306 = [range(3306, 4000), range(3000, 3306), range(3307, 4000), range(3000, 3305)];
        assert_eq!(of_3306.map(|test| fits(&test, &flow(TCP))), [true, true, false, false]);
    }

    #[test]
    fn flags_are_compared_all_or_any() {
        let (syn, syn_ack, ack) = (2, 18, 16);
        let of = |test: FilterTest| {
            [syn, syn_ack, ack, 0].map(|flags| holds(&test, &flow(TCP), false, Traits { flags, ..Traits::default() }))
        };
        let all = FilterTest { flags_mask: syn_ack, flags_value: syn, ..any() };
        assert_eq!(of(all), [true, false, false, false], "SYN without ACK");
        let both = FilterTest { flags_mask: syn_ack, flags_value: syn_ack, ..any() };
        assert_eq!(of(both), [false, true, false, false]);
        let some = FilterTest { flags_mask: syn_ack, flags_any: 1, ..any() };
        assert_eq!(of(some), [true, true, true, false]);
        let none = FilterTest { flags_mask: syn, flags_value: 0, ..any() };
        assert_eq!(of(none), [false, false, true, true]);
    }

    #[test]
    fn an_icmp_type_is_compared_only_where_it_is_asked_for() {
        let reply = FilterTest { has_icmp_type: 1, icmp_type: 0, proto: ICMP, ..any() };
        let with = |icmp_type, icmp_code| Traits { icmp_type, icmp_code, ..Traits::default() };
        assert!(holds(&reply, &flow(ICMP), false, with(0, 0)));
        assert!(!holds(&reply, &flow(ICMP), false, with(8, 0)));
        let any_type = FilterTest { proto: ICMP, ..any() };
        assert!(holds(&any_type, &flow(ICMP), false, with(8, 0)));
        let too_big = FilterTest { has_icmp_type: 1, icmp_type: 3, has_icmp_code: 1, icmp_code: 4, ..any_type };
        let of = [(3, 4), (3, 1), (11, 4)].map(|(kind, code)| holds(&too_big, &flow(ICMP), false, with(kind, code)));
        assert_eq!(of, [true, false, false]);
    }

    #[test]
    fn a_length_has_both_its_ends() {
        let of = |len_low, len_high| {
            let test = FilterTest { len_low, len_high, ..any() };
            [0, 99, 100, 101].map(|len| holds(&test, &flow(TCP), false, Traits { len, ..Traits::default() }))
        };
        assert_eq!(of(0, 100), [true, true, true, false]);
        assert_eq!(of(100, u32::MAX), [false, false, true, true]);
        assert_eq!(of(100, 100), [false, false, true, false]);
    }

    #[test]
    fn a_frame_that_is_not_ip_has_its_ether_type() {
        let arp = FilterTest { ether_type: 0x806, ..any() };
        assert!(fits(&arp, &FlowKey { ether_type: 0x806, ..FlowKey::EMPTY }));
        assert!(!fits(&arp, &FlowKey::EMPTY));
        assert!(!fits(&arp, &flow(TCP)));
    }

    /// A filter of these tests and clauses (need, deny).
    fn filter(tests: &[FilterTest], clauses: &[(u32, u32)]) -> (Filter, u32, u32) {
        let mut filter: Filter = zeroed();
        filter.tests[..tests.len()].copy_from_slice(tests);
        for (slot, (need, deny)) in filter.clauses.iter_mut().zip(clauses) {
            *slot = FilterClause { need: *need, deny: *deny };
        }
        (filter, tests.len() as u32, clauses.len() as u32)
    }

    fn passing(filter: &(Filter, u32, u32), flow: &FlowKey) -> bool {
        passes(&filter.0, (filter.1, filter.2), flow, false, Traits::default(), |bits| bits)
    }

    #[test]
    fn without_tests_everything_passes() {
        assert!(passing(&filter(&[], &[]), &FlowKey::EMPTY));
    }

    #[test]
    fn a_clause_needs_all_its_tests_and_none_of_those_it_denies() {
        let tests = [host(CLIENT, EITHER), port(3306, EITHER), port(40_000, EITHER)];
        assert!(passing(&filter(&tests, &[(0b011, 0)]), &flow(TCP)));
        assert!(!passing(&filter(&tests, &[(0b011, 0b100)]), &flow(TCP)), "port 40000 is denied");
        assert!(!passing(&filter(&tests, &[(0b011, 0)]), &flow(ICMP)), "it has no ports");
        assert!(passing(&filter(&tests, &[(0b001, 0b110)]), &flow(ICMP)));
    }

    #[test]
    fn one_clause_of_several_suffices_and_those_not_in_use_do_not_count() {
        let tests = [port(53, EITHER), port(3306, EITHER)];
        assert!(passing(&filter(&tests, &[(0b01, 0), (0b10, 0)]), &flow(TCP)));
        // A clause of zeroes would pass everything.
        let one = filter(&tests, &[(0b01, 0)]);
        assert_eq!(bytes_of(&one.0.clauses[1]), [0; 8]);
        assert!(!passing(&one, &flow(TCP)));
    }

    #[test]
    fn a_full_filter_uses_its_last_test_and_clause() {
        let mut tests = [port(1, EITHER); FILTER_TESTS];
        tests[FILTER_TESTS - 1] = port(3306, EITHER);
        let mut clauses = [(1, 0); FILTER_CLAUSES];
        assert!(!passing(&filter(&tests, &clauses), &flow(TCP)));
        clauses[FILTER_CLAUSES - 1] = (1 << (FILTER_TESTS - 1), 0);
        assert!(passing(&filter(&tests, &clauses), &flow(TCP)));
    }
}

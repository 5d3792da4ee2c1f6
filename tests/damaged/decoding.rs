//! Records and symbol tables that are none.

use netprobe::model::symbols::{Symbols, Table};
use netprobe_common::event::{Malformed, NAMES, parse};
use proptest::prelude::*;

use crate::material::{HEAD, REAL, decoder, real, spoiled};

#[test]
fn every_real_record_is_decoded() {
    let mut decoder = decoder();
    assert!(REAL.records.len() > 300, "only {} records", REAL.records.len());
    for record in &REAL.records {
        let (header, _) = parse(record).expect("it was recorded");
        let packet = decoder.packet(record).expect("it was recorded");
        assert_eq!((packet.mono_ns, packet.cpu), (header.mono_ns, header.cpu));
        assert!(!format!("{packet:?}").is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_parsing_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        match parse(&bytes) {
            Ok((header, _)) => prop_assert!(NAMES.iter().any(|(kind, _)| *kind == header.kind)),
            Err(Malformed::Short(length)) => prop_assert_eq!(length, bytes.len()),
            Err(Malformed::Unknown(kind)) => prop_assert!(NAMES.iter().all(|(known, _)| *known != kind)),
        }
    }

    #[test]
    fn any_payload_of_a_known_kind_is_decoded(kind in 1u32..=8, bytes in prop::collection::vec(any::<u8>(), 700)) {
        let record = [&kind.to_ne_bytes(), &bytes[4..]].concat();
        let decoded = decoder().packet(&record);
        prop_assert!(decoded.is_ok(), "{:?}", decoded);
    }

    #[test]
    fn a_record_that_was_cut_is_too_short(record in real(), at in any::<prop::sample::Index>()) {
        let cut = &record[..at.index(record.len())];
        // The ring may pad a record: less than that is missed nowhere.
        if cut.len() + 8 <= record.len() {
            prop_assert_eq!(parse(cut).err(), Some(Malformed::Short(cut.len())));
        }
    }

    #[test]
    fn a_spoiled_record_is_decoded_or_refused(record in spoiled()) {
        let decoded = decoder().packet(&record);
        let known = NAMES.iter().any(|(kind, _)| record[..4] == kind.to_ne_bytes());
        // Another kind may need more bytes than are there.
        prop_assert!(decoded.is_ok() || !known || record.len() < HEAD + 400, "{:?}", decoded);
    }

    #[test]
    fn no_bytes_make_the_symbol_table_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        text in any::<String>(),
        address in any::<u64>(),
    ) {
        let _ = Symbols::from(Table::parse(&bytes[..])).name(address);
        let _ = Symbols::from(Table::parse(text.as_bytes())).name(address);
    }

    #[test]
    fn symbol_tables_with_odd_lines_still_name_addresses(
        lines in prop::collection::vec("[0-9a-fx]{0,18} ?[tTdDwW]? ?[a-z_.\\[\\]\u{e9}]{0,12}", 0..40),
        address in any::<u64>(),
    ) {
        let mut symbols = Symbols::from(Table::parse(lines.join("\n").as_bytes()));
        let name = symbols.name(address);
        prop_assert!(&*name == "?" || lines.iter().any(|line| line.contains(&*name)));
        prop_assert_eq!(symbols.name(address), name);
    }
}

//! Any sequence of inputs, through all stages, in both formats.

use std::sync::Arc;

use bytes::Bytes;
use netprobe::{
    correlate::{JOURNEYS_MAX, Journeys},
    enrich::{self, names::Names, owned::Owned},
    model::{drops::Loss, journey::SIGHTINGS_MAX},
    pipeline::{DropCounts, Input},
    render::Format,
};
use proptest::prelude::*;

use crate::material::{Paper, REAL, at_time, decoder, pipeline, real, spoiled};

const START_NS: u64 = 1_000_000_000_000;
const MS: u64 = 1_000_000;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A record, as seen so many nanoseconds before or after now.
    Record(Vec<u8>, i32),
    /// A record with the time that stands in it.
    Whenever(Vec<u8>),
    Facts(Bytes),
    Drops(serde_json::Value, u32),
    Lost(u64),
    Names,
    Tick(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let waits = prop_oneof![Just(0), 1..100 * MS, Just(3_100 * MS), Just(130_000 * MS)];
    prop_oneof![
        12 => (real(), -1_000_000..100_000i32).prop_map(|(record, off)| Event::Record(record, off)),
        12 => (spoiled(), -1_000_000..100_000i32).prop_map(|(record, off)| Event::Record(record, off)),
        1 => spoiled().prop_map(Event::Whenever),
        2 => prop::sample::select(&*REAL.facts).prop_map(Event::Facts),
        1 => (prop::sample::select(&*REAL.drops), any::<u32>()).prop_map(|(drops, owner)| Event::Drops(drops, owner)),
        1 => (0u64..3).prop_map(Event::Lost),
        1 => Just(Event::Names),
        6 => waits.prop_map(Event::Tick),
    ]
}

fn run(events: &[Event], format: Format) -> String {
    let paper = Paper::default();
    let mut out = paper.renderer(format);
    let mut pipeline = pipeline(START_NS);
    let mut now_ns = START_NS;
    for event in events {
        let input = match event {
            Event::Record(record, off) => {
                Input::Record(at_time(record.clone(), now_ns.saturating_add_signed((*off).into())).into())
            }
            Event::Whenever(record) => Input::Record(record.clone().into()),
            Event::Facts(json) => Input::Facts(Box::new(serde_json::from_slice(json).expect("it was recorded"))),
            Event::Drops(counts, owner) => {
                let mut counts: DropCounts = serde_json::from_value(counts.clone()).expect("it was recorded");
                counts.rows.iter_mut().for_each(|row| row.owner = *owner);
                pipeline.take(Input::Drops(counts.rows));
                out.drops(&pipeline.drop_table(now_ns), false).expect("paper is patient");
                continue;
            }
            Event::Lost(lost) => Input::Lost(Loss { mono_ns: now_ns, lost: *lost, what: "records", hole: None }),
            Event::Names => Input::Inventory(REAL.inventory.clone()),
            Event::Tick(ns) => {
                now_ns += ns;
                pipeline.tick(now_ns, &mut *out).expect("paper is patient");
                continue;
            }
        };
        pipeline.take(input);
    }
    pipeline.finish(now_ns, &mut *out).expect("paper is patient");
    drop(out);
    paper.text()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_every_line_is_a_json_object(events in prop::collection::vec(event(), 0..250)) {
        let text = run(&events, Format::Json);
        for line in text.lines() {
            let object: serde_json::Value = serde_json::from_str(line).map_err(|e| TestCaseError::fail(format!("{e}: {line}")))?;
            for field in ["kind", "time", "node"] {
                prop_assert!(object[field].is_string(), "no {} in {}", field, line);
            }
        }
        prop_assert_eq!(text.lines().filter(|line| line.contains(r#""kind":"summary""#)).count(), 1);
    }

    #[test]
    fn whatever_comes_the_text_has_no_control_characters(events in prop::collection::vec(event(), 0..250)) {
        let text = run(&events, Format::Text);
        let odd = text.chars().find(|c| c.is_control() && *c != '\n');
        prop_assert_eq!(odd, None, "{}", text.escape_debug());
    }

    #[test]
    fn the_same_inputs_give_the_same_output(events in prop::collection::vec(event(), 0..120)) {
        prop_assert_eq!(run(&events, Format::Json), run(&events, Format::Json));
    }

    #[test]
    fn the_open_journeys_stay_few_and_short(records in prop::collection::vec(spoiled(), 1..200)) {
        let (mut decoder, names) = (decoder(), Names::build(&REAL.inventory, &REAL.node));
        let mut journeys = Journeys::default();
        for record in records {
            let Ok(packet) = decoder.packet(&record) else { continue };
            journeys.take(Arc::new(enrich::sighting(packet, &names, &REAL.node, &Owned::default())));
        }
        for journey in journeys.iter() {
            prop_assert!(journey.steps.len() <= SIGHTINGS_MAX);
            prop_assert!(journey.first_ns <= journey.last_ns);
        }
    }
}

/// A port scan by the pod: each SYN is a connection of its own.
#[test]
fn a_port_scan_does_not_fill_memory() {
    let (mut decoder, names) = (decoder(), Names::build(&REAL.inventory, &REAL.node));
    let mut journeys = Journeys::default();
    let syn = REAL.records.iter().find(|r| r[..4] == 2u32.to_ne_bytes()).expect("there is a hop");
    let (scanned, between_ticks) = (u32::try_from(3 * JOURNEYS_MAX).expect("small"), 1_000);
    let mut most = 0;
    for number in 0..scanned {
        let mut record = at_time(syn.to_vec(), START_NS + u64::from(number));
        // The ports stand behind the two addresses.
        let ports = crate::material::HEAD + 32;
        record[ports..ports + 4].copy_from_slice(&number.to_ne_bytes());
        let packet = decoder.packet(&record).expect("a record");
        journeys.take(Arc::new(enrich::sighting(packet, &names, &REAL.node, &Owned::default())));
        if number % between_ticks == 0 {
            journeys.expire(START_NS + u64::from(number), |id| id % 3 == 0);
            assert!(journeys.iter().count() <= JOURNEYS_MAX);
        }
        most = most.max(journeys.iter().count());
    }
    assert!(most > JOURNEYS_MAX && most <= JOURNEYS_MAX + between_ticks as usize, "{most}");
}

/// Else the tests above would prove little.
#[test]
fn real_records_lead_to_findings() {
    let facts = REAL.facts.iter().cloned().map(Event::Facts);
    let records = REAL.records.iter().flat_map(|record| [Event::Record(record.to_vec(), 0), Event::Tick(MS / 50)]);
    let text = run(&facts.chain(records).collect::<Vec<_>>(), Format::Json);
    for rule in ["wrong-egress", "port-closed", "netfilter-reject"] {
        assert!(text.contains(&format!(r#""rule":"{rule}""#)), "no {rule}");
    }
}

//! A journey as lines: which steps are told, and what is told of them once.

use std::ops::Range;

use crate::{
    explain::noise,
    model::{
        flow::{Flow, Proto},
        journey::{Journey, Step},
        packet::{LookupRole, Place, What},
        sighting::{Side, Sighting},
    },
    render::event,
};

/// One line of a journey.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Nanoseconds since the journey's first step.
    pub since_ns: u64,
    /// `pod`, `node`, `route`, `nat`, `drop`, ...
    pub topic: &'static str,
    /// What happened, not yet escaped.
    pub text: String,
    /// Where a packet left a device in the flow's direction: side and device.
    pub left_by: Option<(Side, String)>,
}

/// The first line: who, from where to where, with what.
pub(super) fn header(journey: &Journey) -> String {
    let flow = &journey.flow;
    if let Some(ether_type) = flow.frames() {
        let whose = journey.pod.as_ref().map_or_else(String::new, |pod| format!("{pod} "));
        return format!("{whose}frames of EtherType {ether_type:#06x}");
    }
    let mut ends = [flow.source(), flow.destination()];
    if let Some(pod) = &journey.pod {
        let first = journey.steps.iter().find(|step| step.forward).map(|step| &step.sighting);
        let is_destination =
            first.is_some_and(|first| first.destination.yes() == Some(pod) && first.source.yes() != Some(pod));
        let end = &mut ends[usize::from(is_destination)];
        *end = format!("{pod} {end}");
    }
    let label = journey
        .steps
        .iter()
        .map(|step| event::words(&step.sighting).label)
        .find(|label| !label.is_empty())
        .filter(|_| flow.proto != Proto::Udp)
        .unwrap_or_default();
    let [src, dst] = ends;
    format!("{src} -> {dst} {} {label}", flow.proto).trim_end().to_owned()
}

/// The lines of the steps in `range`. What the steps before have told is not told again.
pub(super) fn lines(journey: &Journey, range: Range<usize>) -> Vec<Line> {
    let mut told = Told::before(journey, range.start);
    let mut lines = Vec::new();
    for (index, step) in journey.steps.iter().enumerate().take(range.end).skip(range.start) {
        told.step(journey, index, step, &mut lines);
    }
    lines
}

/// What earlier lines have said already.
struct Told {
    /// Forms of the flow, before and after translation; the last one is where the packet is at.
    forms: Vec<Flow>,
    /// Kind of the last packet.
    label: String,
}

impl Told {
    /// What the steps before the `end`th have told.
    fn before(journey: &Journey, end: usize) -> Self {
        let mut told = Self { forms: vec![journey.flow], label: String::new() };
        // The cheap half of `step`: a journey of 160 steps is told one step at a time.
        for (index, step) in journey.steps.iter().enumerate().take(end) {
            if told.forms.len() <= journey.translated.len() && shown(journey, index, &step.sighting) {
                told.translation(journey, step);
            }
        }
        let mut steps = journey.steps.iter().enumerate().take(end.min(journey.steps.len())).rev();
        let last = steps.find(|(index, step)| head(step) && shown(journey, *index, &step.sighting));
        told.label = last.map(|(_, step)| label(step, event::words(&step.sighting).label)).unwrap_or_default();
        told
    }

    fn step(&mut self, journey: &Journey, index: usize, step: &Step, lines: &mut Vec<Line>) {
        let sighting = &step.sighting;
        if !shown(journey, index, sighting) {
            return;
        }
        let since_ns = sighting.packet.mono_ns.saturating_sub(journey.first_ns);
        let said = self.translation(journey, step);
        lines.extend(said.into_iter().map(|text| Line { since_ns, topic: "nat", text, left_by: None }));
        let words = event::words(sighting);
        let mut text = words.text;
        if !words.label.is_empty() {
            let label = label(step, words.label);
            // The header has said what the first packet is.
            let first = self.label.is_empty() && step.forward;
            if label != self.label && !first {
                text = format!("{text:<16} {label}");
            }
            self.label = label;
        }
        let left_by = matches!(&sighting.packet.what, What::Hop { place: Place::Transmit, .. } if step.forward)
            .then(|| (sighting.side, sighting.device.to_string()));
        // A task may ask for its route three times before it sends.
        if words.topic == "route" && lines.last().is_some_and(|last| last.topic == "route" && last.text == text) {
            return;
        }
        lines.push(Line { since_ns, topic: words.topic, text, left_by });
    }

    /// What was translated since the form told last; said once for each form.
    fn translation(&mut self, journey: &Journey, step: &Step) -> Vec<String> {
        let (What::Hop { head, inner: None, .. } | What::Dropped { head, .. }) = &step.sighting.packet.what else {
            return Vec::new();
        };
        let Some(flow) = head.flow else { return Vec::new() };
        let form = if step.forward { flow } else { flow.reversed() };
        if self.forms.contains(&form) || !journey.translated.contains(&form) {
            return Vec::new();
        }
        let before = self.forms.last().copied().unwrap_or(journey.flow);
        self.forms.push(form);
        let mut said = Vec::new();
        if before.dst != form.dst {
            said.push(format!("{} -> {} (dnat)", before.destination(), form.destination()));
        }
        if before.src != form.src {
            said.push(format!("{} -> {} (snat)", before.source(), form.source()));
        }
        said
    }
}

/// Whether a packet was seen, so that there is something to say of its kind.
fn head(step: &Step) -> bool {
    matches!(&step.sighting.packet.what, What::Hop { .. } | What::Dropped { .. })
}

/// A packet's kind, with its direction.
fn label(step: &Step, label: String) -> String {
    if step.forward { label } else { format!("answer {label}") }
}

/// Whether a step has a word for the reader. Address checks and the like have none; nor have
/// misses in the table of the host's own addresses, which every packet to elsewhere has; nor has
/// a packet's time in the queue of a device that a later step says it left by.
fn shown(journey: &Journey, index: usize, sighting: &Sighting) -> bool {
    match &sighting.packet.what {
        What::Lookup { role: LookupRole::Other, .. } | What::Lookup { table: 255, err: ..0, .. } => false,
        What::Hop { place: Place::Queue, head, .. } => !journey.steps.range(index + 1..).any(|later| {
            let later = &later.sighting;
            matches!(&later.packet.what,
                What::Hop { place: Place::Transmit, head: left, .. } if left.skb == head.skb)
                && later.side == sighting.side
                && later.packet.netns == sighting.packet.netns
                && later.device == sighting.device
        }),
        // That a SYN was freed is for rules to weigh; and what every healthy node drops tells nothing.
        What::Hop { place: Place::Consume, .. } => false,
        What::Dropped { head, reason, site, .. } => {
            noise::of(reason, site, Some(head), journey.steps[index].forward).is_none()
        }
        _ => true,
    }
}

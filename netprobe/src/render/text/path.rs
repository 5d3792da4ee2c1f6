//! A journey as lines: which steps are told, and what is told of them once.

use crate::{
    model::{
        flow::Flow,
        journey::{Journey, Step},
        packet::{Head, LookupRole, Place, What},
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
    let mut ends = [flow.source(), flow.destination()];
    if let Some(pod) = &journey.pod {
        let is_destination =
            journey.steps.front().is_some_and(|s| s.forward && s.sighting.destination.yes() == Some(pod))
                && journey.steps.front().is_some_and(|s| s.sighting.source.yes() != Some(pod));
        let end = &mut ends[usize::from(is_destination)];
        *end = format!("{pod} {end}");
    }
    let label = journey
        .steps
        .iter()
        .map(|step| event::words(&step.sighting).label)
        .find(|label| !label.is_empty())
        .filter(|_| flow.proto != crate::model::flow::Proto::Udp)
        .unwrap_or_default();
    let [src, dst] = ends;
    format!("{src} -> {dst} {} {label}", flow.proto).trim_end().to_owned()
}

/// The lines of the steps from `from` on. What was told by the steps before is not told again.
pub(super) fn lines(journey: &Journey, from: usize) -> Vec<Line> {
    let mut told = Told { forms: vec![journey.flow], label: String::new() };
    let mut lines = Vec::new();
    for (index, step) in journey.steps.iter().enumerate() {
        let new = told.step(journey, index, step);
        if index >= from {
            lines.extend(new);
        }
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
    fn step(&mut self, journey: &Journey, index: usize, step: &Step) -> Vec<Line> {
        let sighting = &step.sighting;
        if !tells(sighting) || transmitted_later(journey, index, sighting) {
            return Vec::new();
        }
        let since_ns = sighting.packet.mono_ns.saturating_sub(journey.first_ns);
        let mut lines: Vec<_> = self
            .translation(journey, step)
            .into_iter()
            .map(|text| Line { since_ns, topic: "nat", text, left_by: None })
            .collect();
        let words = event::words(sighting);
        let mut text = words.text;
        if !words.label.is_empty() {
            let label = if step.forward { words.label } else { format!("answer {}", words.label) };
            // The header has said what the first packet is.
            let first = self.label.is_empty() && step.forward;
            if label != self.label && !first {
                text = format!("{text:<16} {label}");
            }
            self.label = label;
        }
        let left_by = matches!(&sighting.packet.what, What::Hop { place: Place::Transmit, .. } if step.forward)
            .then(|| (sighting.side, sighting.device.to_string()));
        lines.push(Line { since_ns, topic: words.topic, text, left_by });
        lines
    }

    /// What was translated since the form told last; said once for each form.
    fn translation(&mut self, journey: &Journey, step: &Step) -> Vec<String> {
        let Some(flow) = head(&step.sighting).and_then(|head| head.flow) else { return Vec::new() };
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

/// Steps without a word for the reader: address checks and the like, and misses in the table of
/// the host's own addresses, which every packet to elsewhere has.
fn tells(sighting: &Sighting) -> bool {
    !matches!(
        &sighting.packet.what,
        What::Lookup { role: LookupRole::Other, .. } | What::Lookup { table: 255, err: ..0, .. }
    )
}

/// The packet was queued here, and a later step says that it left by the same device: one line
/// is enough.
fn transmitted_later(journey: &Journey, index: usize, queued: &Sighting) -> bool {
    let What::Hop { place: Place::Queue, head, .. } = &queued.packet.what else { return false };
    journey.steps.iter().skip(index + 1).any(|later| {
        let later = &later.sighting;
        later.side == queued.side
            && later.device == queued.device
            && later.packet.netns == queued.packet.netns
            && matches!(&later.packet.what,
                What::Hop { place: Place::Transmit, head: left, .. } if left.skb == head.skb)
    })
}

fn head(sighting: &Sighting) -> Option<&Head> {
    match &sighting.packet.what {
        What::Hop { head, inner: None, .. } | What::Dropped { head, .. } => Some(head),
        _ => None,
    }
}

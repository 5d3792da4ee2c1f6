//! Where findings and losses go, as they come: each output of an agent is a [`Relay`] that takes those alone.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::{otlp::Otlp, shared::Shared};
use crate::{
    enrich::kube::events::{Events, Notice},
    model::finding::Finding,
    render::{Clock, Format, Relay, Render, Setup, Shown},
};

/// All of them. None may wait for anybody.
pub(super) struct Sinks(Vec<Box<dyn Relay>>);

impl Sinks {
    pub(super) fn new(shared: &Arc<Shared>, setup: &Setup, events: Option<Events>, otlp: Option<Otlp>) -> Self {
        let mut all: Vec<Box<dyn Relay>> =
            vec![Box::new(Counters(Arc::clone(shared))), Box::new(Lines::new(Arc::clone(shared), setup))];
        if let Some(events) = events {
            all.push(Box::new(PodEvents { events, clock: setup.clock.clone() }));
        }
        if let Some(otlp) = otlp {
            all.push(Box::new(otlp));
        }
        Self(all)
    }
}

impl Relay for Sinks {
    fn relay(&mut self, shown: Shown<'_>) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|sink| sink.relay(shown))
    }
}

/// `/metrics`.
struct Counters(Arc<Shared>);

impl Relay for Counters {
    fn relay(&mut self, shown: Shown<'_>) -> io::Result<()> {
        match shown {
            Shown::Finding(finding) => self.0.found(finding),
            Shown::Loss(loss) => self.0.lost(loss),
            _ => {}
        }
        Ok(())
    }
}

/// `/v1/findings`: as `-o json` writes them.
struct Lines {
    json: Box<dyn Render>,
    buffer: Buffer,
    shared: Arc<Shared>,
}

impl Lines {
    fn new(shared: Arc<Shared>, setup: &Setup) -> Self {
        let buffer = Buffer::default();
        Self { json: Format::Json.renderer(Box::new(buffer.clone()), setup.clone()), buffer, shared }
    }
}

impl Relay for Lines {
    fn relay(&mut self, shown: Shown<'_>) -> io::Result<()> {
        let number = match shown {
            Shown::Finding(finding) => finding.id.get(1..).and_then(|number| number.parse().ok()),
            Shown::Loss(_) => None,
            _ => return Ok(()),
        };
        shown.to(&mut *self.json)?;
        self.shared.publish(number, self.buffer.take());
        Ok(())
    }
}

/// Kubernetes Events of the pods that findings are about.
struct PodEvents {
    events: Events,
    clock: Clock,
}

impl PodEvents {
    fn tell(&mut self, finding: &Finding) {
        // Without a UID nobody could tell the pod from its successor, and `kubectl describe` would not show it.
        let Some((pod, uid)) = finding.pod.as_deref().and_then(|pod| Some((pod, pod.uid.clone()?))) else {
            return;
        };
        if !pod.namespace.is_empty() {
            self.events.tell(Notice {
                id: finding.id.clone(),
                rule: finding.rule,
                namespace: pod.namespace.clone(),
                pod: pod.name.clone(),
                uid,
                claim: finding.claim.clone(),
                count: finding.count,
                first: self.clock.rfc3339_micros(finding.first_ns),
                last: self.clock.rfc3339_micros(finding.last_ns),
            });
        }
    }
}

impl Relay for PodEvents {
    fn relay(&mut self, shown: Shown<'_>) -> io::Result<()> {
        if let Shown::Finding(finding) = shown {
            self.tell(finding);
        }
        Ok(())
    }
}

/// Log records of an OpenTelemetry collector.
impl Relay for Otlp {
    fn relay(&mut self, shown: Shown<'_>) -> io::Result<()> {
        if let Shown::Finding(finding) = shown {
            self.tell(finding);
        }
        Ok(())
    }
}

/// What a renderer wrote.
#[derive(Clone, Default)]
pub(super) struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    /// Takes it, once the renderer has flushed.
    pub(super) fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

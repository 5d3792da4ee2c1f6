//! Where findings and losses go: every output of an agent that is told of them as they come is a [`Sink`].

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::shared::Shared;
use crate::{
    enrich::kube::events::{Events, Notice},
    model::{drops::Loss, finding::Finding},
    render::{Clock, Format, Render, Setup, Sink},
};

/// All of them. None may wait for anybody.
pub(super) struct Sinks(Vec<Box<dyn Sink>>);

impl Sinks {
    pub(super) fn new(shared: &Arc<Shared>, setup: &Setup, events: Option<Events>) -> Self {
        let mut all: Vec<Box<dyn Sink>> =
            vec![Box::new(Counters(Arc::clone(shared))), Box::new(Lines::new(Arc::clone(shared), setup))];
        if let Some(events) = events {
            all.push(Box::new(PodEvents { events, clock: setup.clock.clone() }));
        }
        Self(all)
    }
}

impl Sink for Sinks {
    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|sink| sink.finding(finding))
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|sink| sink.loss(loss))
    }
}

/// `/metrics`.
struct Counters(Arc<Shared>);

impl Sink for Counters {
    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.0.found(finding);
        Ok(())
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        self.0.lost(loss);
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

impl Sink for Lines {
    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.json.finding(finding)?;
        let number = finding.id.get(1..).and_then(|number| number.parse().ok());
        self.shared.publish(number, self.buffer.take());
        Ok(())
    }

    fn loss(&mut self, loss: &Loss) -> io::Result<()> {
        self.json.loss(loss)?;
        self.shared.publish(None, self.buffer.take());
        Ok(())
    }
}

/// Kubernetes Events of the pods that findings are about.
struct PodEvents {
    events: Events,
    clock: Clock,
}

impl Sink for PodEvents {
    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        // Without a UID nobody could tell the pod from its successor, and `kubectl describe` would not show it.
        let Some((pod, uid)) = finding.pod.as_deref().and_then(|pod| Some((pod, pod.uid.clone()?))) else {
            return Ok(());
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
        Ok(())
    }

    fn loss(&mut self, _: &Loss) -> io::Result<()> {
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

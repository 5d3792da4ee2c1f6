//! Streams of JSON lines. A reader that does not keep up is cut off, and counted: nobody waits for it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{Notify, broadcast::error::RecvError, mpsc},
    time::{interval, timeout},
};

use super::{
    body::Body,
    shared::{Shared, What},
};

/// Lines on their way to one reader, beside what the socket holds.
const QUEUE: usize = 16;
/// How long a line may wait for its reader.
const SLOW: Duration = Duration::from_secs(5);
/// How often a table is shown.
const EVERY: Duration = Duration::from_secs(1);

/// One reader.
struct Reader {
    to: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    cut: Arc<Notify>,
}

impl Reader {
    /// Hands over a line. Says whether the reader is still there.
    async fn tell(&self, line: Bytes) -> bool {
        match timeout(SLOW, self.to.send(line)).await {
            Ok(sent) => sent.is_ok(),
            Err(_) => {
                self.cut();
                false
            }
        }
    }

    fn cut(&self) {
        self.shared.cut();
        self.cut.notify_one();
    }
}

fn reader(shared: &Arc<Shared>, cut: Arc<Notify>) -> (Reader, Body) {
    let (to, lines) = mpsc::channel(QUEUE);
    (Reader { to, shared: Arc::clone(shared), cut }, Body::Stream(lines))
}

/// The findings so far; with `is_watch` also those to come, and losses.
pub(super) fn findings(shared: &Arc<Shared>, is_watch: bool, cut: Arc<Notify>) -> Body {
    let (reader, body) = reader(shared, cut);
    // First, so that none is missed in between; one that comes meanwhile may be told twice, as it is when it changes.
    let mut lines = shared.subscribe();
    tokio::spawn(async move {
        for line in reader.shared.recent() {
            if !reader.tell(line).await {
                return;
            }
        }
        if !is_watch {
            return;
        }
        loop {
            let line = tokio::select! {
                line = lines.recv() => line,
                () = reader.to.closed() => return,
            };
            match line {
                Ok(line) => {
                    if !reader.tell(line).await {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => return reader.cut(),
                Err(RecvError::Closed) => return,
            }
        }
    });
    body
}

/// A table; with `is_watch` every second.
pub(super) fn tables(shared: &Arc<Shared>, what: What, is_watch: bool, cut: Arc<Notify>) -> Body {
    let (reader, body) = reader(shared, cut);
    tokio::spawn(async move {
        let mut clock = interval(EVERY);
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                () = reader.to.closed() => return,
            }
            let Some(line) = reader.shared.ask(what).await else { return };
            if !reader.tell(line).await || !is_watch {
                return;
            }
        }
    });
    body
}

//! Serves HTTP/1.1 on a thread of its own: whoever connects, and however they behave, the run goes on.

use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::{sleep, timeout},
};

use super::{
    listen::{Held, Listeners},
    routes,
    shared::{Listener, Shared},
};

/// Connections at once. A scraper needs one.
const HTTP_MAX: usize = 16;
const SOCKET_MAX: usize = 32;
/// How long a request's head may take, and how long it may be.
const HEAD_TIME: Duration = Duration::from_secs(5);
const HEAD_BYTES: usize = 16 << 10;
const HEAD_LINES: usize = 32;
/// How long a connection that is no stream may last.
const CONNECTION: Duration = Duration::from_secs(30);
/// How long to wait where a connection cannot be taken: there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

/// The server's thread; ends when dropped.
pub(super) struct Server {
    _end: oneshot::Sender<()>,
    /// The socket's file goes with it.
    _held: Held,
}

/// Starts to serve.
///
/// # Errors
///
/// When there is no thread or no descriptor left.
pub(super) fn start(listeners: Listeners, shared: &Arc<Shared>) -> Result<Server> {
    let Listeners { http, socket, held } = listeners;
    let (end, over) = oneshot::channel();
    let shared = Arc::clone(shared);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the server")?;
    let (http, socket) = {
        let _inside = runtime.enter();
        (TcpListener::from_std(http).context("listen")?, UnixListener::from_std(socket).context("listen")?)
    };
    let work = move || {
        runtime.block_on(async {
            tokio::spawn(serve(Listener::Http, HTTP_MAX, Arc::clone(&shared), http));
            tokio::spawn(serve(Listener::Socket, SOCKET_MAX, shared, socket));
            // The sender never sends: it goes.
            let _ = over.await;
        });
        runtime.shutdown_background();
    };
    thread::Builder::new().name("server".to_owned()).spawn(work).context("start the server")?;
    Ok(Server { _end: end, _held: held })
}

/// What connections are taken from.
trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn poll_take(&self, context: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    fn poll_take(&self, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        self.poll_accept(context).map_ok(|(stream, _)| stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    fn poll_take(&self, context: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.poll_accept(context).map_ok(|(stream, _)| stream)
    }
}

/// Takes connections for ever.
async fn serve(listener: Listener, most: usize, shared: Arc<Shared>, from: impl Accept) {
    let room = Arc::new(Semaphore::new(most));
    loop {
        match poll_fn(|context| from.poll_take(context)).await {
            Ok(stream) => match Arc::clone(&room).try_acquire_owned() {
                Ok(permit) => drop(tokio::spawn(connection(listener, stream, Arc::clone(&shared), permit))),
                // Closed unanswered: an answer would have to be waited for.
                Err(_) => shared.refuse(listener),
            },
            Err(error) => {
                log::debug!("take a connection: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Serves one connection.
async fn connection<S>(listener: Listener, stream: S, shared: Arc<Shared>, _permit: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let cut = Arc::new(Notify::new());
    let service = service_fn(|request| {
        let (shared, cut) = (Arc::clone(&shared), Arc::clone(&cut));
        async move { routes::answer(listener, &request, &shared, cut).await }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_LINES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let most = match listener {
        Listener::Http => CONNECTION,
        // A stream lasts; who does not read it is cut off by it.
        Listener::Socket => Duration::MAX,
    };
    tokio::select! {
        served = timeout(most, served) => if let Ok(Err(error)) = served {
            log::debug!("a connection ended badly: {error}");
        },
        () = cut.notified() => {}
    }
}

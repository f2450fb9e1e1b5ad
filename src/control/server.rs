//! The daemon's end of the control socket: a thread of its own, so that no
//! operator can hold up the data path.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::LocalSet;

use super::{ControlError, MAX_LINE, Request, Response, open, seal};
use crate::holder::Program;
use crate::signals::EndSignals;
use coordinator::events::{Events, Tag};

/// Calls that may wait for the host; further ones are refused.
const MAX_CALLS: usize = 64;
/// Connections at once; further ones are turned away.
const MAX_CONNECTIONS: usize = 64;
/// Events in one message.
const EVENTS_A_MESSAGE: usize = 256;
/// A connection that asks nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How long answers may take to reach their clients when the daemon ends.
const FLUSH: Duration = Duration::from_secs(1);

/// What is done at SIGHUP.
pub type Hangup = Box<dyn Fn() + Send + Sync>;

/// A request on its way to the host.
#[derive(Debug)]
pub struct HostCall {
    /// What is asked. Never [`Request::Dmesg`], which needs no host.
    pub request: Request,
    /// The bytes that came with it.
    pub attached: Vec<u8>,
    /// With [`Request::Upgrade`]: the program that it names, examined.
    pub program: Option<Program>,
    /// Where the answer goes; dropping it tells the client that the daemon
    /// ends. The asker may be gone: that is no error.
    pub reply: oneshot::Sender<Reply>,
}

/// The host's answer to a [`HostCall`].
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub response: Response,
    /// The bytes that go with it.
    pub attached: Vec<u8>,
}

impl Reply {
    /// It is done.
    #[must_use]
    pub fn done(text: impl Into<String>) -> Self {
        Response::Done { text: text.into() }.into()
    }

    /// It is not done.
    #[must_use]
    pub fn refused(why: impl Into<String>) -> Self {
        Response::Refused { why: why.into() }.into()
    }
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Self { response, attached: Vec::new() }
    }
}

/// The bound control socket.
#[derive(Debug)]
pub struct Listener {
    listener: StdListener,
    path: PathBuf,
}

impl Listener {
    /// Binds the socket, for its owner alone. A socket that is left of an
    /// earlier daemon is replaced: the caller holds the run directory's lock.
    ///
    /// # Errors
    /// [`ControlError::NoSocket`].
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let no_socket = |why| ControlError::NoSocket { path: path.to_path_buf(), why };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(no_socket(error)),
            _ => {}
        }
        let listener = StdListener::bind(path).map_err(no_socket)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(no_socket)?;
        listener.set_nonblocking(true).map_err(no_socket)?;
        Ok(Self { listener, path: path.to_path_buf() })
    }

    /// The socket of an earlier daemon, which is bound to `path`.
    ///
    /// # Errors
    /// [`ControlError::NoSocket`].
    pub fn adopt(socket: OwnedFd, path: &Path) -> Result<Self, ControlError> {
        let listener = StdListener::from(socket);
        let no_socket = |why| ControlError::NoSocket { path: path.to_path_buf(), why };
        listener.set_nonblocking(true).map_err(no_socket)?;
        Ok(Self { listener, path: path.to_path_buf() })
    }

    /// Serves the socket from a thread of its own until the returned server is
    /// dropped. Calls for the host come out of the channel, after `wake` was
    /// called; so does [`Request::Down`] when the process is told to end. At SIGHUP
    /// `hangup` is called instead, if there is one.
    ///
    /// # Errors
    /// What making the thread and its event loop may meet.
    pub fn serve(
        self,
        events: Arc<Events>,
        wake: impl Fn() + Send + Sync + 'static,
        hangup: Option<Hangup>,
    ) -> io::Result<(Receiver<HostCall>, Server)> {
        let (calls, receiver) = bounded(MAX_CALLS);
        let (stop, ending) = watch::channel(());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Self { listener, path } = self;
        let (listener, signals) = {
            let _guard = runtime.enter();
            (UnixListener::from_std(listener)?, EndSignals::new()?)
        };
        let mut stopped = ending.clone();
        let desk = Arc::new(Desk { calls, wake: Box::new(wake), hangup, events, ending });
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            let tasks = LocalSet::new();
            let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            tasks.spawn_local(Arc::clone(&desk).signals(signals));
            tasks.spawn_local(accept(listener, Arc::clone(&desk), Arc::clone(&slots)));
            tasks.block_on(&runtime, async {
                // The sender says nothing; it goes away.
                let _ = stopped.changed().await;
                // Every connection that is being answered holds a slot.
                let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
                let _ = tokio::time::timeout(FLUSH, slots.acquire_many(all)).await;
            });
        })?;
        Ok((receiver, Server { stop: Some(stop), thread: Some(thread), path: Some(path) }))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// The running server. Dropping it ends it, after giving answers that are on
/// their way a moment.
#[derive(Debug)]
pub struct Server {
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// What is removed in the end.
    path: Option<PathBuf>,
}

impl Server {
    /// Ends it as dropping it does, but for the socket: that is for the next daemon.
    pub fn leave(mut self) {
        self.path = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.path.take().map(std::fs::remove_file);
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What every connection needs.
struct Desk {
    calls: Sender<HostCall>,
    wake: Box<dyn Fn() + Send + Sync>,
    hangup: Option<Hangup>,
    events: Arc<Events>,
    /// Closed when the server ends.
    ending: watch::Receiver<()>,
}

async fn accept(listener: UnixListener, desk: Arc<Desk>, slots: Arc<Semaphore>) {
    let own = rustix::process::geteuid().as_raw();
    let mut ending = desk.ending.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Who comes now may wait for the next daemon.
            _ = ending.changed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: wait for some to be freed.
                desk.events.warn(&[Tag::Control], format!("control socket: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        // The socket's mode says the same; it may have been changed.
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
            continue;
        }
        let desk = Arc::clone(&desk);
        tokio::task::spawn_local(async move {
            if let Err(error) = desk.converse(stream).await {
                desk.events
                    .info(&[Tag::Control], format!("a client of the control socket: {error}"));
            }
            drop(slot);
        });
    }
}

impl Desk {
    async fn converse(&self, stream: UnixStream) -> Result<(), ControlError> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut ending = self.ending.clone();
        loop {
            let line = tokio::select! {
                line = read_line(&mut reader, &mut writer) => line?,
                _ = ending.changed() => None,
            };
            let Some(line) = line else { return Ok(()) };
            let envelope = match open::<Request>(&line) {
                Ok(envelope) => envelope,
                Err(why) => return refuse(&mut writer, why).await,
            };
            let mut attached = vec![0; usize::try_from(envelope.attached).unwrap_or(0)];
            reader.read_exact(&mut attached).await?;
            match envelope.message {
                Request::Dmesg { follow, after } => {
                    self.dmesg(&mut reader, &mut writer, follow, after).await?;
                }
                request => {
                    let reply = self.ask(request, attached).await;
                    send(&mut writer, &reply.response, &reply.attached).await?;
                }
            }
        }
    }

    /// Has the host answer.
    async fn ask(&self, request: Request, attached: Vec<u8>) -> Reply {
        let program = match &request {
            Request::Upgrade { exe } => match Program::examine(exe.clone()).await {
                Ok(program) => Some(program),
                Err(error) => return Reply::refused(error.to_string()),
            },
            _ => None,
        };
        let (reply, answer) = oneshot::channel();
        match self.calls.try_send(HostCall { request, attached, program, reply }) {
            Ok(()) => (self.wake)(),
            Err(TrySendError::Full(_)) => {
                return Reply::refused("the daemon has too many requests waiting");
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
        let mut ending = self.ending.clone();
        let answer = tokio::select! {
            biased;
            answer = answer => answer.ok(),
            // Who has not answered by now never will.
            _ = ending.changed() => None,
        };
        answer.unwrap_or_else(|| Reply::refused("the daemon is going down"))
    }

    async fn dmesg(
        &self,
        reader: &mut BufReader<OwnedReadHalf>,
        writer: &mut OwnedWriteHalf,
        follow: bool,
        mut after: u64,
    ) -> Result<(), ControlError> {
        let mut news = self.events.subscribe();
        let mut ending = self.ending.clone();
        loop {
            news.mark_unchanged();
            let events = self.events.after(after, EVENTS_A_MESSAGE);
            if let Some(last) = events.last() {
                after = last.seq;
                send(writer, &Response::Events { events }, &[]).await?;
                continue;
            }
            if !follow {
                return send(writer, &Response::Done { text: "end of the log".into() }, &[]).await;
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return Ok(()) },
                _ = ending.changed() => return Ok(()),
                // The follower is gone, or says something: either way it is over.
                _ = reader.fill_buf() => return Ok(()),
            }
        }
    }

    /// Ends the daemon in an orderly way when the process is told to end.
    async fn signals(self: Arc<Self>, mut signals: EndSignals) {
        loop {
            let (signal, name) = signals.next().await;
            if let (Signal::HUP, Some(hangup)) = (signal, &self.hangup) {
                hangup();
                continue;
            }
            self.events.info(&[Tag::Host], format!("{name}: going down"));
            let _ = self.ask(Request::Down, Vec::new()).await;
        }
    }
}

/// The next line without its newline; none at the end.
async fn read_line(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> Result<Option<Vec<u8>>, ControlError> {
    let mut line = Vec::new();
    let mut limited = reader.take(MAX_LINE as u64 + 1);
    match tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line)).await {
        Ok(read) => read?,
        Err(_) => return Ok(None),
    };
    if line.pop_if(|&mut last| last == b'\n').is_some() {
        return Ok(Some(line));
    }
    if line.len() > MAX_LINE {
        refuse(writer, format!("a line of more than {MAX_LINE} bytes")).await?;
    }
    Ok(None)
}

async fn refuse(writer: &mut OwnedWriteHalf, why: String) -> Result<(), ControlError> {
    send(writer, &Response::Refused { why: format!("not understood: {why}") }, &[]).await
}

async fn send(
    writer: &mut OwnedWriteHalf,
    response: &Response,
    attached: &[u8],
) -> Result<(), ControlError> {
    writer.write_all(&seal(response, attached.len())?).await?;
    writer.write_all(attached).await?;
    Ok(())
}

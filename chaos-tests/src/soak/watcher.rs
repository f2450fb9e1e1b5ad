//! A client that watches what the others create and remove.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::layout::{self, Watched};
use super::{Shared, SoakError};
use crate::client::{Client, ClientError};

const POLL: Duration = Duration::from_millis(100);

/// What a watcher got.
#[derive(Default)]
pub(super) struct Stream {
    /// The paths of its events, in order.
    pub(super) paths: Vec<u64>,
    /// Events that no request of the run can have caused.
    pub(super) strays: u64,
    /// Why the stream ended early, if it did.
    pub(super) broken: Option<String>,
}

/// A registered watch, not read yet.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    client: Client,
    /// Behind those of the clients.
    number: u16,
}

impl Watcher {
    pub(super) fn register(shared: &Arc<Shared>, number: u16) -> Result<Self, SoakError> {
        let register = || {
            let mut client = Client::connect(&shared.socket)?;
            client.set_timeout(shared.timeout());
            client.watch(&layout::watched(&shared.config), "soak")?;
            Ok(client)
        };
        let client = register()
            .map_err(|source| SoakError::Client { what: "registering a watch", source })?;
        let number = shared.config.clients.saturating_add(number);
        Ok(Self { shared: Arc::clone(shared), client, number })
    }

    pub(super) fn run(mut self) -> Result<Stream, SoakError> {
        let mut stream = Stream::default();
        if let Err(error) = self.read_to_end(&mut stream) {
            self.shared.failure(self.number, &error);
            stream.broken = Some(error.to_string());
        }
        Ok(stream)
    }

    fn read_to_end(&mut self, stream: &mut Stream) -> Result<(), ClientError> {
        let mut patience = Instant::now() + self.shared.timeout();
        loop {
            let Some(event) = self.client.wait_event(POLL)? else {
                // Silence is an error only once everybody else is done.
                if self.shared.endless.load(Ordering::Relaxed) {
                    return Ok(());
                } else if !self.shared.stopped() {
                    patience = Instant::now() + self.shared.timeout();
                } else if Instant::now() > patience {
                    return Err(ClientError::Timeout);
                }
                continue;
            };
            self.shared.counters.event();
            match layout::parse_event(&self.shared.config, event.path()) {
                Some(Watched::Node(path)) => stream.paths.push(path),
                Some(Watched::Start) => {}
                Some(Watched::End) => return Ok(()),
                None => stream.strays += 1,
            }
        }
    }
}

//! What the commands that take long have in common: a line that shows how it
//! goes, and an end on request.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chaos::campaign::Stop;
use indicatif::{ProgressBar, ProgressStyle};

/// The line that shows how it goes: drawn in place on a terminal, now and then
/// elsewhere.
pub(super) struct Line {
    bar: ProgressBar,
    on_terminal: bool,
    said: Mutex<Option<Instant>>,
}

/// So often without a terminal.
const SAY_EVERY: Duration = Duration::from_secs(5);

impl Line {
    /// For something of this length.
    pub(super) fn new(length: u64) -> Self {
        let bar = ProgressBar::new(length);
        if let Ok(style) = ProgressStyle::with_template("[{bar:24}] {wide_msg}") {
            bar.set_style(style.progress_chars("##."));
        }
        let on_terminal = std::io::stderr().is_terminal();
        Self { bar, on_terminal, said: Mutex::new(None) }
    }

    /// It has come so far.
    pub(super) fn show(&self, position: u64, text: String) {
        if self.on_terminal {
            self.bar.set_position(position);
            self.bar.set_message(text);
            return;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|then| then.elapsed() >= SAY_EVERY) {
            *said = Some(Instant::now());
            // That progress cannot be shown must not end what makes it.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Something that stays on the screen.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| _ = writeln!(std::io::stderr(), "{text}"));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Milliseconds, as the length of a [`Line`].
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// From the first signal on, everybody is told to stop, and `saying` to the user;
/// it takes a moment, in which further signals change nothing.
pub(super) fn stop_on_signals(stop: Stop, saying: &'static str) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _context = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            stop.set();
            let _ = writeln!(std::io::stderr(), "\n{saying}");
            // The handlers stay, so that nobody ends us half-way.
            std::future::pending::<()>().await;
        });
    })?;
    Ok(())
}

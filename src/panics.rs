//! What a panic means: the end of the process, at once and in whatever thread,
//! as a half-done change is worse than a death that others know how to bear.

/// From now on, a panic is told as before and then ends the process. Without
/// this it unwinds, as the simulator needs it: there, a replica is a value and
/// no process.
pub fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        std::process::abort();
    }));
}

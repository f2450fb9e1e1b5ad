//! The `rvmm` binary: the command line, and in its replica processes the
//! replica.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().skip(1).collect();
    // Replicas are started while clients wait: they take the short way, past
    // the command line's parser.
    if args.first().is_some_and(|first| first == rvmm::cli::REPLICA_COMMAND) {
        args.remove(0);
        rvmm::panics::abort_on_panic();
        return rvmm::host::replica(args);
    }
    rvmm::cli::main()
}

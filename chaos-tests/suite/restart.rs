//! The daemon's own death, and another program in its place: the holder sees to it that
//! there is a daemon, and that nothing is left when there is none any more.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chaos::client::{Client, Tx};
use chaos::harness::{Host, HostOptions, HostStatus, LastRestart, Signal, signal, wait_for};
use libtest_mimic::{Arguments, Trial};
use xenstore::wire::MessageType;

const PATIENCE: Duration = Duration::from_secs(30);

const TESTS: &[(&str, fn())] = &[
    ("a_killed_daemon_is_replaced", a_killed_daemon_is_replaced),
    ("a_daemon_that_stands_still_can_be_killed", a_daemon_that_stands_still_can_be_killed),
    ("a_daemon_that_hangs_is_replaced", a_daemon_that_hangs_is_replaced),
    ("nothing_outlives_the_holder", nothing_outlives_the_holder),
    ("a_daemon_that_always_dies_is_given_up", a_daemon_that_always_dies_is_given_up),
    ("signals_go_on_to_the_daemon", signals_go_on_to_the_daemon),
    ("another_program_takes_over", another_program_takes_over),
    ("a_daemon_killed_in_the_middle_of_an_upgrade", a_daemon_killed_in_the_middle_of_an_upgrade),
    ("the_trace_has_what_comes_meanwhile", the_trace_has_what_comes_meanwhile),
    ("a_program_replaced_on_disk_takes_over", a_program_replaced_on_disk_takes_over),
    ("a_stranger_is_refused", a_stranger_is_refused),
    ("a_program_that_fails_gives_way_to_the_one_before", a_program_that_fails_gives_way),
    ("the_service_manager_hears_of_every_daemon", the_service_manager_hears_of_every_daemon),
];

fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        // The part of a program that can take over, it says, and then cannot.
        Some("handover-format") => return print!("{}", about()),
        Some("up") => std::process::exit(code_by_name()),
        _ => {}
    }
    let trials = TESTS.iter().map(|&(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

/// With which code this program, called `exits-CODE`, is to end.
fn code_by_name() -> i32 {
    let path = std::env::current_exe().expect("this program");
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    name.strip_prefix("exits-").and_then(|code| code.parse().ok()).expect("a code")
}

fn rvmm() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rvmm"))
}

/// What our program says of itself.
fn about() -> String {
    let output = Command::new(rvmm()).arg("handover-format").output().expect("runs");
    String::from_utf8(output.stdout).expect("is text")
}

fn start() -> Host {
    Host::start(rvmm(), &HostOptions::default()).expect("starts")
}

/// Whether a process runs, or could.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn state_letter(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn program_of(pid: u32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).expect("it lives")
}

/// All of them but the holder.
fn processes(status: &HostStatus) -> BTreeSet<u32> {
    let replicas = status.components.iter().flat_map(|component| &component.replicas);
    replicas.map(|replica| replica.pid).chain([status.pid]).filter(|&pid| pid != 0).collect()
}

fn wait_until_gone(pids: &BTreeSet<u32>) {
    let gone = || Ok(pids.iter().all(|&pid| !lives(pid)).then_some(()));
    wait_for("the end of all processes", PATIENCE, gone).expect("they end");
}

/// Waits until the daemon after so many others serves, with all replicas.
fn wait_restarted(host: &Host, restarts: u64) -> (HostStatus, LastRestart) {
    let restarted = || {
        let Ok(status) = host.status() else { return Ok(None) };
        let complete = status.xenstore().is_some_and(|xenstore| xenstore.is_complete());
        let last = status.holder.last_restart.clone();
        let served = last.filter(|last| last.pause_ms.is_some() && complete);
        let found = served.map(|last| (status, last));
        Ok(found.filter(|(status, _)| status.holder.restarts == restarts))
    };
    wait_for("another daemon", PATIENCE, restarted).unwrap_or_else(|error| {
        panic!("{error}; the log ends:\n{}", host.log());
    })
}

fn lock_file(host: &Host) -> String {
    std::fs::read_to_string(host.run_dir().join("lock")).expect("is there").trim().to_owned()
}

fn serves(host: &Host) {
    let mut client = Client::connect(host.socket()).expect("connects");
    client.write(Tx::NONE, "/restart", b"served").expect("writes");
    assert_eq!(client.read(Tx::NONE, "/restart").expect("reads"), b"served");
}

fn a_killed_daemon_is_replaced() {
    let mut host = start();
    let first = host.status().expect("tells");
    assert_eq!((first.holder.pid, first.holder.restarts), (host.holder_pid(), 0));
    assert_ne!(first.pid, first.holder.pid);
    let old = processes(&first);
    let mut client = Client::connect(host.socket()).expect("connects");
    client.write(Tx::NONE, "/kept", b"by all").expect("writes");
    client.watch("/kept", "token").expect("watches");
    assert!(client.wait_event(PATIENCE).expect("waits").is_some(), "the first event");
    let transaction = client.start().expect("begins");
    client.write(transaction, "/later", b"then").expect("writes");
    // Whoever is being sent something when it dies is disconnected, and it may not have
    // come back yet from sending this answer.
    let sleeps = || Ok((state_letter(first.pid) == Some('S')).then_some(()));
    wait_for("the daemon to have nothing to do", PATIENCE, sleeps).expect("it sleeps");
    signal(first.pid, Signal::KILL).expect("it lives");
    let (second, last) = wait_restarted(&host, 1);
    println!("served again after {} ms", last.pause_ms.expect("it serves"));
    assert_eq!((last.cause.as_str(), last.how.as_deref()), ("died", Some("signal 9")));
    assert_eq!(second.holder.pid, first.holder.pid);
    assert_ne!(second.pid, first.pid);
    assert_eq!(lock_file(&host), first.holder.pid.to_string());
    // Replicas live on, and so do the connection, its watch and its transaction.
    let replicas = |status: &HostStatus| {
        let pids = processes(status).into_iter();
        pids.filter(|pid| ![status.pid, status.holder.pid].contains(pid)).collect::<BTreeSet<_>>()
    };
    assert_eq!(replicas(&first), replicas(&second));
    assert_eq!(client.read(Tx::NONE, "/kept").expect("reads"), b"by all");
    assert!(client.commit(transaction).expect("ends"));
    assert_eq!(client.read(Tx::NONE, "/later").expect("reads"), b"then");
    serves(&host);
    Client::connect(host.socket())
        .expect("connects")
        .write(Tx::NONE, "/kept", b"anew")
        .expect("writes");
    assert!(client.wait_event(PATIENCE).expect("waits").is_some(), "the watch lives");
    let shown = String::from_utf8(host.run(&["status"]).expect("runs").stdout).expect("is text");
    assert!(
        shown.contains("restarts of the daemon: 1; the last daemon ended: signal 9"),
        "{shown}"
    );
    signal(*replicas(&second).first().expect("a replica"), Signal::KILL).expect("it lives");
    let is_gone = || {
        let gone = old.iter().any(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        Ok(gone.then_some(()))
    };
    wait_for("the holder to reap an orphan", PATIENCE, is_gone).expect("it does");
    host.wait_complete(PATIENCE).expect("it is replaced");
    let second = host.status().expect("tells");
    host.stop().expect("ends");
    wait_until_gone(&processes(&second));
}

/// As an operator would do it who finds it hung.
fn a_daemon_that_stands_still_can_be_killed() {
    let host = start();
    let first = host.status().expect("tells");
    signal(first.pid, Signal::STOP).expect("it lives");
    std::thread::sleep(Duration::from_millis(100));
    assert!(processes(&first).iter().all(|&pid| lives(pid)), "nobody ends because of that");
    signal(first.pid, Signal::KILL).expect("it lives");
    let (_, last) = wait_restarted(&host, 1);
    assert_eq!(last.how.as_deref(), Some("signal 9"));
    serves(&host);
}

/// Who waited for it is answered by the next one; one that stood still for a moment only
/// goes on.
fn a_daemon_that_hangs_is_replaced() {
    let host = start();
    let first = host.status().expect("tells");
    let mut client = Client::connect(host.socket()).expect("connects");
    signal(first.pid, Signal::STOP).expect("it lives");
    std::thread::sleep(Duration::from_millis(1_000));
    signal(first.pid, Signal::CONT).expect("it lives");
    client.write(Tx::NONE, "/a", b"1").expect("is served");
    std::thread::sleep(Duration::from_millis(3_000));
    assert_eq!(host.status().expect("tells").pid, first.pid);
    signal(first.pid, Signal::STOP).expect("it lives");
    let began = Instant::now();
    client.write(Tx::NONE, "/b", b"2").expect("is served");
    println!("hung daemon: the next one answered after {} ms", began.elapsed().as_millis());
    let (_, last) = wait_restarted(&host, 1);
    assert_eq!(last.how.as_deref(), Some("hung (stopped from outside)"));
    serves(&host);
}

fn nothing_outlives_the_holder() {
    for orphaned in [false, true] {
        let mut host = start();
        let status = host.status().expect("tells");
        let mut pids = processes(&status);
        // One that will never look up.
        let stopped = status.xenstore().and_then(|x| x.standbys().next()).expect("is there").pid;
        signal(stopped, Signal::STOP).expect("it lives");
        let stands = || Ok((state_letter(stopped) == Some('T')).then_some(()));
        wait_for("a replica to stand still", PATIENCE, stands).expect("it does");
        if orphaned {
            // The daemon does not notice, and the replicas are the holder's.
            signal(status.pid, Signal::KILL).expect("it lives");
            let ended = || Ok((!lives(status.pid)).then_some(()));
            wait_for("the daemon's end", PATIENCE, ended).expect("ends");
        } else {
            // Nor does this one come to stop anybody.
            signal(status.pid, Signal::STOP).expect("it lives");
            pids.insert(status.pid);
            let stands = || Ok((state_letter(status.pid) == Some('T')).then_some(()));
            wait_for("the daemon to stand still", PATIENCE, stands).expect("it does");
        }
        assert_eq!(state_letter(stopped), Some('T'));
        host.kill();
        wait_until_gone(&pids);
    }
}

fn a_daemon_that_always_dies_is_given_up() {
    let mut host = start();
    let all = processes(&host.status().expect("tells"));
    // Whatever the holder starts is killed before it can be ready.
    let ended = loop {
        for pid in children(host.holder_pid()) {
            // It may have ended just now.
            let _ = signal(pid, Signal::KILL);
        }
        if let Ok(ended) = host.wait_end(Duration::from_millis(1)) {
            break ended;
        }
    };
    assert_eq!(ended.code(), Some(1));
    let said = "the daemon is given up: it ended 5 times without being ready, or 100 times within \
                10 s, the last time so: signal 9";
    assert!(host.log().contains(said), "{}", host.log());
    wait_until_gone(&all);
}

/// Those of all its threads.
fn children(parent: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten();
    let lists = threads.flatten().map(|thread| thread.path().join("children"));
    let listed: String = lists.filter_map(|list| std::fs::read_to_string(list).ok()).collect();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn signals_go_on_to_the_daemon() {
    for (told, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut host = start();
        // It opens its trace file anew, if it has one.
        signal(host.holder_pid(), Signal::HUP).expect("it lives");
        serves(&host);
        let pids = processes(&host.status().expect("tells"));
        signal(host.holder_pid(), told).expect("it lives");
        assert_eq!(host.wait_end(PATIENCE).expect("ends").code(), Some(0));
        assert!(host.log().contains(&format!("{name}: going down")), "{}", host.log());
        assert!(pids.iter().all(|&pid| !lives(pid)), "it ends when all have ended");
    }
}

/// Copies a program. By another process: one that we start meanwhile would inherit the
/// open copy for a moment, and what is open for writing cannot be executed.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--").args([from, to]).status();
    assert!(copied.expect("runs").success());
}

fn copy_to(dir: &Path) -> PathBuf {
    let program = dir.join("rvmm-of-tomorrow");
    copy(rvmm(), &program);
    program
}

fn wait_for_replicas_of(host: &Host, program: &Path) -> HostStatus {
    let are_new = || {
        let Ok(status) = host.status() else { return Ok(None) };
        let component = &status.components[0];
        // One of those of before may be about to end.
        let of_it =
            |pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|p| p == program);
        let all_new = component.replicas.iter().all(|replica| of_it(replica.pid));
        Ok((component.is_complete() && all_new).then_some(status))
    };
    wait_for("replicas of its version", PATIENCE, are_new).expect("they come")
}

fn another_program_takes_over() {
    let host = start();
    let dir = tempfile::tempdir().expect("a directory");
    let program = copy_to(dir.path());
    let mut client = Client::connect(host.socket()).expect("connects");
    client.write(Tx::NONE, "/kept", b"through all this").expect("writes");
    let before = host.status().expect("tells");
    let said =
        host.command(&["upgrade", "--exe", program.to_str().expect("text")]).expect("is done");
    print!("{said}");
    let expected =
        format!("from rvmm 0.1.0 to rvmm 0.1.0 ({}), served again after ", program.display());
    assert!(said.starts_with(&expected), "{said}");
    let after = host.status().expect("it serves as soon as that is told");
    assert_eq!((after.holder.pid, after.holder.restarts), (before.holder.pid, 1));
    assert_eq!(program_of(after.pid), program);
    let (_, last) = wait_restarted(&host, 1);
    assert_eq!(last.cause, "upgrade");
    let after = wait_for_replicas_of(&host, &program);
    assert_eq!(client.read(Tx::NONE, "/kept").expect("reads"), b"through all this");
    serves(&host);
    // From then on it is that one, even if its file is gone.
    std::fs::remove_file(&program).expect("is removed");
    signal(after.pid, Signal::KILL).expect("it lives");
    let (last, _) = wait_restarted(&host, 2);
    assert!(program_of(last.pid).display().to_string().ends_with("rvmm-of-tomorrow (deleted)"));
    let name = std::fs::read_to_string(format!("/proc/{}/comm", last.pid)).expect("it lives");
    assert_eq!(name, "rvmm\n");
    serves(&host);
}

/// What is left to be done is seen from the replicas alone.
fn a_daemon_killed_in_the_middle_of_an_upgrade() {
    let host = start();
    let dir = tempfile::tempdir().expect("a directory");
    let program = copy_to(dir.path());
    host.command(&["upgrade", "--exe", program.to_str().expect("text")]).expect("is done");
    signal(host.status().expect("tells").pid, Signal::KILL).expect("it lives");
    let after = wait_for_replicas_of(&host, &program);
    assert_eq!((after.holder.restarts, program_of(after.pid)), (2, program));
    serves(&host);
}

fn the_trace_has_what_comes_meanwhile() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("trace");
    let options = HostOptions::default().set("xenstore.trace_file", file.display());
    let mut host = Host::start(rvmm(), &options).expect("starts");
    let mut client = Client::connect(host.socket()).expect("connects");
    client.write(Tx::NONE, "/before", b"1").expect("writes");
    host.command(&["upgrade"]).expect("is done");
    let pid = host.status().expect("tells").pid;
    signal(pid, Signal::STOP).expect("it lives");
    let stands = || Ok((state_letter(pid) == Some('T')).then_some(()));
    wait_for("the daemon to stand still", PATIENCE, stands).expect("it does");
    client.queue(MessageType::Write, Tx::NONE, &[b"/meanwhile\0", b"2"]);
    client.flush().expect("is sent");
    signal(pid, Signal::KILL).expect("it lives");
    client.reply().expect("is answered");
    host.stop().expect("ends");
    let text = std::fs::read_to_string(file).expect("is there");
    for asked in [" WRITE (/before 1)\n", " WRITE (/meanwhile 2)\n"] {
        assert_eq!(text.matches(asked).count(), 1, "{text}");
    }
    assert_eq!(text.matches(" WRITE (OK )\n").count(), 2, "{text}");
}

/// As a package manager does it.
fn a_program_replaced_on_disk_takes_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let installed = dir.path().join("rvmm");
    copy(rvmm(), &installed);
    let host = Host::start(&installed, &HostOptions::default()).expect("starts");
    let before = host.status().expect("tells");
    std::fs::rename(copy_to(dir.path()), &installed).expect("is replaced");
    assert!(program_of(before.pid).display().to_string().ends_with(" (deleted)"));
    host.command(&["upgrade"]).expect("is done");
    let (after, last) = wait_restarted(&host, 1);
    assert_eq!((program_of(after.pid), last.cause.as_str()), (installed, "upgrade"));
    serves(&host);
}

fn a_stranger_is_refused() {
    let host = start();
    let before = host.status().expect("tells");
    for (program, why) in [
        ("/bin/false", "/bin/false is no rvmm that can take over: it ended with exit status: 1"),
        ("/nosuch/rvmm", "/nosuch/rvmm: No such file or directory"),
    ] {
        let output = host.run(&["upgrade", "--exe", program]).expect("runs");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(why), "{said}");
    }
    let after = host.status().expect("tells");
    assert_eq!((after.pid, after.holder), (before.pid, before.holder));
    serves(&host);
}

fn a_program_that_fails_gives_way() {
    let host = start();
    let dir = tempfile::tempdir().expect("a directory");
    // Also an end that looks orderly is none before it was ready.
    for (restarts, code) in [(2, 3), (4, 0)] {
        let program = dir.path().join(format!("exits-{code}"));
        copy(&std::env::current_exe().expect("this program"), &program);
        let program = program.to_str().expect("text");
        let output = host.run(&["upgrade", "--exe", program]).expect("runs");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        print!("{said}");
        let expected = format!(
            "{program} was not ready when it ended (exit code {code}): back to the program \
             before; rvmm 0.1.0 serves again after "
        );
        assert!(said.contains(&expected), "{said}");
        let (after, last) = wait_restarted(&host, restarts);
        assert_eq!(last.cause, "upgrade-failed");
        assert_eq!(last.how, Some(format!("exit code {code}")));
        assert_eq!(program_of(after.pid), rvmm());
        serves(&host);
    }
}

/// A process that ends with the test, also with one that fails.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn hear(manager: &UnixDatagram) -> String {
    let mut said = [0; 1024];
    let len = manager.recv(&mut said).expect("something is said");
    String::from_utf8_lossy(&said[..len]).into_owned()
}

fn the_service_manager_hears_of_every_daemon() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("is bound");
    manager.set_read_timeout(Some(PATIENCE)).expect("is set");
    let holder = Command::new(rvmm())
        .args(["up", "--run-dir"])
        .arg(dir.path().join("run"))
        .arg("--state-dir")
        .arg(dir.path().join("state"))
        .env("RVMM_CONFIG", "")
        .env("NOTIFY_SOCKET", &path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut holder = Ended(holder.expect("starts"));
    let ready = hear(&manager);
    assert!(ready.starts_with("READY=1\nSTATUS=xenstore at "), "{ready}");
    let status = Command::new(rvmm())
        .args(["status", "-o", "json", "--run-dir"])
        .arg(dir.path().join("run"))
        .env("RVMM_CONFIG", "")
        .output()
        .expect("runs");
    let status: HostStatus = serde_json::from_slice(&status.stdout).expect("a status");
    signal(status.pid, Signal::KILL).expect("it lives");
    assert_eq!(hear(&manager), "STATUS=restarts: the last daemon ended: signal 9\n");
    assert_eq!(hear(&manager), ready);
    signal(holder.0.id(), Signal::TERM).expect("it lives");
    assert_eq!(hear(&manager), "STOPPING=1\n");
    let stdout = holder.0.stdout.take().expect("is piped");
    let stdout = std::io::read_to_string(stdout).expect("is read");
    assert_eq!(stdout.lines().count(), 1, "the first daemon alone is printed: {stdout}");
    assert!(stdout.starts_with("ready: xenstore at "), "{stdout}");
    assert!(holder.0.wait().expect("ends").success());
}

//! The command line as its users meet it: the real binary, its output and its
//! exit codes.

use std::path::Path;
use std::process::{Command, Output};

/// The binary with this run directory, and without what the machine's
/// configuration says.
fn command(run_dir: &Path, args: &[&str]) -> Command {
    program(Path::new(env!("CARGO_BIN_EXE_rvmm")), run_dir, args)
}

fn program(program: &Path, run_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env("RVMM_CONFIG", "").env("RVMM_RUN_DIR", run_dir);
    command
}

fn rvmm(run_dir: &Path, args: &[&str]) -> Output {
    command(run_dir, args).output().expect("runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn a_bad_configuration_starts_nothing() {
    let dir = scratch();
    let run_dir = dir.path().join("run");
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, "[xenstore]\nreplicas = 8\nak = \"quorum\"\n").expect("is written");
    let file = file.to_str().expect("is text");
    for command in [&["up", "--config", file][..], &["up", "--detach", "--config", file]] {
        let output = rvmm(&run_dir, command);
        assert_eq!(output.status.code(), Some(1));
        let said = err(&output);
        assert!(said.contains("bad.toml:2: xenstore.replicas = 8 is refused"), "{said}");
        assert!(
            said.contains("bad.toml:3: unknown key xenstore.ak; allowed in [xenstore]: replicas, "),
            "{said}"
        );
        assert!(!run_dir.exists());
    }
    let output = rvmm(&run_dir, &["config", "check", "--config", file]);
    assert_eq!(output.status.code(), Some(1));
    let output = rvmm(&run_dir, &["config", "check", "--replicas", "5"]);
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(0), "ok: defaults\n"));
}

#[test]
fn shown_configuration_names_its_sources() {
    let dir = scratch();
    let shown = rvmm(dir.path(), &["config", "show", "--replicas", "5"]);
    let text = out(&shown);
    assert!(text.contains("# env RVMM_RUN_DIR\n"), "{text}");
    assert!(text.contains("xenstore.replicas = 5                          # flag --replicas\n"));
    assert!(text.contains("monitor.detect_ms = 50                         # default\n"));
    // What is shown is a configuration file.
    let file = dir.path().join("shown.toml");
    std::fs::write(&file, &text).expect("is written");
    let file = file.to_str().expect("is text");
    assert_eq!(rvmm(dir.path(), &["config", "check", "--config", file]).status.code(), Some(0));
    let json = rvmm(dir.path(), &["config", "show", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("is JSON");
    let key = &json.as_array().expect("is a list")[3];
    assert_eq!((key["key"].as_str(), key["value"].as_u64()), (Some("xenstore.replicas"), Some(3)));
}

#[test]
fn without_a_daemon_commands_say_so() {
    let dir = scratch();
    for command in [
        &["status"][..],
        &["down"],
        &["dmesg"],
        &["fault", "kill"],
        &["promote", "xenstore", "1"],
        &["scale", "xenstore", "5"],
        &["xenstore", "export", "-"],
    ] {
        let output = rvmm(dir.path(), command);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert!(err(&output).contains("no rvmm daemon at "), "{command:?}: {}", err(&output));
    }
}

#[test]
fn senseless_requests_are_refused_before_they_are_sent() {
    let dir = scratch();
    for (command, expected) in [
        (&["scale", "xenstore", "8"][..], "8 is not in 1..=7"),
        (&["fault", "explode"], "kill, hang, slow, corrupt, poison"),
        (&["fault", "kill", "--replica", "boss"], "allowed: primary, standby or an id"),
        (&["fault", "kill", "--duration", "1s"], "--duration is for hang and slow"),
        (&["fault", "hang", "--percent", "10"], "--percent is for slow"),
    ] {
        let output = rvmm(dir.path(), command);
        assert_ne!(output.status.code(), Some(0), "{command:?}");
        assert!(err(&output).contains(expected), "{command:?}: {}", err(&output));
    }
}

/// It is where clients of Xen's own daemon look for it, and gone when it was told to end.
#[test]
fn a_daemon_in_the_place_of_xens_is_found_where_that_would_be() {
    let dir = scratch();
    let (run_dir, sockets) = (dir.path().join("run"), dir.path().join("xenstored"));
    let pid_file = dir.path().join("xenstored.pid");
    let start = || {
        let mut command = command(&run_dir, &["xenstored", "-D", "-W", "77", "--output-pid"]);
        let command = command.arg("--pid-file").arg(&pid_file).env("XENSTORED_RUNDIR", &sockets);
        command.output().expect("runs")
    };
    let started = start();
    assert_eq!(started.status.code(), Some(0), "{}", err(&started));
    let mut client = chaos::client::Client::connect(sockets.join("socket")).expect("connects");
    let quotas = client.control(&["quota"]).expect("tells");
    let quotas = String::from_utf8_lossy(&quotas).into_owned();
    assert!(quotas.lines().any(|line| line.starts_with("watches ") && line.contains(" 77 ")));

    let pid = std::fs::read_to_string(&pid_file).expect("there is one");
    assert_eq!(pid, out(&started));
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", pid.trim())).expect("it lives");
    assert_eq!(comm.trim(), "rvmm");
    // As Debian's start script does it with each upgrade.
    let second = start();
    let socket = sockets.join("socket");
    let expected = format!("xenstored serves {} already (pid {})", socket.display(), pid.trim());
    assert!(err(&second).contains(&expected), "{}", err(&second));
    assert_eq!((second.status.code(), out(&second).as_str()), (Some(0), ""));
    std::fs::write(&pid_file, "1\n").expect("is written");
    let another = start();
    let expected = format!("another xenstored serves {}", socket.display());
    assert!(err(&another).contains(&expected), "{}", err(&another));
    assert_eq!(another.status.code(), Some(1));

    let down = rvmm(&run_dir, &["down"]);
    assert_eq!(down.status.code(), Some(0), "{}", err(&down));
    assert!(!pid_file.exists() && !socket.exists());
}

/// Start scripts call it by a link, and have no room for a command.
#[test]
fn by_the_name_of_xenstored_it_traces_and_goes_on_when_the_file_was_moved_away() {
    let dir = scratch();
    let (run_dir, link) = (dir.path().join("run"), dir.path().join("xenstored"));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_rvmm"), &link).expect("is made");
    let (trace, moved) = (dir.path().join("trace.log"), dir.path().join("trace.log.1"));
    let started = program(&link, &run_dir, &["-D", "-P", "-T", "trace.log"])
        .current_dir(dir.path())
        .env("XENSTORED_RUNDIR", dir.path())
        .output()
        .expect("runs");
    assert_eq!(started.status.code(), Some(0), "{}", err(&started));
    let pid = out(&started).trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    let mut client = chaos::client::Client::connect(dir.path().join("socket")).expect("connects");
    client.domain_path(7).expect("is answered");
    within_seconds(|| text_of(&trace).contains(" GET_DOMAIN_PATH (/local/domain/7 )\n"));
    assert!(text_of(&trace).contains(" GET_DOMAIN_PATH (7 )\n"));
    assert!(text_of(&trace).contains("CREATE connection 0x"));

    std::fs::rename(&trace, &moved).expect("is moved");
    rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::HUP)
        .expect("is told");
    within_seconds(|| trace.exists());
    client.domain_path(8).expect("is answered");
    client.control(&["log", "off"]).expect("is answered");
    client.domain_path(9).expect("is answered");
    let down = rvmm(&run_dir, &["down"]);
    assert_eq!(down.status.code(), Some(0), "{}", err(&down));
    let (before, after) = (text_of(&moved), text_of(&trace));
    assert!(!before.contains("domain/8") && after.contains("domain/8"), "{after}");
    assert!(after.starts_with("\n***\n") && !after.contains("domain/9"), "{after}");
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn within_seconds(is_so: impl Fn() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !is_so() {
        assert!(std::time::Instant::now() < end, "in vain");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A host's files in miniature.
#[test]
fn a_host_is_made_to_start_it_and_made_to_go_back() {
    let dir = scratch();
    let root = dir.path().join("root");
    let program = root.join(env!("CARGO_BIN_EXE_rvmm").trim_start_matches('/'));
    let settings = root.join("etc/default/xen");
    for folder in [program.parent(), settings.parent(), Some(&root.join("etc/init.d"))] {
        std::fs::create_dir_all(folder.expect("has one")).expect("is made");
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_rvmm"), &program).expect("is made");
    std::fs::write(root.join("etc/init.d/xen"), "#!/bin/sh\n").expect("is written");
    let boot = |command: &str| {
        rvmm(dir.path(), &["boot", command, "--root", root.to_str().expect("is text")])
    };
    let none = boot("enable");
    assert!(err(&none).contains("none of Xen's start scripts"), "{}", err(&none));

    std::fs::write(&settings, "XENSTORED_ARGS=\"-W 5 --preserve-local\"\n").expect("is written");
    let refused = boot("enable");
    assert_eq!(refused.status.code(), Some(1));
    let expected =
        "XENSTORED_ARGS=\"-W 5 --preserve-local\": start scripts would fail: --preserve-local";
    assert!(err(&refused).contains(expected), "{}", err(&refused));
    assert!(!root.join("usr").exists());

    let content = "XENSTORED_ARGS=\"-W 5\"\nXENSTORED=/usr/sbin/oxenstored\n";
    std::fs::write(&settings, content).expect("is written");
    assert_eq!(
        (boot("status").status.code(), out(&boot("status"))),
        (Some(1), "disabled\n".into())
    );
    let enabled = boot("enable");
    assert_eq!(enabled.status.code(), Some(0), "{}", err(&enabled));
    let said = out(&enabled);
    assert!(said.contains("usr/local/lib/rvmm/xenstored: made, a link to "), "{said}");
    let expected = "etc/default/xen: lines added at the end: \
                    XENSTORED=/usr/local/lib/rvmm/xenstored (was /usr/sbin/oxenstored)\n";
    assert!(said.contains(expected), "{said}");
    assert!(said.ends_with("this program is the host's xenstored from its next boot on\n"));
    assert_eq!((boot("status").status.code(), out(&boot("status"))), (Some(0), "enabled\n".into()));
    assert!(out(&boot("enable")).starts_with("nothing to change\n"));

    let disabled = boot("disable");
    assert_eq!(disabled.status.code(), Some(0), "{}", err(&disabled));
    assert_eq!(text_of(&settings), content);
    assert!(!root.join("usr/local/lib/rvmm").exists());
    assert_eq!(boot("status").status.code(), Some(1));
}

#[test]
fn a_daemon_in_the_background_lives_until_down() {
    let dir = scratch();
    let run_dir = dir.path().join("run");
    let up = rvmm(&run_dir, &["up", "--detach"]);
    assert_eq!(up.status.code(), Some(0), "{}", err(&up));
    assert!(out(&up).starts_with("ready: xenstore at "), "{}", out(&up));
    // Ready means that clients are answered.
    let socket = run_dir.join("xenstored/socket");
    let mut client = chaos::client::Client::connect(&socket).expect("connects");
    client.domain_path(0).expect("is answered");

    let second = rvmm(&run_dir, &["up"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(err(&second).contains("another rvmm (pid "), "{}", err(&second));
    let second = rvmm(&run_dir, &["up", "--detach"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(err(&second).contains("another rvmm (pid "), "{}", err(&second));

    let status = rvmm(&run_dir, &["status", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&status.stdout).expect("is JSON");
    let replicas = json["components"][0]["replicas"].as_array().expect("is a list").clone();
    assert!(!replicas.is_empty());
    assert!(out(&rvmm(&run_dir, &["dmesg"])).contains("[SD_MON]"));

    let down = rvmm(&run_dir, &["down"]);
    assert_eq!(down.status.code(), Some(0), "{}", err(&down));
    for replica in replicas {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", replica["pid"]));
        assert!(state.is_err() || state.is_ok_and(|it| it.contains(") Z ")), "{replica}");
    }
    assert_eq!(rvmm(&run_dir, &["status"]).status.code(), Some(2));
    let again = rvmm(&run_dir, &["up", "--detach"]);
    assert_eq!(again.status.code(), Some(0), "{}", err(&again));
    assert_eq!(rvmm(&run_dir, &["down"]).status.code(), Some(0));
}

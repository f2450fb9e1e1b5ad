//! The command line as its users meet it: the real binary, its output and its
//! exit codes.

use std::path::Path;
use std::process::{Command, Output};

/// The binary with this run directory, and without what the machine's
/// configuration says.
fn command(run_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rvmm"));
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
    let second = start();
    let expected = format!("another xenstored serves {}", sockets.join("socket").display());
    assert!(err(&second).contains(&expected), "{}", err(&second));

    let down = rvmm(&run_dir, &["down"]);
    assert_eq!(down.status.code(), Some(0), "{}", err(&down));
    assert!(!pid_file.exists() && !sockets.join("socket").exists());
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

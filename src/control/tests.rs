use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;
use coordinator::events::{Events, Tag};

/// A server with a host that answers every call with its debug text, and
/// returns at the first `Down`.
struct Rig {
    _dir: tempfile::TempDir,
    path: PathBuf,
    events: Arc<Events>,
    woken: Arc<AtomicUsize>,
    host: Option<thread::JoinHandle<()>>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let events = Arc::new(Events::new(1000));
        let woken = Arc::new(AtomicUsize::new(0));
        let listener = Listener::bind(&path).unwrap();
        let counter = Arc::clone(&woken);
        let wake = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        let (calls, server) = listener.serve(Arc::clone(&events), wake, None).unwrap();
        let host = thread::spawn(move || {
            let _server = server;
            for call in calls {
                let text = format!("{:?} with {} bytes", call.request, call.attached.len());
                let down = call.request == Request::Down;
                let reply = Reply { attached: call.attached, ..Reply::done(text) };
                let _ = call.reply.send(reply);
                if down {
                    return;
                }
            }
        });
        Self { _dir: dir, path, events, woken, host: Some(host) }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    /// What comes back for raw bytes, to the end.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        // The server may hang up before it has read everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        BufReader::new(stream).lines().map_while(Result::ok).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = Client::connect(&self.path).and_then(|mut it| it.call(&Request::Down, &[]));
        self.host.take().unwrap().join().unwrap();
    }
}

#[test]
fn calls_reach_the_host_and_answers_come_back() {
    let rig = Rig::new();
    let mut client = rig.client();
    let request = Request::Scale { component: "xenstore".into(), replicas: 5 };
    let reply = client.call(&request, &[]).unwrap();
    let text = "Scale { component: \"xenstore\", replicas: 5 } with 0 bytes".to_owned();
    assert_eq!(reply.response, Response::Done { text });
    assert_eq!(rig.woken.load(Ordering::SeqCst), 1);
    // Bytes go both ways, and the connection serves on.
    let blob: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
    let reply = client.call(&Request::Import { component: "xenstore".into() }, &blob).unwrap();
    assert_eq!(reply.attached, blob);
    assert!(matches!(client.call(&Request::Status, &[]).unwrap().response, Response::Done { .. }));
}

#[test]
fn the_socket_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new();
    let mode = std::fs::metadata(&rig.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_log_is_told_and_followed() {
    let rig = Rig::new();
    for i in 0..600 {
        rig.events.info(&[Tag::Host], format!("event {i}"));
    }
    let mut seen = Vec::new();
    rig.client()
        .dmesg(false, 10, |events| {
            seen.extend(events.iter().map(|event| event.seq));
            true
        })
        .unwrap();
    assert_eq!(seen, (11..=600).collect::<Vec<_>>());

    let events = Arc::clone(&rig.events);
    let mut followed = 0;
    rig.client()
        .dmesg(true, 599, |piece| {
            followed += piece.len();
            if followed == 1 {
                events.warn(&[Tag::Monitor], "one more");
            }
            followed < 2
        })
        .unwrap();
    assert_eq!(followed, 2);
}

#[test]
fn what_is_not_understood_is_refused_clearly() {
    let rig = Rig::new();
    let line = |message: &str| format!("{{\"version\":1,\"message\":{message}}}\n");
    for (bytes, expected) in [
        ("hello\n".to_owned(), "expected value at line 1"),
        (
            "{\"version\":2,\"message\":{\"do\":\"status\"}}\n".to_owned(),
            "version 2 of the control",
        ),
        (line("{\"do\":\"dance\"}"), "unknown variant `dance`, expected one of `status`"),
        (line("{\"do\":\"promote\",\"component\":\"xenstore\"}"), "missing field `id`"),
        (line("{\"do\":\"promote\",\"component\":\"x\",\"id\":1,\"y\":2}"), "unknown field `y`"),
        (
            line("{\"do\":\"fault\",\"kind\":\"kill\",\"component\":\"x\",\"replica\":\"boss\"}"),
            "allowed: primary, standby or an id",
        ),
        (
            "{\"version\":1,\"attached\":999999999999,\"message\":{\"do\":\"status\"}}\n"
                .to_owned(),
            "999999999999 bytes attached",
        ),
        ("x".repeat(MAX_LINE + 10), "a line of more than"),
    ] {
        let answer = rig.raw(bytes.as_bytes());
        assert!(answer.contains("refused") && answer.contains(expected), "{answer}");
    }
    // A half line is no request, and the server is none the worse.
    assert_eq!(rig.raw(b"{\"version\":1"), "");
    assert!(rig.client().call(&Request::Status, &[]).is_ok());
}

#[test]
fn a_daemon_that_ends_closes_its_connections() {
    let rig = Rig::new();
    let idle = rig.client();
    let mut client = rig.client();
    client.call(&Request::Down, &[]).unwrap();
    client.wait_for_end();
    idle.wait_for_end();
    let error = Client::connect(&rig.path).unwrap_err().to_string();
    assert!(error.starts_with("no rvmm daemon at "), "{error}");
}

#[test]
fn targets_travel_as_text() {
    for (target, json) in [
        (Target::Primary, "\"primary\""),
        (Target::Standby, "\"standby\""),
        (Target::Id(7), "\"7\""),
    ] {
        assert_eq!(serde_json::to_string(&target).unwrap(), json);
        assert_eq!(serde_json::from_str::<Target>(json).unwrap(), target);
    }
}

//! Whatever one client sends, or does not read, it gets an error or a closed
//! connection; nobody else is disturbed.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use chaos::client::{Client, ClientError, Perm, PermAccess, Tx};
use chaos::harness::{Host, HostOptions, wait_for};
use chaos::rng::Rng;
use chaos::soak::{Soak, SoakConfig};
use xenstore::wire::{Errno, Header, MessageType};

const PATIENCE: Duration = Duration::from_secs(10);

fn rvmm() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rvmm"))
}

fn host() -> Host {
    Host::start(rvmm(), &HostOptions::default()).expect("starts")
}

/// Does something hostile while others work, who must not notice.
fn undisturbed(hostile: impl FnOnce(&Host)) {
    let host = host();
    let generation = host.xenstore().expect("a status").generation;
    let config = SoakConfig { clients: 3, watchers: 1, think_us: 200, ..SoakConfig::default() };
    let soak = Soak::start(&host.socket(), config).expect("starts");
    hostile(&host);
    let verdict = soak.finish().expect("is judged");
    assert!(verdict.is_clean(), "{verdict}\n{}", host.log());
    let limit_us = 2_000_000.0;
    assert!(verdict.latency.max_us < limit_us, "{verdict}\n{}", host.log());
    let after = host.wait_complete(PATIENCE).expect("all run");
    assert_eq!(after.generation, generation, "no replica may die of it\n{}", host.log());
}

fn raw(host: &Host) -> UnixStream {
    let stream = UnixStream::connect(host.socket()).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("is set");
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("is set");
    stream
}

fn header(kind: u32, len: u32) -> [u8; 16] {
    Header { kind, req_id: 9, tx_id: 0, len }.encode()
}

/// The error that a request of any bytes is answered with.
fn error(client: &mut Client, kind: u32, payload: &[u8]) -> Result<Vec<u8>, Errno> {
    client.queue_raw(kind, Tx::NONE, &[payload]);
    client.flush().expect("sends");
    match client.reply() {
        Ok(payload) => Ok(payload.to_vec()),
        Err(ClientError::Daemon(errno)) => Err(errno),
        Err(other) => panic!("type {kind} {:?}: {other}", payload.escape_ascii().to_string()),
    }
}

#[test]
fn malformed_requests_get_the_exact_error() {
    let host = host();
    let mut client = Client::connect(host.socket()).expect("connects");
    client.write(Tx::NONE, "/t/a", b"x").expect("writes");
    use MessageType as T;
    let cases: &[(T, &[u8], Errno)] = &[
        (T::Read, b"", Errno::EINVAL),
        (T::Read, b"/t/a", Errno::EINVAL),
        (T::Read, b"/t/a\0x\0", Errno::EINVAL),
        (T::Read, b"\0", Errno::EINVAL),
        (T::Read, b"/t//a\0", Errno::EINVAL),
        (T::Read, b"/t/\0", Errno::EINVAL),
        (T::Read, b"/t/ a\0", Errno::EINVAL),
        (T::Read, b"/t/none\0", Errno::ENOENT),
        (T::Directory, b"", Errno::EINVAL),
        (T::DirectoryPart, b"/t\0", Errno::EINVAL),
        (T::Write, b"", Errno::EINVAL),
        (T::Write, b"/t/b", Errno::EINVAL),
        (T::Mkdir, b"/t/+\0", Errno::EINVAL),
        (T::Rm, b"/\0", Errno::EINVAL),
        (T::Rm, b"/none/at/all\0", Errno::ENOENT),
        (T::SetPerms, b"/t/a\0", Errno::EINVAL),
        (T::SetPerms, b"/t/a\0x1\0", Errno::EINVAL),
        (T::SetPerms, b"/t/a\0n99\0", Errno::ENOENT),
        (T::Watch, b"/t\0", Errno::EINVAL),
        (T::Watch, b"/t/ \0tok\0", Errno::EINVAL),
        (T::Unwatch, b"/t\0tok\0", Errno::ENOENT),
        (T::TransactionEnd, b"T\0", Errno::ENOENT),
        (T::TransactionEnd, b"X\0", Errno::EINVAL),
        (T::Introduce, b"1\0", Errno::EINVAL),
        (T::Introduce, b"x\x001\x001\0", Errno::EINVAL),
        (T::Release, b"99\0", Errno::ENOENT),
        (T::Resume, b"99\0", Errno::ENOENT),
        (T::GetDomainPath, b"", Errno::EINVAL),
        (T::Removed, b"1\0", Errno::ENOSYS),
    ];
    for (kind, payload, wanted) in cases {
        let got = error(&mut client, kind.to_u32(), payload);
        assert_eq!(got, Err(*wanted), "{kind:?} {:?}", payload.escape_ascii().to_string());
    }
    for kind in [27, 28, 1000, u32::MAX] {
        assert_eq!(error(&mut client, kind, b"x\0"), Err(Errno::ENOSYS), "type {kind}");
    }
    // What only daemons send is no request either.
    for kind in [T::WatchEvent, T::Error] {
        assert!(error(&mut client, kind.to_u32(), b"x\0").is_err(), "{kind:?}");
    }
    client.watch("/t", "tok").expect("watches");
    assert_eq!(error(&mut client, T::Watch.to_u32(), b"/t\0tok\0"), Err(Errno::EEXIST));
    let tx = client.start().expect("starts");
    let nested = client.call(T::TransactionStart, tx, &[b"\0"]).map(<[u8]>::to_vec);
    assert_eq!(nested.map_err(|e| e.errno()), Err(Some(Errno::EBUSY)));
    assert_eq!(client.read(Tx::NONE, "/t/a").expect("still works"), b"x");
}

#[test]
fn an_empty_payload_never_hangs() {
    let host = host();
    let mut client = Client::connect(host.socket()).expect("connects");
    client.set_timeout(PATIENCE);
    for kind in MessageType::ALL {
        // Granted or refused, but answered.
        let _ = error(&mut client, kind.to_u32(), b"");
    }
}

#[test]
fn oversized_frames_are_refused() {
    undisturbed(|host| {
        let mut stream = raw(host);
        stream.write_all(&header(2, 4097)).expect("sends");
        stream.write_all(&[b'x'; 4097]).expect("sends");
        stream.write_all(&header(10, 2)).expect("sends");
        stream.write_all(b"0\0").expect("sends");
        let mut answer = vec![0; 16 + 6];
        stream.read_exact(&mut answer).expect("is answered");
        let first = Header::decode(&answer).expect("a header");
        assert_eq!((first.kind, &answer[16..]), (16, &b"E2BIG\0"[..]));
        let mut next = [0; 16];
        stream.read_exact(&mut next).expect("the next request is answered too");
        assert_eq!(Header::decode(&next).expect("a header").kind, 10);

        for len in [u32::MAX, 1 << 31, (1 << 20) + 1] {
            let mut stream = raw(host);
            stream.write_all(&header(2, len)).expect("sends");
            let mut rest = Vec::new();
            let ended = stream.read_to_end(&mut rest);
            let closed = match ended {
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::ConnectionReset,
            };
            assert!(closed, "length {len}: not closed, {} bytes came", rest.len());
        }
    });
}

#[test]
fn half_frames_and_dead_clients_do_not_matter() {
    undisturbed(|host| {
        let mut frame = header(11, 30).to_vec();
        frame.extend(b"/t/half\0");
        let mut kept = Vec::new();
        for len in 1..frame.len() {
            for stay in [false, true] {
                let mut stream = raw(host);
                stream.write_all(&frame[..len]).expect("sends");
                if stay {
                    kept.push(stream);
                }
            }
        }
        // Requests whose client is gone before the answer.
        for _ in 0..200 {
            let mut stream = raw(host);
            let mut requests = Vec::new();
            for _ in 0..20 {
                requests.extend(header(2, 4));
                requests.extend(b"/t\0\0");
            }
            stream.write_all(&requests).expect("sends");
        }
        let mut client = Client::connect(host.socket()).expect("connects");
        assert_eq!(client.read_if_there("/t/half").expect("reads"), None);
    });
}

/// Far more at once than any buffer holds, in pieces that fit no frame.
#[test]
fn a_burst_is_answered_to_the_last() {
    const REQUESTS: u32 = 50_000;
    undisturbed(|host| {
        let mut stream = raw(host);
        let mut writer = stream.try_clone().expect("a second descriptor");
        let sender = std::thread::spawn(move || {
            let mut burst = Vec::new();
            for req_id in 0..REQUESTS {
                burst.extend(Header { kind: 2, req_id, tx_id: 0, len: 4 }.encode());
                burst.extend(b"/t\0\0");
            }
            writer.set_write_timeout(Some(PATIENCE)).expect("is set");
            burst.chunks(9973).for_each(|piece| writer.write_all(piece).expect("sends"));
        });
        for req_id in 0..REQUESTS {
            let mut answer = [0; 16];
            stream.read_exact(&mut answer).expect("is answered");
            let answer = Header::decode(&answer).expect("a header");
            assert_eq!(answer.req_id, req_id);
            let mut payload = vec![0; answer.len as usize];
            stream.read_exact(&mut payload).expect("is whole");
        }
        sender.join().expect("sends all");
    });
}

/// A write behind a read of the same client is handed in when the read is
/// answered, not when the daemon looks around the next time.
#[test]
fn a_request_that_waited_for_another_is_not_left_lying() {
    const PAIRS: usize = 200;
    let host = host();
    let mut client = Client::connect(host.socket()).expect("connects");
    client.set_timeout(PATIENCE);
    client.write(Tx::NONE, "/t", b"0").expect("writes");
    let (read, write): ([&[u8]; 1], [&[u8]; 1]) = ([b"/t\0"], [b"/t\x001"]);
    let mut median = |together: bool| {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..PAIRS {
            let began = Instant::now();
            client.queue(MessageType::Read, Tx::NONE, &read);
            if !together {
                client.flush().expect("sends");
                client.reply().expect("is answered");
            }
            client.queue(MessageType::Write, Tx::NONE, &write);
            client.flush().expect("sends");
            while client.in_flight() > 0 {
                client.reply().expect("is answered");
            }
            times.push(began.elapsed());
        }
        times.sort();
        times[PAIRS / 2]
    };
    let (one_by_one, together) = (median(false), median(true));
    // Left lying, it takes a hundred times as long.
    assert!(together < one_by_one * 10, "{together:?} together, {one_by_one:?} one by one");
}

/// Writes until the daemon takes no more or has enough; whether it did.
fn flood(stream: &mut UnixStream, piece: &[u8], pieces: usize) -> bool {
    (0..pieces).any(|_| stream.write_all(piece).is_err())
}

#[test]
fn a_client_that_never_reads_is_bounded() {
    undisturbed(|host| {
        let mut client = Client::connect(host.socket()).expect("connects");
        client.write(Tx::NONE, "/t/big", &[b'x'; 2000]).expect("writes");
        let mut request = header(2, 7).to_vec();
        request.extend(b"/t/big\0");
        let requests = request.repeat(100);
        // 400 MB of answers are more than anybody may leave lying around.
        let mut stream = raw(host);
        assert!(flood(&mut stream, &requests, 2_000), "the daemon took everything");
    });
}

#[test]
fn a_watcher_that_never_reads_is_bounded() {
    undisturbed(|host| {
        let mut deaf = Client::connect(host.socket()).expect("connects");
        for number in 0..50 {
            let token = format!("{number}-{}", "t".repeat(500));
            deaf.watch("/flood", &token).expect("watches");
        }
        let mut writer = Client::connect(host.socket()).expect("connects");
        writer.set_timeout(PATIENCE);
        for number in 0..4_000 {
            // 100 MB of events in all; the writer must not be stopped by them.
            writer.write(Tx::NONE, &format!("/flood/{}", number % 10), b"x").expect("writes");
        }
    });
}

#[test]
fn random_bytes_do_not_matter() {
    undisturbed(|host| {
        let mut rng = Rng::new(1);
        for _ in 0..300 {
            let mut stream = raw(host);
            let mut bytes = Vec::new();
            for _ in 0..rng.below(40) {
                let kind = u32::try_from(rng.below(30)).expect("small");
                let len = rng.below(64);
                // Mostly frames, so that it gets past the framing; but no change
                // to what the others work with.
                let announced = if rng.percent(95) { len } else { rng.below(1 << 31) };
                bytes.extend(header(kind, u32::try_from(announced).expect("small")));
                bytes.extend((0..len).map(|_| rng.next_u64() as u8));
            }
            // The daemon may have hung up before the end.
            let _ = stream.write_all(&bytes);
        }
    });
}

#[test]
fn a_thousand_connections_come_and_go() {
    undisturbed(|host| {
        for _ in 0..4 {
            let clients: Vec<_> =
                (0..250).map(|_| Client::connect(host.socket()).expect("connects")).collect();
            for mut client in clients {
                client.watch("/t", "tok").expect("watches");
                client.start().expect("starts");
            }
        }
    });
}

#[test]
fn a_guest_stays_within_its_quotas() {
    let host = host();
    let mut control = Client::connect(host.socket()).expect("connects");
    control.introduce(7, 1, 1).expect("introduces");
    control.mkdir(Tx::NONE, "/local/domain/7").expect("creates");
    let owner = Perm { access: PermAccess::None, domid: 7 };
    control.set_perms(Tx::NONE, "/local/domain/7", &[owner]).expect("gives away");
    let mut guest =
        wait_for(
            "the guest's socket",
            PATIENCE,
            || Ok(Client::connect(host.domain_socket(7)).ok()),
        )
        .expect("it opens");

    let errno = |result: Result<(), ClientError>| result.map_err(|error| error.errno());
    let refused = Err(Some(Errno::EACCES));
    assert_eq!(errno(guest.write(Tx::NONE, "/t", b"x")), refused);
    assert_eq!(errno(guest.control(&["check"]).map(|_| ())), refused);
    assert_eq!(errno(guest.introduce(8, 1, 1)), refused);
    let full = Err(Some(Errno::ENOSPC));
    assert_eq!(errno(guest.write(Tx::NONE, "big", &[b'x'; 2100])), full);
    // Several directories: the names in one count as its size, which is limited.
    let mut write = |n| guest.write(Tx::NONE, &format!("n/{}/{n}", n % 20), b"x");
    let nodes = (0..2_000).position(|n| write(n).is_err());
    let nodes = nodes.expect("nodes are limited");
    assert!((970..=980).contains(&nodes), "{nodes} nodes");
    let watches = (0..300).position(|n| guest.watch("n", &n.to_string()).is_err());
    assert_eq!(watches, Some(128));
    let transactions = (0..30).position(|_| guest.start().is_err());
    assert_eq!(transactions, Some(10));
}

#[test]
fn connections_beyond_the_limit_are_turned_away() {
    let options = HostOptions::default().set("xenstore.max_connections", 20);
    let host = Host::start(rvmm(), &options).expect("starts");
    let began = Instant::now();
    let mut clients: Vec<_> = (0..40).filter_map(|_| Client::connect(host.socket()).ok()).collect();
    let served = clients
        .iter_mut()
        .filter_map(|client| {
            client.set_timeout(PATIENCE);
            client.domain_path(0).ok()
        })
        .count();
    assert!((15..=20).contains(&served), "{served} were served");
    assert!(began.elapsed() < PATIENCE, "the others were not told");
    drop(clients);
    let served = wait_for("room for others", PATIENCE, || {
        let asked = Client::connect(host.socket()).and_then(|mut client| client.domain_path(0));
        Ok(asked.ok())
    });
    served.expect("there is room again");
}

#[test]
fn without_descriptors_the_host_waits_and_serves_those_it_has() {
    let host = host();
    let mut client = Client::connect(host.socket()).expect("connects");
    let daemon = host.daemon_pid().expect("it tells");
    let pid = i32::try_from(daemon).ok().and_then(rustix::process::Pid::from_raw);
    let open = std::fs::read_dir(format!("/proc/{daemon}/fd")).expect("its own").count();
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit { current: Some(open as u64 + 4), ..before };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, few).expect("is lowered");
    let waiting: Vec<_> = (0..16).map(|_| raw(&host)).collect();
    // Meanwhile many turns of the loop would be taken in vain.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(25));
        client.directory(Tx::NONE, "/").expect("who is connected is served");
    }
    let told = host.log().matches("accept failed").count();
    assert!((1..=3).contains(&told), "told {told} times\n{}", host.log());
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, before).expect("is raised");
    let last = waiting.into_iter().next_back().expect("sixteen wait");
    let mut request = header(MessageType::Directory.to_u32(), 2).to_vec();
    request.extend_from_slice(b"/\0");
    (&last).write_all(&request).expect("is sent");
    (&last).read_exact(&mut [0; 16]).expect("those who waited are let in and answered");
}

/// The least that a replica may have.
const SMALL_MEMORY_MIB: u64 = 64;

/// What a client of the control domain does again and again; `n` counts.
type Greed = fn(client: &mut Client, n: u32) -> chaos::client::Result<()>;

/// Undoes all of it.
type Remedy = fn(client: &mut Client);

/// Every way to fill a store, and how it is emptied again.
const GREEDS: [(&str, Greed, Remedy); 5] = [
    ("large nodes", |client, n| client.write(Tx::NONE, &format!("/greed/{n}"), &[7; 3900]), rm_all),
    ("small nodes", |client, n| client.mkdir(Tx::NONE, &format!("/greed/{}/{n}", n % 100)), rm_all),
    (
        "deep nodes",
        |client, n| client.mkdir(Tx::NONE, &format!("/greed/{n}{}", "/d".repeat(90))),
        rm_all,
    ),
    (
        "watches",
        |client, n| {
            while client.take_event().is_some() {}
            client.watch(&format!("/greed/{n}"), "token")
        },
        |client| client.reset_watches().expect("forgets"),
    ),
    ("transactions", in_transactions, rm_all),
];

fn rm_all(client: &mut Client) {
    client.rm(Tx::NONE, "/greed").expect("what makes room is never refused");
}

/// Large transactions, of which each but the first writes what the last one wrote.
fn in_transactions(client: &mut Client, n: u32) -> chaos::client::Result<()> {
    let tx = client.start()?;
    let written = (0..50).try_for_each(|node| {
        client.write(tx, &format!("/greed/{}/{node}", n / 2), &[n as u8; 1000])
    });
    match written {
        Ok(()) => client.commit(tx).map(|committed| assert!(committed, "nobody else is there")),
        Err(error) => client.abort(tx).and(Err(error)),
    }
}

/// Waits until all replicas say that they hold the same.
fn agree(host: &Host) {
    host.wait_until("equal digests", PATIENCE, |status| {
        let mut digests = status.replicas.iter().map(|replica| replica.digest.as_ref());
        let first = digests.next().flatten();
        first.is_some() && digests.all(|digest| digest == first)
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
}

/// All replicas hold the same, so a store that fills the memory of one would fill all.
/// It has an end before that, for everybody: then it can still be read and emptied, and
/// there is room to fail over, and to teach a new replica.
fn no_store_is_too_large(durability: &str) {
    let options = HostOptions::default()
        .set("limits.memory_mib", SMALL_MEMORY_MIB)
        .set("xenstore.durability", durability);
    let host = Host::start(rvmm(), &options).expect("starts");
    let mut client = Client::connect(host.socket()).expect("connects");
    client.set_timeout(3 * PATIENCE);
    for (what, greed, make_room) in GREEDS {
        let before = host.xenstore().expect("a status");
        let full = (0..).find_map(|n| greed(&mut client, n).err().map(|error| (n, error)));
        let (count, error) = full.expect("there is an end");
        assert_eq!(error.errno(), Some(Errno::ENOSPC), "{what} {count}: {error}\n{}", host.log());
        assert!(count > 4, "{what}: {count}");
        agree(&host);
        let after = host.xenstore().expect("a status");
        let ids = |status: &chaos::harness::ComponentStatus| -> Vec<u64> {
            status.replicas.iter().map(|replica| replica.id).collect()
        };
        assert_eq!(ids(&after), ids(&before), "{what}: a replica has died\n{}", host.log());

        host.fault("kill", "primary").expect("is injected");
        assert!(client.read(Tx::NONE, "/tool/xenstored").is_ok(), "{what}: it can be read");
        assert_eq!(
            greed(&mut client, count).map_err(|error| error.errno()),
            Err(Some(Errno::ENOSPC))
        );
        let whole = host.wait_until("a new replica", 3 * PATIENCE, |status| {
            status.is_complete() && ids(status) != ids(&before)
        });
        whole.unwrap_or_else(|error| panic!("{what}: {error}\n{}", host.log()));
        agree(&host);

        make_room(&mut client);
        for n in 0..5 {
            greed(&mut client, n).unwrap_or_else(|error| panic!("{what} {n}: {error}"));
        }
        make_room(&mut client);
    }
    let list = client.control(&["memreport"]).expect("reports");
    assert!(String::from_utf8_lossy(&list).contains(" of 3276 KiB\n"));
}

#[test]
fn a_full_store_is_refused_more_and_nobody_dies() {
    no_store_is_too_large("volatile");
}

#[test]
fn a_full_store_fits_into_a_small_memory_beside_a_log_on_disk() {
    no_store_is_too_large("process");
}

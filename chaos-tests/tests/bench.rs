//! The comparison runs on two daemons, the profile on both backends, and either
//! yields a figure in every cell.

use chaos::bench::{self, BenchConfig, Row, Target};
use chaos::peers::{Kit, KitPart, Peer, PeerKind};
use chaos::skip::skip;
use hypervisor::kvm::Availability;

#[test]
fn two_daemons_are_compared() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kinds = [PeerKind::C, PeerKind::Ocaml];
    let peers = Kit::fetch(KitPart::Daemons).and_then(|kit| {
        kinds
            .iter()
            .map(|kind| Peer::start(&kit, *kind, &dir.path().join(kind.to_string())))
            .collect::<Result<Vec<_>, _>>()
    });
    let peers = match peers {
        Ok(peers) => peers,
        Err(error) => return skip("two_daemons_are_compared", &error),
    };
    let targets: Vec<_> = std::iter::zip(kinds, &peers)
        .map(|(kind, peer)| Target { name: kind.to_string(), socket: peer.socket() })
        .collect();
    let config =
        BenchConfig { populations: vec![200], rounds: 2, slice_ms: 20, ..BenchConfig::default() };
    let mut steps = 0;
    let report = bench::run(&targets, &config, &mut |_| steps += 1).expect("is measured");
    assert_eq!(steps, 2 + 2 * 2 * Row::ALL.len());
    assert_eq!(report.populations[0].rows.len(), 1 + Row::ALL.len());
    for row in &report.populations[0].rows {
        for measured in &row.measured {
            let figures = [measured.median, measured.min, measured.max, measured.ratio];
            assert!(figures.iter().all(|f| f.is_finite() && *f > 0.0), "{row:?}");
        }
    }
    let json = serde_json::to_string(&report).expect("is serialized");
    let again: bench::BenchReport = serde_json::from_str(&json).expect("is read back");
    assert_eq!(again.to_string(), report.to_string());
    println!("{report}");
}

#[test]
fn the_executors_are_profiled() {
    let kvm = Availability::probe();
    if !kvm.is_usable() {
        return skip("the_executors_are_profiled", &kvm);
    }
    let profile = bench::profile(unikernel_image::IMAGE, 200, 1).expect("is measured");
    println!("{kvm}\n{profile}");
    assert_eq!(profile.rows.len(), 6);
    let boots = profile.boots;
    let mut times = vec![profile.entry, profile.state, boots.made, boots.ready, boots.whole];
    for row in &profile.rows {
        times.extend([row.process.run, row.process.task, row.kvm.run, row.kvm.task]);
    }
    for times in times {
        assert!(times.median_us > 0.0 && times.p99_us >= times.median_us, "{times:?}");
    }
}

use std::path::PathBuf;

use quickcheck::quickcheck;

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    sources: Sources,
}

impl Fixture {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rvmm.toml");
        std::fs::write(&file, text).unwrap();
        Self { dir, sources: Sources { file: Some(file), ..Sources::default() } }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.env.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, key: &str, text: &str) -> Self {
        let flag = Override { flag: format!("--{key}"), key: key.into(), text: text.into() };
        self.sources.flags.push(flag);
        self
    }

    fn load(&self) -> Loaded {
        Loaded::load(&self.sources).unwrap()
    }

    fn refusal(&self) -> String {
        let text = Loaded::load(&self.sources).unwrap_err().to_string();
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn origin_of(loaded: &Loaded, name: &str) -> String {
    loaded.origin(Key::find(name).unwrap()).to_string()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let loaded = Fixture::new("").load();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(origin_of(&loaded, "log"), "default");
}

#[test]
fn later_layers_win_and_say_who_they_are() {
    let text = "\n[xenstore]\nreplicas = 5\nfront_spin_us = 1\nreplica_spin_us = 1\n";
    let loaded = Fixture::new(text)
        .env("RVMM_XENSTORE_FRONT_SPIN_US", "2")
        .env("RVMM_XENSTORE_REPLICA_SPIN_US", "2")
        .flag("xenstore.replica_spin_us", "3")
        .load();
    let xenstore = &loaded.config.xenstore;
    assert_eq!(
        (xenstore.replicas, xenstore.front_spin_us, xenstore.replica_spin_us),
        (5, 1 + 1, 3)
    );
    assert!(origin_of(&loaded, "xenstore.replicas").ends_with("rvmm.toml:3"));
    assert_eq!(origin_of(&loaded, "xenstore.front_spin_us"), "env RVMM_XENSTORE_FRONT_SPIN_US");
    assert_eq!(origin_of(&loaded, "xenstore.replica_spin_us"), "flag --xenstore.replica_spin_us");
}

#[test]
fn every_problem_is_listed_with_its_line_and_what_is_allowed() {
    let text = "\
log = \"loud\"
[xenstore]
replicas = 9
ack = \"quorum\"
speling = 1
intake_kib = 1000
rebuild = \"yes\"
affinity = []
[xenstore.quotas]
nodes = -1
[nosuch]
key = 1
";
    assert_eq!(
        Fixture::new(text).refusal(),
        "\
rvmm.toml:1: log = \"loud\" is refused; allowed: \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\"
rvmm.toml:3: xenstore.replicas = 9 is refused; allowed: a whole number from 1 to 7
rvmm.toml:5: unknown key xenstore.speling; allowed in [xenstore]: replicas, ack, durability, \
rebuild, backend, lockstep, affinity, front_spin_us, commit_spin_us, replica_spin_us, intake_kib, output_kib, \
guest_sockets, max_connections, client_backlog_kib, rings, socket_dir, trace_file, quotas
rvmm.toml:6: xenstore.intake_kib = 1000 is refused; allowed: a power of two from 64 to 65536
rvmm.toml:7: xenstore.rebuild = \"yes\" is refused; allowed: true or false
rvmm.toml:8: xenstore.affinity cannot be of type array; allowed: \"auto\", \"off\" or the number of a core
rvmm.toml:10: xenstore.quotas.nodes = \"-1\" is refused; allowed: a whole number from 0 to 2147483647
rvmm.toml:11: unknown key nosuch; allowed here: run_dir, state_dir, log, xenstore, monitor, limits"
    );
}

#[test]
fn flags_and_variables_are_refused_like_the_file() {
    let refusal = Fixture::new("")
        .env("RVMM_MONITOR_DETECT_MS", "5")
        .flag("xenstore.ack", "most")
        .flag("no.such", "1")
        .refusal();
    assert_eq!(
        refusal,
        "\
env RVMM_MONITOR_DETECT_MS: monitor.detect_ms = 5 is refused; allowed: a whole number from 10 to 60000
flag --xenstore.ack: xenstore.ack = \"most\" is refused; allowed: \"all-live\" or \"quorum\"
flag --no.such: unknown key no.such; allowed here: run_dir, state_dir, log, xenstore, monitor, limits"
    );
}

#[test]
fn broken_toml_names_its_line() {
    let refusal = Fixture::new("log = \"info\"\n[xenstore\n").refusal();
    assert!(refusal.starts_with("rvmm.toml:2: not TOML: "), "{refusal}");
    let refusal = Fixture::new("log = \"info\"\nlog = \"warn\"\n").refusal();
    assert!(refusal.starts_with("rvmm.toml:2: not TOML: duplicate key"), "{refusal}");
}

#[test]
fn a_missing_file_is_named() {
    let sources = Sources { file: Some("/nonexistent/rvmm.toml".into()), ..Sources::default() };
    let error = Loaded::load(&sources).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/rvmm.toml: "), "{error}");
}

#[test]
fn durability_is_refused_without_what_it_needs() {
    let expected = if cfg!(feature = "rocksdb") {
        "needs state_dir, which is not set"
    } else {
        "is not possible: this rvmm was built without RocksDB (feature \"rocksdb\"); allowed: \
         \"volatile\""
    };
    for kind in ["process", "power"] {
        let refusal = Fixture::new(&format!("[xenstore]\ndurability = \"{kind}\"\n")).refusal();
        assert_eq!(refusal, format!("rvmm.toml:2: xenstore.durability = \"{kind}\" {expected}"));
    }
}

#[test]
fn values_are_checked_against_each_other() {
    let refusal = Fixture::new("[monitor]\nbeat_ms = 40\n").refusal();
    assert_eq!(
        refusal,
        "rvmm.toml:2: monitor.beat_ms = 40 leaves no room for a late beat: \
         at most half of monitor.detect_ms (50) is allowed"
    );
    let refusal = Fixture::new("[limits]\nmemory_mib = 64\nstore_mib = 4\n").refusal();
    assert_eq!(
        refusal,
        "rvmm.toml:3: limits.store_mib = 4 is more than there is room for: \
         at most 3 is allowed where limits.memory_mib is 64"
    );
    let refusal = Fixture::new("").flag("xenstore.affinity", "4000").refusal();
    assert!(refusal.ends_with("xenstore.affinity = 4000 this machine has no such core"));
    let refusal = Fixture::new("").flag("run_dir", &format!("/{}", "x".repeat(76))).refusal();
    assert!(refusal.contains("is too long"), "{refusal}");
}

#[test]
fn what_is_doubtful_is_a_warning() {
    let loaded = Fixture::new("[xenstore]\nreplicas = 2\nack = \"quorum\"\n")
        .env("RVMM_XENSTORE_REPLICA", "1")
        .env("RVMM_OF_SOMEBODY_ELSE", "1")
        .load();
    let warnings: Vec<_> = loaded.warnings.iter().map(|warning| &warning.what[..14]).collect();
    assert_eq!(warnings, ["not a key's va", "xenstore.ack ="]);
}

#[test]
fn an_empty_variable_means_no_file() {
    let sources = Sources { env: vec![(CONFIG_ENV.into(), "".into())], ..Sources::default() };
    assert_eq!(Loaded::load(&sources).unwrap().file, None);
}

#[test]
fn each_key_is_whole() {
    let config = Config::default();
    for (i, key) in KEYS.iter().enumerate() {
        let value = key.get(&config);
        assert!(value == Value::Unset || key.allowed.admits(&value), "{}", key.name);
        assert!(KEYS[..i].iter().all(|other| other.env() != key.env()), "{}", key.name);
    }
    for (name, value) in config.xenstore.quotas.by_name() {
        let key = Key::find(&format!("xenstore.quotas.{name}")).unwrap();
        assert_eq!(key.get(&config), Value::Whole(value.into()));
    }
}

#[test]
fn the_shipped_example_is_the_defaults_and_names_every_key() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs/rvmm.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let sources = Sources { file: Some(path), ..Sources::default() };
    let loaded = Loaded::load(&sources).unwrap();
    let expected = Config { run_dir: loaded.config.run_dir.clone(), ..Config::default() };
    assert_eq!(loaded.config, expected);
    for key in KEYS {
        let name = key.name.rsplit('.').next().unwrap();
        assert!(text.contains(name), "configs/rvmm.toml does not mention {}", key.name);
    }
}

#[test]
fn the_other_shipped_files_are_accepted() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let is_durable = path.ends_with("durable.toml");
            let loaded = Loaded::load(&Sources { file: Some(path), ..Sources::default() });
            if cfg!(feature = "rocksdb") || !is_durable {
                assert_eq!(loaded.unwrap().warnings, []);
            }
            seen += 1;
        }
    }
    assert!(seen >= 2);
}

quickcheck! {
    fn no_file_makes_it_panic(text: String) -> bool {
        let _ = Loaded::load(&Fixture::new(&text).sources);
        true
    }

    fn what_is_shown_can_be_read_again(replicas: u8, dir: String, spin: u32) -> bool {
        let mut config = Config::default();
        config.xenstore.replicas = replicas % 7 + 1;
        config.xenstore.front_spin_us = spin % 10_000;
        config.run_dir = format!("/{}", dir.replace('\0', "").chars().take(20).collect::<String>()).into();
        let shown: String = KEYS
            .iter()
            .filter(|key| key.get(&config) != Value::Unset)
            .map(|key| format!("{} = {}\n", key.name, key.get(&config)))
            .collect();
        Fixture::new(&shown).load().config == config
    }
}

#[test]
fn default_quotas_are_those_of_a_new_store() {
    let quotas = Config::default().xenstore.quotas;
    for quota in xenstore::Quota::ALL {
        // Later versions of Xen have this name for it.
        let name = match quota {
            xenstore::Quota::Permissions => "node-permissions",
            quota => quota.name(),
        };
        let by_name = quotas.by_name();
        let ours = by_name.iter().find(|(ours, _)| *ours == name);
        assert_eq!(ours, Some(&(name, quota.default_value())));
    }
    assert_eq!(quotas.by_name().len(), xenstore::Quota::ALL.len());
}

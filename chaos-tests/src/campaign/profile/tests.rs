use super::*;

fn refusal(text: &str) -> String {
    Profile::parse("my.toml", "my.toml", text).expect_err("is refused").to_string()
}

/// A profile with one fault, and what stands before it.
fn with_fault(before: &str, fault: &str) -> String {
    format!("description = \"d\"\n{before}\n[[fault]]\n{fault}\n")
}

#[test]
fn the_built_in_ones_are_accepted_and_say_what_they_are() {
    for (name, _) in BUILT_IN {
        let profile = Profile::load(name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(profile.name, *name);
        assert!(profile.file.description.len() > 20, "{name}");
        assert!(!profile.faults.is_empty(), "{name}");
    }
}

const TEMPLATE: &str = include_str!("../../../../configs/chaos/template.toml");

/// What is set there is the default, and what is only mentioned may be set.
#[test]
fn the_template_has_every_key_with_its_default() {
    let template = Profile::parse("template.toml", "template.toml", TEMPLATE);
    let template = template.unwrap_or_else(|error| panic!("{error}")).file;
    let bare = "description = \"d\"\n[[fault]]\nclass = \"crash\"\n";
    let bare = Profile::parse("bare.toml", "bare.toml", bare).expect("is accepted").file;
    // Places in the file are not what is compared.
    let show = |file: &ProfileFile| {
        let target = &file.target;
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            target.replicas.get_ref(),
            target.ack,
            target.backend,
            target.durability.get_ref(),
            target.nodes,
            file.workload,
            file.schedule,
            file.steady,
            file.bounds
        )
    };
    assert_eq!(show(&template), show(&bare));
    let optional = ["# run_dir = ", "# disk_mib = ", "# standbys = ", "# worse_than_promised = "];
    let all = optional.iter().fold(TEMPLATE.to_owned(), |text, key| {
        assert!(text.contains(key), "{key}");
        text.replace(key, &key[2..])
    });
    let all = all.replace("durability = \"volatile\"", "durability = \"process\"");
    Profile::parse("all.toml", "all.toml", &all).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn each_class_and_way_is_in_some_built_in_profile() {
    let profiles: Vec<_> =
        BUILT_IN.iter().map(|(name, _)| Profile::load(name).expect("is built in")).collect();
    for info in fault::CLASSES {
        let used = |way: Option<&str>| {
            profiles
                .iter()
                .flat_map(|profile| &profile.faults)
                .any(|(_, choice)| choice.class.class == info.class && choice.way == way)
        };
        assert!(
            info.ways.is_empty() || info.ways.iter().all(|(way, _)| used(Some(way))),
            "{info:?}"
        );
        assert!(!info.ways.is_empty() || used(None), "{info:?}");
    }
}

#[test]
fn values_are_what_the_file_says() {
    let text = with_fault(
        "[target]\nreplicas = 5\n[schedule]\npause = \"1s..3s\"\nduration = \"1m 30s\"",
        "class = \"hang\"\ntarget = \"standby\"\nfor = \"20ms\"\nweight = 7",
    );
    let profile = Profile::parse("dir/my.toml", "dir/my.toml", &text).expect("is accepted");
    assert_eq!(profile.name, "my");
    assert_eq!(profile.file.target.replicas.get_ref().0, 5);
    assert_eq!(profile.file.schedule.duration.0, Duration::from_secs(90));
    assert_eq!(profile.file.schedule.pause.max, Duration::from_secs(3));
    let (weight, choice) = &profile.faults[0];
    assert_eq!((*weight, choice.class.class.name()), (7, "hang"));
    assert_eq!(choice.aim.map(fault::Aim::name), Some("standby"));
}

#[test]
fn what_is_no_toml_or_no_key_is_refused_with_its_place() {
    assert_eq!(
        refusal("description = \"d\"\nfault = [\n"),
        "my.toml:2:10: unclosed array, expected `]`; in: fault = ["
    );
    let unknown = refusal(&with_fault("[schedule]\npauze = \"1s\"", "class = \"crash\""));
    assert!(
        unknown.starts_with("my.toml:3:1: unknown field `pauze`, expected one of "),
        "{unknown}"
    );
    assert!(unknown.contains("`pause`"), "{unknown}");
    assert!(unknown.ends_with("; in: pauze = \"1s\""), "{unknown}");
    let missing = refusal("[[fault]]\nclass = \"crash\"\n");
    assert!(missing.contains("missing field `description`"), "{missing}");
}

#[test]
fn bad_values_are_refused_with_what_is_allowed() {
    for (before, fault, expected) in [
        (
            "[target]\nreplicas = 9",
            "class = \"crash\"",
            "my.toml:3:12: 9 is refused; allowed: a whole number from 1 to 7; in: replicas = 9",
        ),
        (
            "[target]\nreplicas = \"3\"",
            "class = \"crash\"",
            "my.toml:3:12: invalid type: string \"3\", expected a whole number from 1 to 7; in: \
             replicas = \"3\"",
        ),
        (
            "[schedule]\npause = \"3s..1s\"",
            "class = \"crash\"",
            "my.toml:3:9: \"3s..1s\" is no length of time; allowed: as \"250ms\", or \
             \"100ms..2s\" to draw one in between; in: pause = \"3s..1s\"",
        ),
        (
            "[target]\nack = \"some\"",
            "class = \"crash\"",
            "my.toml:3:7: unknown variant `some`, expected `all-live` or `quorum`; in: ack = \
             \"some\"",
        ),
        (
            "",
            "class = \"crash\"\nfor = \"1s\"",
            "my.toml:5:7: crash takes no for; in: for = \"1s\"",
        ),
        (
            "",
            "class = \"slow\"\npercent = 100",
            "my.toml:5:11: percent is refused for slow; allowed: 1 to 99; in: percent = 100",
        ),
        (
            "",
            "class = \"hang\"\ntarget = \"boss\"",
            "my.toml:5:10: target = \"boss\" is refused for hang; allowed: primary, standby, any, \
             all; in: target = \"boss\"",
        ),
        (
            "",
            "class = \"scale\"\nhow = \"gently\"",
            "my.toml:5:7: how = \"gently\" is refused for scale; allowed: plain, kill; in: how = \
             \"gently\"",
        ),
    ] {
        assert_eq!(refusal(&with_fault(before, fault)), expected);
    }
}

#[test]
fn a_fault_that_there_is_not_is_refused_with_those_that_there_are() {
    let crush = refusal(&with_fault("", "class = \"crush\""));
    assert!(
        crush.starts_with("my.toml:4:9: no fault is called \"crush\"; allowed: crash, hang, "),
        "{crush}"
    );
    let simulated = refusal(&with_fault("", "class = \"clock-jump\""));
    assert!(
        simulated.starts_with("my.toml:4:9: clock-jump is for the simulator; for a running host: "),
        "{simulated}"
    );
}

#[test]
fn all_contradictions_are_listed_in_order() {
    let text = "\
description = \"d\"
[target]
durability = \"volatile\"
disk_mib = 64
[schedule]
standbys = 0
[[fault]]
class = \"kill-all\"
[[fault]]
class = \"disk-full\"
[[fault]]
class = \"crash\"
how = \"softly\"
";
    let refusal = refusal(text);
    let places: Vec<&str> = refusal.lines().map(|line| &line[..11]).collect();
    assert_eq!(places, ["my.toml:4:1", "my.toml:6:1", "my.toml:8:9", "my.toml:13:"]);
    assert!(refusal.contains("kill-all needs target.durability = \"process\" or \"power\""));
    assert!(refusal.contains("without a standby"), "{refusal}");
    assert!(refusal.contains("crash takes no how"), "{refusal}");
}

#[test]
fn what_would_lose_the_state_is_refused() {
    for (before, expected) in [
        ("[target]\nreplicas = 1", "a single replica with durability = \"volatile\""),
        ("[target]\nack = \"quorum\"\ndurability = \"process\"", "needs ack = \"all-live\""),
        ("[target]\nrun_dir = \"here\"", "must be an absolute path"),
        ("[schedule]\nstandbys = 4", "of 3 replicas at most 2 are standbys"),
    ] {
        let refusal = refusal(&with_fault(before, "class = \"crash\""));
        assert!(refusal.contains(expected), "{refusal}");
    }
    let none = refusal("description = \"d\"\nfault = []\n");
    assert!(none.starts_with("my.toml:2:9: no fault"), "{none}");
}

#[test]
fn a_profile_that_there_is_not_is_named_beside_those_that_there_are() {
    let error = Profile::load("no/such.toml").expect_err("is not there").to_string();
    assert!(error.starts_with("profile no/such.toml: No such file"), "{error}");
    assert!(error.contains("one of smoke, ci, "), "{error}");
}

quickcheck::quickcheck! {
    fn no_text_makes_it_panic(text: String, begin: bool) -> bool {
        let text = if begin { format!("description = \"d\"\n{text}") } else { text };
        let _ = Profile::parse("f", "f", &text);
        true
    }
}

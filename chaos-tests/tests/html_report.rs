//! The page of a report, opened in a real browser: it shows what the run did,
//! and the browser has nothing to complain about.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use chaos::report::record::*;
use chaos::report::{HTML_NAME, JUNIT_NAME, SUMMARY_NAME, read_summary, render};
use chaos::rng::Rng;
use chaos::skip::skip;

/// The browser, under any of its names.
fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|file| file.is_file())
}

/// What the browser made of a page.
struct Opened {
    /// The document after its scripts ran.
    dom: String,
    /// What was written to the console: errors of scripts, markup and loading,
    /// and whatever else the page had to say.
    console: Vec<String>,
}

impl Opened {
    fn count(&self, part: &str) -> usize {
        self.dom.matches(part).count()
    }

    /// Panics unless the page came to its end without a word.
    fn assert_clean(&self) {
        assert!(self.console.is_empty(), "{:#?}", self.console);
        assert!(self.dom.contains("data-ready=\"true\""), "the script did not come to its end");
    }
}

fn open(browser: &Path, page: &Path, scheme: &str) -> Opened {
    let profile = tempfile::tempdir().expect("a directory");
    let run = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .args(["--disable-extensions", "--window-size=1280,2000", "--virtual-time-budget=10000"])
        .args(["--enable-logging=stderr", "--v=0", "--timeout=60000", "--dump-dom"])
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{}: {said}", run.status);
    Opened {
        dom: String::from_utf8_lossy(&run.stdout).into_owned(),
        console: said.lines().filter(|l| l.contains("CONSOLE")).map(str::to_owned).collect(),
    }
}

const SECOND: Micros = 1_000_000;

/// The history of a campaign of many minutes, as it could have been.
struct Campaign {
    rng: Rng,
    records: Vec<Record>,
    primary: u64,
    standbys: Vec<u64>,
    next_replica: u64,
    generation: u64,
    faults: BTreeMap<FaultClass, u64>,
}

impl Campaign {
    fn role(&mut self, at_us: Micros, replica: u64, role: Role, cause: Option<&str>) {
        self.records.push(Record::Role(RoleChange {
            at_us,
            replica: ReplicaId(replica),
            role,
            generation: self.generation,
            cause: cause.map(str::to_owned),
        }));
    }

    fn up_to(&mut self, most: u64) -> u64 {
        self.rng.next_u64() % most
    }

    /// A new replica, until it can take over.
    fn rebuild(&mut self, at_us: Micros) {
        let replica = self.next_replica;
        self.next_replica += 1;
        let taught = at_us + 30_000 + self.up_to(400_000);
        self.role(at_us, replica, Role::Started, None);
        self.role(at_us + 12_000, replica, Role::Learner, None);
        self.role(taught, replica, Role::Standby, None);
        self.standbys.push(replica);
    }

    fn inject(&mut self, at_us: Micros, class: FaultClass, component: Component, n: u64) {
        *self.faults.entry(class).or_default() += 1;
        let fault = FaultId(n);
        let parameters = BTreeMap::from([("step".to_owned(), format!("{}", n % 13))]);
        let target = Some(format!("replica {}", self.primary));
        let injected = FaultInjected { at_us, fault, class, component, target, parameters };
        self.records.push(Record::FaultInjected(injected));
    }

    fn fail_over(&mut self, at_us: Micros, class: FaultClass, n: u64) {
        let detect_us = if class == FaultClass::Hang { 52_000 } else { 120 } + self.up_to(900);
        let fence_us = 60 + self.up_to(300);
        let promote_us = 500 + self.up_to(1500);
        let replay_us = 300 + self.up_to(2000) * (1 + self.up_to(4));
        let total_us = detect_us + fence_us + promote_us + replay_us;
        let (old, new) = (self.primary, self.standbys.remove(0));
        let cause = if class == FaultClass::Hang { "no heartbeat" } else { "killed by signal 9" };
        self.role(at_us + detect_us + fence_us, old, Role::Fenced, Some(cause));
        self.generation += 1;
        self.role(at_us + detect_us + fence_us, new, Role::Candidate, None);
        let elected = at_us + detect_us + fence_us + promote_us;
        self.role(elected, new, Role::Primary, None);
        self.role(elected + 40_000, old, Role::Gone, Some(cause));
        self.records.push(Record::Failover(Failover {
            at_us,
            generation: self.generation,
            cause: cause.to_owned(),
            from: Some(ReplicaId(old)),
            to: Some(ReplicaId(new)),
            fault: Some(FaultId(n)),
            detect_us,
            fence_us,
            promote_us,
            replay_us,
            total_us,
        }));
        for client in 0..3 {
            let duration_us = total_us + self.up_to(400);
            let client = Some(ClientId(client));
            self.records.push(Record::Pause(Pause { at_us: at_us + 7, duration_us, client }));
        }
        self.primary = new;
        self.rebuild(elected + 41_000);
    }

    fn latency(&mut self, at_us: Micros, disturbed: bool) {
        let p50_us = 21 + self.up_to(9);
        let p99_us = p50_us * 3 + self.up_to(60);
        let max_us = if disturbed { 3000 + self.up_to(55_000) } else { p99_us + self.up_to(900) };
        let count = 40_000 + self.up_to(3000);
        let interval_us = SECOND;
        let sample = LatencySample { at_us, interval_us, count, p50_us, p99_us, max_us };
        self.records.push(Record::Latency(sample));
    }
}

/// A history of so many seconds with so many faults a second.
fn history(seconds: u64, faults_a_second: u64, failing: bool) -> Vec<Record> {
    let mut run = Campaign {
        rng: Rng::new(seconds),
        records: Vec::new(),
        primary: 1,
        standbys: vec![2, 3],
        next_replica: 4,
        generation: 1,
        faults: BTreeMap::new(),
    };
    let reproduce = "rvmm chaos run ci --seed 18446744073709551615".to_owned();
    run.records.push(Record::RunBegin(RunBegin {
        format: FORMAT,
        profile: "ci".to_owned(),
        seed: u64::MAX,
        version: "0.1.0".to_owned(),
        target: "a host of its own, 3 replicas, all-live".to_owned(),
        started_unix_us: Some(1_700_000_000_000_000),
        reproduce: Some(reproduce.clone()),
        config: BTreeMap::from([
            ("clients".to_owned(), "8".to_owned()),
            ("durability".to_owned(), "process </script><b>".to_owned()),
        ]),
    }));
    run.role(0, 1, Role::Primary, None);
    run.role(0, 2, Role::Standby, None);
    run.role(0, 3, Role::Standby, None);
    let mut n = 0;
    for second in 0..seconds {
        let start = second * SECOND;
        let mut disturbed = false;
        for nth in 0..faults_a_second {
            n += 1;
            let at_us = start + nth * (SECOND / faults_a_second) + run.up_to(2000);
            let kind = run.up_to(100);
            let (class, component, outcome) = match kind {
                0..10 => (FaultClass::Crash, Component::Primary, Outcome::Failover),
                10..14 => (FaultClass::Hang, Component::Primary, Outcome::Failover),
                14..20 => (FaultClass::Crash, Component::Standby, Outcome::Rebuilt),
                20..45 => (FaultClass::LostDoorbell, Component::Ring, Outcome::Masked),
                45..70 => (FaultClass::DelayedMessage, Component::Ring, Outcome::Masked),
                70..80 => (FaultClass::StateBitFlip, Component::Standby, Outcome::Rebuilt),
                80..84 => (FaultClass::Poison, Component::Primary, Outcome::AnsweredEio),
                84..92 => (FaultClass::CpuStarvation, Component::Host, Outcome::Masked),
                92..96 => (FaultClass::KillInRebuild, Component::Learner, Outcome::Skipped),
                _ => (FaultClass::VanishingClient, Component::Client, Outcome::Masked),
            };
            run.inject(at_us, class, component, n);
            let mut outcome = outcome;
            let mut note = None;
            if failing && n == 40 {
                (outcome, note) =
                    (Outcome::Failed, Some("client 3 lost an acknowledged write".to_owned()));
            }
            if outcome == Outcome::Failover {
                run.fail_over(at_us, class, n);
                disturbed = true;
            }
            if class == FaultClass::CpuStarvation {
                let healed = FaultHealed { at_us: at_us + 300_000, fault: FaultId(n) };
                run.records.push(Record::FaultHealed(healed));
            }
            run.records.push(Record::FaultJudged(FaultJudged {
                at_us: at_us + 5000,
                fault: FaultId(n),
                class,
                component,
                outcome,
                note,
                how: None,
                said: None,
                seed: None,
            }));
        }
        run.latency(start, disturbed);
    }
    let at_us = seconds * SECOND;
    let checkers =
        [("linearizability", 1), ("exactly-once", 1), ("watch-order", 2), ("one-primary", 3)];
    for (checker, share) in checkers {
        let found = failing && share == 1;
        run.records.push(Record::Checker(CheckerVerdict {
            at_us,
            checker: checker.to_owned(),
            passed: !found,
            judged: true,
            checked: seconds * 40_000 / share,
            detail: found.then(|| "register 7: read 12 after 13 was acknowledged".to_owned()),
            seed: None,
            reproduce: found.then(|| format!("{reproduce} --trace")),
        }));
    }
    for phase in [SteadyPhase::Before, SteadyPhase::After] {
        run.records.push(Record::Steady(SteadyState {
            at_us: if phase == SteadyPhase::Before { 0 } else { at_us },
            phase,
            condition: "fully redundant".to_owned(),
            held: true,
            observed: "3 of 3 replicas".to_owned(),
        }));
    }
    run.records.push(Record::Bound(Bound {
        at_us,
        bound: "max-pause".to_owned(),
        unit: "us".to_owned(),
        limit: 100_000,
        observed: 61_000,
        held: true,
    }));
    run.records.push(Record::Counts(Counts {
        answered: seconds * 41_000,
        lost: u64::from(failing),
        ..Counts::default()
    }));
    run.records.push(Record::RunEnd(RunEnd {
        at_us,
        outcome: RunOutcome::Passed,
        reason: None,
        seeds: 0,
        simulated_us: 0,
        operations: seconds * 41_000,
        faults: run.faults,
        reproduce: Some(reproduce),
    }));
    run.records
}

/// The page of a run with these records, in a directory of its own.
fn report(records: &[Record]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut writer = Writer::create(dir.path()).expect("is created");
    records.iter().for_each(|record| writer.write(record).expect("is written"));
    writer.finish().expect("is written");
    let summary = render(dir.path()).expect("is rendered");
    assert_eq!(read_summary(dir.path()).expect("is there"), summary);
    for name in [SUMMARY_NAME, JUNIT_NAME, HTML_NAME] {
        assert!(dir.path().join(name).is_file(), "{name}");
    }
    let page = dir.path().join(HTML_NAME);
    // For a look at it with one's own eyes.
    if let Some(keep) = std::env::var_os("RVMM_KEEP_REPORT") {
        let name = format!("{}-records.html", records.len());
        std::fs::copy(&page, Path::new(&keep).join(name)).expect("is kept");
    }
    (dir, page)
}

fn failovers(records: &[Record]) -> usize {
    records.iter().filter(|record| matches!(record, Record::Failover(_))).count()
}

#[test]
fn the_page_shows_the_timeline_and_the_browser_is_content() {
    let test = "the_page_shows_the_timeline_and_the_browser_is_content";
    let Some(browser) = browser() else {
        return skip(test, &"no Chromium (apt-get install chromium)");
    };
    let records = history(60, 1, true);
    let failovers = failovers(&records);
    assert!(failovers > 3);
    let (_dir, page) = report(&records);
    for scheme in ["0", "1"] {
        let opened = open(&browser, &page, scheme);
        opened.assert_clean();
        assert_eq!(opened.count("class=\"failover-bar\""), failovers);
        assert_eq!(opened.count("class=\"primary-span hot\""), failovers + 1);
        for lane in ["primary", "failovers", "replicas-0", "crash", "lost-doorbell", "pauses"] {
            assert_eq!(opened.count(&format!("data-lane=\"{lane}\"")), 1, "{lane}");
        }
        assert!(opened.count("class=\"mark") > 30, "{}", opened.count("class=\"mark"));
        assert_eq!(opened.count("class=\"mark failed hot\""), 1);
        assert_eq!(opened.count("data-line=\""), 3);
        for text in ["✗ Failed", "client 3 lost an acknowledged write", "18446744073709551615"] {
            assert!(opened.dom.contains(text), "{text}");
        }
        assert!(opened.count("scope=\"row\"") > 20);
        assert!(!opened.dom.contains("<b>"));
    }
}

#[test]
fn the_page_can_be_worked_with() {
    let test = "the_page_can_be_worked_with";
    let Some(browser) = browser() else {
        return skip(test, &"no Chromium (apt-get install chromium)");
    };
    let records = history(60, 1, true);
    let (dir, page) = report(&records);
    let whole = std::fs::read_to_string(page).expect("is there");
    let press = |keys: &str| {
        format!(
            "for (const key of {keys}) document.querySelector('#timeline-chart svg')
                .dispatchEvent(new KeyboardEvent('keydown', {{ key, bubbles: true }}));"
        )
    };
    let point = "document.querySelector('.mark.failed').dispatchEvent(
        new PointerEvent('pointermove', { bubbles: true, clientX: 300, clientY: 300 }));";
    let click = "document.querySelector('[aria-label=\"Longest first\"]').click();";
    let opened = |action: &str| {
        let page = dir.path().join("used.html");
        let used = whole.replace("</body>", &format!("<script>{action}</script></body>"));
        std::fs::write(&page, used).expect("is written");
        let opened = open(&browser, &page, "0");
        opened.assert_clean();
        opened
    };
    let spans = |opened: &Opened| opened.count("class=\"primary-span hot\"");
    let all = spans(&opened(""));
    let near = spans(&opened(&press("['+', '+', '+', 'ArrowRight']")));
    assert!((1..all).contains(&near), "{near} of {all}");
    assert_eq!(spans(&opened(&press("['+', '+', 'ArrowLeft', '-', '0']"))), all);
    assert!(opened(point).dom.contains("ended: FAILED\nclient 3 lost an acknowledged write</div>"));
    let shares = "document.querySelector('[aria-label=\"Each phase\\'s share\"]').click();";
    assert!(opened(shares).dom.contains(">100 %</text>"));
    assert!(opened(click).dom.contains("10 failovers, longest first"));
}

#[test]
fn thousands_of_faults_still_make_a_page() {
    let test = "thousands_of_faults_still_make_a_page";
    let Some(browser) = browser() else {
        return skip(test, &"no Chromium (apt-get install chromium)");
    };
    let records = history(3600, 8, false);
    let (_dir, page) = report(&records);
    let size = std::fs::metadata(&page).expect("is there").len();
    assert!(size < 24 << 20, "{size} bytes");
    let opened = open(&browser, &page, "0");
    opened.assert_clean();
    assert!(opened.dom.contains("✓ Passed"));
    assert!(opened.dom.contains("What this page leaves out"));
    let marks = opened.count("class=\"mark");
    assert!((100..5000).contains(&marks), "{marks}");
    assert!((100..2000).contains(&opened.count("class=\"failover-bar\"")));
}

#[test]
fn a_run_without_a_timeline_has_a_page_too() {
    let test = "a_run_without_a_timeline_has_a_page_too";
    let Some(browser) = browser() else {
        return skip(test, &"no Chromium (apt-get install chromium)");
    };
    let tally = FaultTally {
        class: FaultClass::TornLogWrite,
        component: Component::Disk,
        outcome: Outcome::Masked,
        count: 3_000_000,
    };
    for records in [vec![], vec![Record::FaultTally(tally)]] {
        let tallied = !records.is_empty();
        let (_dir, page) = report(&records);
        let opened = open(&browser, &page, "0");
        opened.assert_clean();
        assert!(opened.dom.contains("Did not come to its end"));
        assert!(opened.dom.contains("kept no timeline"));
        assert_eq!(opened.dom.contains("3,000,000"), tallied);
    }
}

#[test]
fn the_page_tells_how_damage_ended_and_what_the_host_said() {
    let test = "the_page_tells_how_damage_ended_and_what_the_host_said";
    let Some(browser) = browser() else {
        return skip(test, &"no Chromium (apt-get install chromium)");
    };
    let (_dir, page) = report(&history(20, 1, false));
    assert_eq!(open(&browser, &page, "0").count("id=\"ends-card\" hidden"), 1);
    let ends = [
        (FaultClass::Guest, Outcome::Failover, "triple-fault", Some("guest: shut down, at once")),
        (FaultClass::Guest, Outcome::Failover, "triple-fault", Some("guest: shut down, later")),
        (FaultClass::Guest, Outcome::Failover, "<b>", Some("guest: </table><b>is</b> &lt;")),
        (FaultClass::StateBitFlip, Outcome::Unnoticed, "ram", None),
    ];
    let judged = ends.map(|(class, outcome, how, said)| {
        Record::FaultJudged(FaultJudged {
            at_us: SECOND,
            fault: FaultId(1),
            class,
            component: Component::Primary,
            outcome,
            note: None,
            how: Some(how.to_owned()),
            said: said.map(str::to_owned),
            seed: None,
        })
    });
    let (_dir, page) = report(&judged);
    let opened = open(&browser, &page, "0");
    opened.assert_clean();
    assert_eq!(opened.count("id=\"ends-card\" hidden"), 0);
    let table = opened.dom.split("<table id=\"ends\">").nth(1).expect("a table");
    let table = table.split("</table>").next().expect("its end");
    assert_eq!(table.matches("scope=\"row\"").count(), 3);
    assert_eq!(table.matches("rowspan=\"2\"").count(), 1, "two of one class");
    for text in [
        ">triple-fault</th><td class=\"hot\">failover</td><td class=\"number \">2</td>",
        "<td class=\"text\">shut down</td>",
        "<th scope=\"row\">&lt;b&gt;</th>",
        "<td class=\"text\">&lt;/table&gt;&lt;b&gt;is&lt;/b&gt; &amp;lt</td>",
        "<td class=\"bad hot\">unnoticed</td>",
        "<td class=\"text none\">nothing</td>",
    ] {
        assert!(table.contains(text), "{text} in {table}");
    }
}

#[test]
fn a_complaint_of_the_browser_is_noticed() {
    let test = "a_complaint_of_the_browser_is_noticed";
    let Some(browser) = browser() else {
        return skip(test, &"no Chromium (apt-get install chromium)");
    };
    let (dir, page) = report(&history(20, 1, false));
    let whole = std::fs::read_to_string(page).expect("is there");
    let bad = [
        "<script>console.error(\"injected\")</script>",
        "<script>setTimeout(() => { injected(); }, 50)</script>",
        "<script>Promise.reject(new Error(\"injected\"))</script>",
        "<svg><path d=\"injected\"/></svg>",
    ];
    for (at, injected) in bad.iter().enumerate() {
        let page = dir.path().join(format!("bad-{at}.html"));
        std::fs::write(&page, whole.replace("</main>", &format!("{injected}</main>")))
            .expect("is written");
        let opened = open(&browser, &page, "0");
        let noticed = std::panic::catch_unwind(|| opened.assert_clean());
        assert!(noticed.is_err(), "{injected}: {:#?}", opened.console);
    }
    // A script that stops half-way without a word is noticed as well.
    let page = dir.path().join("silent.html");
    let silent = whole.replace("\"use strict\";\n(() => {", "\"use strict\";\n(() => { return;");
    assert_ne!(silent, whole);
    std::fs::write(&page, silent).expect("is written");
    let noticed = std::panic::catch_unwind(|| open(&browser, &page, "0").assert_clean());
    assert!(noticed.is_err());
}

use quickcheck::quickcheck;

use super::*;

const PROGRAM: &str = "/usr/local/bin/rvmm";
/// As Debian 12 has it.
const DEFAULT_XEN: &str =
    "## Default: oxenstored\n#XENSTORED=/usr/sbin/oxenstored\n\nXENSTORED_ARGS=\n";

/// A miniature of a host's files.
fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files.iter().chain(&[(&PROGRAM[1..], "")]) {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    root
}

fn debian(settings: &str) -> tempfile::TempDir {
    host(&[("etc/init.d/xen", "#!/bin/sh\n"), ("etc/default/xen", settings)])
}

/// What a start script would start, if our program can be executed.
fn started(settings: &Path) -> String {
    let text = std::fs::read_to_string(settings).unwrap().replace("-x ", "! -x ");
    Settings::evaluate(text.as_bytes()).unwrap().xenstored
}

/// Every file below `root` with its mode, and what is in it.
fn tree(root: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let mode = path.symlink_metadata().unwrap().mode();
        if path.is_dir() {
            found.extend(tree(&path));
        }
        found.push((path.clone(), mode, std::fs::read(path).unwrap_or_default()));
    }
    found.sort();
    found
}

#[test]
fn a_debian_host_starts_this_program_and_goes_back_byte_for_byte() {
    use std::os::unix::fs::PermissionsExt;
    for settings in [DEFAULT_XEN, "", "XENSTORED=/usr/sbin/xenstored", "a=1\n\n\n"] {
        let root = debian(settings);
        let file = root.path().join("etc/default/xen");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::fs::create_dir_all(root.path().join("usr/local/lib")).unwrap();
        let before = tree(root.path());
        let boot = Boot::find(root.path()).unwrap();
        assert!(!boot.is_enabled().unwrap());
        assert_eq!(boot.enable(Path::new(PROGRAM)).unwrap().len(), 2);
        assert!(boot.is_enabled().unwrap());
        assert_eq!(started(&file), LINK);
        assert_eq!(std::fs::read_link(boot.link()).unwrap(), Path::new(PROGRAM));
        assert_eq!(boot.enable(Path::new(PROGRAM)).unwrap(), [""; 0], "once is enough");
        assert_eq!(boot.disable().unwrap().len(), 2);
        assert_eq!(tree(root.path()), before);
        assert_eq!(boot.disable().unwrap(), [""; 0]);
        assert_eq!(tree(root.path()), before);
    }
}

#[test]
fn where_the_program_is_gone_the_host_has_its_own() {
    let root = debian("XENSTORED=/usr/sbin/oxenstored\n");
    let boot = Boot::find(root.path()).unwrap();
    boot.enable(Path::new(PROGRAM)).unwrap();
    // On the machine of this test there is no such link, or it is not to be relied on.
    let text = std::fs::read_to_string(&boot.settings).unwrap().replace(LINK, "/nonexistent/x");
    let left = Settings::evaluate(text.as_bytes()).unwrap();
    assert_eq!(left.xenstored, "/usr/sbin/oxenstored");
    std::fs::remove_file(root.path().join(&PROGRAM[1..])).unwrap();
    assert!(!boot.is_enabled().unwrap());
    let error = boot.enable(Path::new(PROGRAM)).unwrap_err().to_string();
    assert!(error.ends_with("/usr/local/bin/rvmm is not there, so the host could not start it"));
}

#[test]
fn hosts_with_upstreams_units_have_their_settings_elsewhere() {
    for place in ["etc/default/xencommons", "etc/sysconfig/xencommons"] {
        let root = host(&[(place, "XENSTORETYPE=daemon\nXENSTORED_ARGS='-Q nodes=9  -V'\n")]);
        let boot = Boot::find(root.path()).unwrap();
        assert_eq!(boot.settings().unwrap().args, ["-Q", "nodes=9", "-V"]);
        boot.enable(Path::new(PROGRAM)).unwrap();
        assert_eq!(started(&root.path().join(place)), LINK);
    }
}

#[test]
fn what_was_edited_since_is_kept() {
    let root = debian(DEFAULT_XEN);
    let boot = Boot::find(root.path()).unwrap();
    boot.enable(Path::new(PROGRAM)).unwrap();
    let edited = std::fs::read_to_string(&boot.settings).unwrap();
    let edited = format!("first=1\n{edited}XENSTORED=/mine\n");
    std::fs::write(&boot.settings, edited).unwrap();
    boot.enable(Path::new(PROGRAM)).unwrap();
    assert_eq!(started(&boot.settings), LINK, "they are the last again");
    boot.disable().unwrap();
    let left = std::fs::read_to_string(&boot.settings).unwrap();
    assert_eq!(left, format!("first=1\n{DEFAULT_XEN}XENSTORED=/mine\n"));
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let refused = |root: &tempfile::TempDir| {
        let before = tree(root.path());
        let error = Boot::find(root.path()).and_then(|boot| boot.enable(Path::new(PROGRAM)));
        assert_eq!(tree(root.path()), before);
        error.unwrap_err().to_string()
    };
    assert!(refused(&host(&[])).contains("none of Xen's start scripts"));
    assert!(refused(&host(&[("etc/default/xen", "")])).contains("none of Xen's start scripts"));
    let early = refused(&debian("exit 0\n"));
    assert!(early.contains("etc/default/xen: the shell does not come to its end"), "{early}");
    let broken = refused(&debian("XENSTORED='\n"));
    assert!(broken.contains("does not come to its end: /bin/sh: "), "{broken}");
    assert!(refused(&debian("XENSTORETYPE=domain\n")).contains("XENSTORETYPE=domain"));
    let large = refused(&debian(&"#\n".repeat(40_000)));
    assert!(large.contains("80000 bytes, more than"), "{large}");
    let cut = "# Added by \"rvmm boot enable\"; \"rvmm boot disable\" takes it out again.\n";
    assert!(refused(&debian(cut)).contains("repair it by hand"));
    let taken = host(&[
        ("etc/init.d/xen", ""),
        ("etc/default/xen", ""),
        ("usr/local/lib/rvmm/xenstored", "another program"),
    ]);
    assert!(refused(&taken).ends_with("is there and no link of ours; move it away"));
}

quickcheck! {
    fn whatever_is_in_the_file_comes_back(content: Vec<u8>) -> bool {
        without_lines(&content) == Ok(None)
            && without_lines(&with_lines(&content)) == Ok(Some(content))
    }

    fn what_is_written_behind_our_lines_is_kept(before: Vec<u8>, behind: Vec<u8>) -> bool {
        let mut content = with_lines(&before);
        content.push(b'\n');
        content.extend(&behind);
        let left = without_lines(&content).unwrap().unwrap();
        left.starts_with(&before) && left.ends_with(&behind)
    }
}

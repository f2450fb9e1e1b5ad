//! The file of settings that a start script reads: a piece of shell.

use std::process::Command;

use super::LINK;

const BEGIN: &str = "# Added by \"rvmm boot enable\"; \"rvmm boot disable\" takes it out again.";
const END: &str = "# End of what \"rvmm boot enable\" added.";

/// `content` with our lines at the end, where nothing overrides them.
pub(super) fn with_lines(content: &[u8]) -> Vec<u8> {
    // Without the program the host is to have a store all the same.
    let lines = format!("{BEGIN}\nif [ -x {LINK} ]; then XENSTORED={LINK}; fi\n{END}");
    match content {
        [] | [.., b'\n'] => [content, lines.as_bytes(), b"\n"].concat(),
        // That the last line had no end is told by ours having none.
        _ => [content, b"\n", lines.as_bytes()].concat(),
    }
}

/// `content` as it was before [`with_lines`], whatever else was changed since; none when
/// our lines are not in it.
///
/// # Errors
/// When our lines have no end.
pub(super) fn without_lines(content: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let Some(begin) = place_of(BEGIN, content) else { return Ok(None) };
    let Some(len) = place_of(END, &content[begin..]) else {
        return Err(format!("the line `{BEGIN}` is there and `{END}` is not: repair it by hand"));
    };
    let (before, after) = (&content[..begin], &content[begin + len + END.len()..]);
    Ok(Some(match (before, after) {
        (before, [b'\n', after @ ..]) => [before, after].concat(),
        ([before @ .., b'\n'], after) => [before, after].concat(),
        (before, after) => [before, after].concat(),
    }))
}

fn place_of(line: &str, content: &[u8]) -> Option<usize> {
    content.windows(line.len()).position(|window| window == line.as_bytes())
}

/// What a start script finds in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The program that it starts; empty for its own choice.
    pub xenstored: String,
    /// Its arguments, as the shell splits them.
    pub args: Vec<String>,
    kind: String,
}

impl Settings {
    /// Whether the store is not a daemon's of this domain.
    pub(super) fn is_domain(&self) -> bool {
        self.kind == "domain"
    }

    /// Has the shell read it, as a start script does.
    ///
    /// # Errors
    /// When the shell does not come to the end of it: nothing there would be in force.
    pub(super) fn evaluate(content: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|error| format!("not text: {error}"))?;
        let tell = r#"printf 'told\0%s\0%s\0%s' "$XENSTORED" "$XENSTORED_ARGS" "$XENSTORETYPE""#;
        let mut shell = Command::new("/bin/sh");
        shell.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let output = shell.arg("-c").arg(format!("{text}\n{tell}")).output();
        let output = output.map_err(|error| format!("/bin/sh: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let [.., "told", xenstored, args, kind] = said.split('\0').collect::<Vec<_>>()[..] else {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(format!("the shell does not come to its end: {}", errors.trim_end()));
        };
        Ok(Self {
            xenstored: xenstored.to_owned(),
            args: args.split_whitespace().map(str::to_owned).collect(),
            kind: kind.to_owned(),
        })
    }
}

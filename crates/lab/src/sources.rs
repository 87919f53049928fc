//! Reads which archives this machine's own apt is told to use.
//!
//! The lab names no host: it takes the mirror and the keyring that the machine already trusts. It reads both
//! forms, the one-line `sources.list` and the deb822 `*.sources` (sources.list(5), apt 2.6). It will not
//! judge an archive: apt verifies the signatures when the lists are fetched.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

/// One archive of one suite, with the options that the machine gave to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Where the archive is.
    pub(crate) uri: String,
    /// `bookworm`, `bookworm-updates`, ...
    pub(crate) suite: String,
    /// The value of `Signed-By` where it is a path; `None` means apt's own trusted keys.
    pub(crate) signed_by: Option<String>,
}

impl Source {
    /// The source as a line of `sources.list`, of the component `main` alone.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        match &self.signed_by {
            Some(key) => format!("deb [signed-by={key}] {} {} main\n", self.uri, self.suite),
            None => format!("deb {} {} main\n", self.uri, self.suite),
        }
    }
}

/// The archives of the release `codename` and its updates that have a component `main`.
///
/// # Errors
/// A file cannot be read, or no such archive is configured below `etc` (normally `/etc/apt`).
pub(crate) fn of_machine(etc: &Path, codename: &str) -> Result<Vec<Source>> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(parts) = fs::read_dir(etc.join("sources.list.d")) {
        files.extend(parts.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let text = fs::read_to_string(file)?;
        match file.extension().and_then(|ext| ext.to_str()) {
            Some("list") => found.extend(text.lines().flat_map(one_line)),
            Some("sources") => found.extend(stanzas(&text).iter().flat_map(deb822)),
            _ => {}
        }
    }
    let wanted = ["", "-updates", "-security"].map(|suffix| format!("{codename}{suffix}"));
    found.retain(|source| wanted.contains(&source.suite));
    ensure!(
        !found.is_empty(),
        "apt on this machine has no archive of {codename} with a component `main` (looked in {})",
        etc.display()
    );
    Ok(found)
}

/// `deb [signed-by=KEY] URI SUITE COMPONENT...`
fn one_line(line: &str) -> Vec<Source> {
    let Some(rest) = line.trim().strip_prefix("deb ") else { return Vec::new() };
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((options, rest)) => (options, rest),
        None => ("", rest),
    };
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="))
        .map(ToOwned::to_owned);
    let rest = rest.split('#').next().unwrap_or_default();
    let mut words = rest.split_whitespace();
    match (words.next(), words.next()) {
        (Some(uri), Some(suite)) if words.any(|component| component == "main") => {
            vec![Source { uri: uri.to_owned(), suite: suite.to_owned(), signed_by }]
        }
        _ => Vec::new(),
    }
}

/// A stanza as its fields: the name in lower case, the value with its continuation lines.
type Stanza = Vec<(String, String)>;

fn stanzas(text: &str) -> Vec<Stanza> {
    let mut all = vec![Stanza::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let stanza = all.last_mut().expect("there is always a last stanza");
        if line.trim().is_empty() {
            all.push(Stanza::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    all
}

fn deb822(stanza: &Stanza) -> Vec<Source> {
    let field = |name: &str| stanza.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value);
    let has = |name: &str, word: &str| field(name).split_whitespace().any(|found| found == word);
    if !has("types", "deb") || !has("components", "main") || field("enabled").eq_ignore_ascii_case("no") {
        return Vec::new();
    }
    // A Signed-By may also hold the key itself, in several lines; apt's other trusted keys are the fallback.
    let signed_by = Some(field("signed-by")).filter(|key| key.starts_with('/')).map(ToOwned::to_owned);
    let suites = || field("suites").split_whitespace();
    field("uris")
        .split_whitespace()
        .flat_map(|uri| suites().map(move |suite| (uri.to_owned(), suite.to_owned())))
        .map(|(uri, suite)| Source { uri, suite, signed_by: signed_by.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<Source>> {
        let etc = tempfile::tempdir().unwrap();
        fs::create_dir(etc.path().join("sources.list.d")).unwrap();
        fs::write(etc.path().join(name), text).unwrap();
        of_machine(etc.path(), "bookworm")
    }

    fn source(suite: &str, signed_by: Option<&str>) -> Source {
        Source {
            uri: "http://mirror.example/debian".into(),
            suite: suite.into(),
            signed_by: signed_by.map(Into::into),
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let line = "# deb http://old.example/ bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main # ours\n\
            deb-src http://mirror.example/debian bookworm main\n\
            deb http://other.example/debian bookworm stable\n";
        let stanza = "Types: deb deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm\n\
            Components:\n main\n contrib\nSigned-By: /k.gpg\n\n# gone\nTypes: deb\nEnabled: no\n\
            URIs: http://other.example/\nSuites: bookworm\nComponents: main\n";
        let expected = vec![source("bookworm", Some("/k.gpg"))];
        assert_eq!(read("sources.list", line).unwrap(), expected);
        assert_eq!(read("sources.list.d/debian.sources", stanza).unwrap(), expected);
    }

    #[test]
    fn a_stanza_with_two_suites_is_two_sources() {
        let stanza = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates sid\n\
            Components: main\n";
        let expected = vec![source("bookworm", None), source("bookworm-updates", None)];
        assert_eq!(read("sources.list.d/debian.sources", stanza).unwrap(), expected);
    }

    #[test]
    fn a_machine_without_the_release_is_told_so() {
        let error = read("sources.list", "deb http://mirror.example/debian trixie main\n").unwrap_err();
        assert!(error.to_string().contains("no archive of bookworm"), "{error}");
    }
}

//! A private apt: fetches Debian packages into the lab's cache and unpacks them there.
//!
//! It needs no root and leaves the machine's package state alone: its lists, its (empty) status and its
//! downloads lie in the cache, and only the archives and their keyrings come from the machine's own
//! configuration. Because its status is empty a plan does not depend on what is installed here.
//! It will not install anything, and it runs no maintainer script.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::{Cache, key};
use crate::sources::{self, Source};

/// Which of the machine's Debian suites to take packages from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// The release that this machine runs, with its updates.
    Release,
    /// The release's backports first, the release for all that they lack.
    Backports,
}

/// One package file that a plan needs, such as `seabios_1.16.2-1_all.deb`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Deb {
    /// The package's name.
    pub(crate) name: String,
    /// Its version, with the epoch.
    pub(crate) version: String,
}

impl Deb {
    /// Reads the file name that apt gives to a download; the epoch's colon stands there as `%3a`.
    fn from_file_name(file: &str) -> Option<Self> {
        let (name, rest) = file.strip_suffix(".deb")?.split_once('_')?;
        let (version, _arch) = rest.rsplit_once('_')?;
        Some(Self { name: name.to_owned(), version: version.replace("%3a", ":") })
    }
}

/// The private apt of one suite.
#[derive(Debug)]
pub(crate) struct Apt {
    dir: PathBuf,
    cache: Cache,
    /// `bookworm` or `bookworm-backports`.
    suite: String,
}

impl Apt {
    /// Opens the private apt for `suite`, fetching its lists if they were never fetched.
    ///
    /// # Errors
    /// This machine is no Debian on x86-64, its apt knows no archive of the suite, or the archive did not answer.
    pub(crate) fn open(cache: &Cache, suite: Suite) -> Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "the lab builds x86-64 guests and runs on x86-64 alone");
        let codename = codename()?;
        let (name, full) = match suite {
            Suite::Release => ("release", codename.clone()),
            Suite::Backports => ("backports", format!("{codename}-backports")),
        };
        let dir = cache.root().join(format!("apt-{codename}-{name}"));
        let apt = Self { dir, cache: cache.clone(), suite: full };
        if !apt.ready().exists() {
            let _lock = cache.lock(&format!("apt-{name}"))?;
            if !apt.ready().exists() {
                let lines = match suite {
                    Suite::Release => sources::of_machine(Path::new("/etc/apt"), &codename)?,
                    Suite::Backports => backports_of(cache, &codename)?,
                };
                apt.lay_out(&lines, (suite == Suite::Backports).then_some(&apt.suite))?;
                apt.fetch_lists()?;
                fs::write(apt.ready(), "")?;
            }
        }
        Ok(apt)
    }

    /// Runs `work` with the packages that installing `roots` on an empty machine takes.
    ///
    /// An archive keeps no old versions, so the lists may name files that are gone: when `work` fails, the lists
    /// are fetched again, and if that changes the plan, `work` gets the new one.
    ///
    /// # Errors
    /// There is no such package, or `work` failed for a reason that newer lists do not mend.
    pub(crate) fn with_plan<T>(&self, roots: &[&str], work: impl Fn(&[Deb]) -> Result<T>) -> Result<T> {
        let plan = self.plan(roots)?;
        let first = match work(&plan) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if self.fetch_lists().is_err() {
            return Err(first);
        }
        let newer = self.plan(roots)?;
        if newer == plan { Err(first) } else { work(&newer) }
    }

    /// Downloads `debs`, which are `what` (such as `QEMU`) with what it needs, and unpacks them, one over the other,
    /// below `into`.
    ///
    /// # Errors
    /// The archive no longer has one of them, or the file system refused.
    pub(crate) fn unpack<'a>(
        &self,
        what: &str,
        debs: impl IntoIterator<Item = &'a Deb>,
        into: &Path,
    ) -> Result<()> {
        let pool = tempfile::tempdir_in(&self.dir)?;
        let exact: Vec<String> =
            debs.into_iter().map(|deb| format!("{}={}", deb.name, deb.version)).collect();
        // It takes a while and uses the network: whoever waits is told once.
        let (suite, packages, into_cache) = (&self.suite, exact.len(), self.cache.root().display());
        eprintln!("lab: fetching {what} from {suite}, {packages} packages, into {into_cache}");
        run(self.get("download").args(exact).current_dir(pool.path()))?;
        for deb in fs::read_dir(pool.path())? {
            run(Command::new("dpkg-deb").arg("--extract").arg(deb?.path()).arg(into))?;
        }
        Ok(())
    }

    /// What apt would install for `roots` where nothing is installed. Remembered until the lists change.
    fn plan(&self, roots: &[&str]) -> Result<Vec<Deb>> {
        let memo = self.dir.join("plans").join(key(&roots));
        let files = match fs::read_to_string(&memo) {
            Ok(files) => files,
            Err(_) => {
                let files = run(self.get("install").arg("--print-uris").args(roots))?;
                let scratch = tempfile::NamedTempFile::new_in(self.dir.join("plans"))?;
                fs::write(scratch.path(), &files)?;
                scratch.persist(&memo)?;
                files
            }
        };
        // 'URI' FILE SIZE [HASH]
        let names = files.lines().filter_map(|line| line.split_whitespace().nth(1));
        let debs: Vec<Deb> = names.filter_map(Deb::from_file_name).collect();
        ensure!(!debs.is_empty(), "apt plans no package at all for {}", roots.join(" "));
        Ok(debs)
    }

    fn fetch_lists(&self) -> Result<()> {
        let _lock = self.cache.lock(&format!("{}-lists", self.dir.display()))?;
        run(&mut self.get("update"))?;
        fs::remove_dir_all(self.dir.join("plans"))?;
        Ok(fs::create_dir(self.dir.join("plans"))?)
    }

    fn lay_out(&self, sources: &[Source], default_release: Option<&String>) -> Result<()> {
        for made in ["state/lists/partial", "cache/archives/partial", "plans"] {
            fs::create_dir_all(self.dir.join(made))?;
        }
        fs::write(self.dir.join("status"), "")?;
        fs::write(self.dir.join("sources.list"), sources.iter().map(Source::line).collect::<String>())?;
        let dir = self.dir.display();
        let mut conf = format!(
            "Dir::State \"{dir}/state\";\nDir::State::status \"{dir}/status\";\nDir::Cache \"{dir}/cache\";\n\
             Dir::Etc::sourcelist \"{dir}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n"
        );
        // The hooks that a machine hangs on its own apt (emptying caches, telling desktops) are not for this one.
        conf.push_str(
            "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n#clear APT::Architectures;\n\
             APT::Architecture \"amd64\";\nAPT::Architectures { \"amd64\"; };\n\
             APT::Install-Recommends \"false\";\nAPT::Get::Assume-Yes \"true\";\nAcquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\nAcquire::Retries \"3\";\n\
             APT::Sandbox::User \"root\";\nDebug::NoLocking \"true\";\n",
        );
        if let Some(release) = default_release {
            conf.push_str(&format!("APT::Default-Release \"{release}\";\n"));
        }
        Ok(fs::write(self.conf(), conf)?)
    }

    fn get(&self, verb: &str) -> Command {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-c"]).arg(self.conf()).arg(verb).env("LC_ALL", "C");
        command
    }

    fn conf(&self) -> PathBuf {
        self.dir.join("apt.conf")
    }

    fn ready(&self) -> PathBuf {
        self.dir.join("ready")
    }
}

/// The release's sources, and the backports beside them where the release itself comes from.
fn backports_of(cache: &Cache, codename: &str) -> Result<Vec<Source>> {
    let release = Apt::open(cache, Suite::Release)?;
    let mut sources = sources::of_machine(Path::new("/etc/apt"), codename)?;
    // Of several archives with a suite of this name, Debian's own says so in its signed Release file.
    let format = "$(REPO_URI) $(CODENAME) $(ORIGIN)";
    let targets = run(release.get("indextargets").args(["--format", format, "Created-By: Packages"]))?;
    let ours = targets.lines().find_map(|line| {
        let (uri, rest) = line.split_once(' ')?;
        (rest == format!("{codename} Debian")).then(|| uri.trim_end_matches('/'))
    });
    let uri = ours.context("no archive of this machine's apt says that it is Debian's")?;
    let found = sources.iter().find(|source| source.uri.trim_end_matches('/') == uri);
    let mut backports = found.context("apt names an archive that its sources do not")?.clone();
    backports.suite = format!("{codename}-backports");
    sources.push(backports);
    Ok(sources)
}

/// `bookworm`: what `/etc/os-release` calls this machine's release.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot tell which system this is")?;
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches('"').to_owned())
    };
    let id = field("ID").unwrap_or_default();
    ensure!(
        id == "debian",
        "the lab builds its guests from Debian's packages with Debian's apt; this is {id:?}"
    );
    field("VERSION_CODENAME").context("/etc/os-release has no VERSION_CODENAME")
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.output().with_context(|| format!("cannot run {program}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{command:?} failed ({}): {}", done.status, said.trim());
    }
    String::from_utf8(done.stdout).with_context(|| format!("{program} printed what is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_keeps_its_epoch_and_its_underscore_free_name() {
        let deb = Deb::from_file_name("qemu-guest-agent_1%3a7.2+dfsg-7+deb12u18+b3_amd64.deb").unwrap();
        assert_eq!(deb.name, "qemu-guest-agent");
        assert_eq!(deb.version, "1:7.2+dfsg-7+deb12u18+b3");
        assert_eq!(Deb::from_file_name("InRelease"), None);
    }
}

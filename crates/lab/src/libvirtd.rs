//! A real libvirtd with a world of its own: its sockets, configuration and state lie in a directory of the lab, and
//! the machine's own libvirt is neither used nor touched.
//!
//! ```text
//! this process --> unshare --> start.sh (process 1 of its own namespace) --> libvirtd --> QEMU ...
//! ```
//! libvirtd knows its directories by fixed names, so it gets namespaces in which these names mean ours. Process 1 reaps
//! orphans at once, which libvirt waits for (a container's own process 1 may not), and the kernel ends all of it with
//! process 1, which ends with this process. It will not give the domains networks of libvirt: only QEMU's driver runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::apt::run;
use crate::cache::{Cache, key};
use crate::domain_guest::DomainGuest;
use crate::eventually::eventually;
use crate::inside;
use crate::libvirt::Libvirt;
use crate::machine::{Process, end};
use crate::recipe::{Generation, Parts, Recipe};
use crate::spawn::spawn;
use crate::wire::Tools;

const SCRIPT: &str = include_str!("libvirtd/start.sh");

/// It first starts each QEMU that it finds, to learn what it can do.
const START: Duration = Duration::from_secs(60);

/// More than any command of `virsh` should take that does not wait for a guest.
const VIRSH: Duration = Duration::from_secs(60);

/// How long a domain may take to end.
const DESTROY: Duration = Duration::from_secs(20);

/// A libvirtd that runs, and all domains that it started. Dropped, all of it is killed.
#[derive(Debug)]
pub struct Libvirtd {
    daemon: Arc<Daemon>,
}

/// What guests need of it while they run.
#[derive(Debug)]
pub(crate) struct Daemon {
    // Fields are dropped in this order: the daemon ends before its directory goes.
    process: Process,
    libvirt: Libvirt,
    parts: Parts,
    dir: TempDir,
    _groups: Option<Groups>,
}

/// The group that libvirt makes for all of its machines where there is none, and that it never takes away.
#[derive(Debug)]
struct Groups {
    absent: Vec<PathBuf>,
}

impl Groups {
    fn note() -> Groups {
        let mounts = ["", "cpu", "cpuacct", "cpu,cpuacct", "memory"]
            .map(|name| Path::new("/sys/fs/cgroup").join(name));
        let all = mounts.map(|mount| mount.join("machine"));
        Groups { absent: all.into_iter().filter(|group| !group.exists()).collect() }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.absent {
            // One that is not there, or that somebody uses now, stays as it is.
            let _ = fs::remove_dir(group);
        }
    }
}

impl Libvirtd {
    /// Starts the libvirt and the QEMU of [`Generation::asked_for`].
    ///
    /// # Errors
    /// There is no libvirt, no QEMU or no guest to be had, this system does not allow namespaces, or the daemon does
    /// not start; the error ends with its last words.
    pub async fn start() -> Result<Self> {
        Self::of(Generation::asked_for()?).await
    }

    /// Starts the libvirt and the QEMU of this generation.
    ///
    /// # Errors
    /// As for [`Libvirtd::start`].
    pub async fn of(generation: Generation) -> Result<Self> {
        Self::with(generation, None).await
    }

    /// The same, with control groups of CPU time and memory for its domains, which only root may make. They are this
    /// host's: what libvirt leaves of them when it ends is taken away.
    ///
    /// # Errors
    /// As for [`Libvirtd::start`].
    pub async fn with_cpu_groups(generation: Generation) -> Result<Self> {
        Self::with(generation, Some(Groups::note())).await
    }

    async fn with(generation: Generation, groups: Option<Groups>) -> Result<Self> {
        let found = tokio::task::spawn_blocking(move || {
            let cache = Cache::open()?;
            let libvirt = match generation {
                Generation::System => Libvirt::system(&cache)?,
                Generation::Backports => Libvirt::backports(&cache)?,
            };
            anyhow::Ok((libvirt, Parts::find(&cache, generation)?, Tools::find(&cache)?, cache))
        });
        let (libvirt, parts, tools, cache) = found.await??;
        let dir = tempfile::Builder::new().prefix("supple-lab-").tempdir()?;
        let log = File::create(dir.path().join("start.log"))?;
        // libvirt runs it to limit a NIC's traffic.
        let lent = dir.path().join("bin");
        fs::create_dir(&lent)?;
        tools.lend("tc", &lent)?;
        let mut command = namespaces()?;
        command.args(["sh", "-c", SCRIPT]).envs(lay_out(
            dir.path(),
            &libvirt,
            &parts,
            &cache,
            groups.is_some(),
        )?);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = Process::new(spawn(command).context("cannot start unshare (of util-linux)")?);
        let mut daemon = Daemon { process, libvirt, parts, dir, _groups: groups };
        daemon.wait().await?;
        Ok(Self { daemon: Arc::new(daemon) })
    }

    /// Where libvirt's clients find it.
    #[must_use]
    pub fn connect_uri(&self) -> String {
        self.daemon.uri()
    }

    /// Runs `virsh` on it and returns what it prints, without the empty lines that it ends with.
    ///
    /// # Errors
    /// `virsh` failed, with what it said, or took more than a minute.
    pub async fn virsh(&self, args: &[&str]) -> Result<String> {
        self.daemon.virsh(args).await
    }

    /// Defines a domain for `recipe` and does not start it. Its QEMU is the daemon's, whatever the recipe says.
    ///
    /// # Errors
    /// libvirt does not accept it.
    pub async fn define(&self, name: &str, recipe: &Recipe) -> Result<()> {
        let dir = self.daemon.guest_dir(name);
        fs::create_dir_all(&dir)?;
        recipe.make_disks(&dir)?;
        let file = dir.join("domain.xml");
        fs::write(&file, recipe.domain(name, &self.daemon.parts, &dir))?;
        self.virsh(&["define", "--validate", &file.display().to_string()]).await.map(drop)
    }

    /// Defines a domain for `recipe`, starts it and waits until the guest is up.
    ///
    /// # Errors
    /// libvirt does not accept or start it, or the guest is not up in time; the error ends with its last words.
    pub async fn boot(&self, name: &str, recipe: &Recipe) -> Result<DomainGuest> {
        self.define(name, recipe).await?;
        DomainGuest::start(&self.daemon, name, recipe.has_agent()).await
    }

    /// Starts a domain that [`Libvirtd::define`] made for `recipe`, as its definition is by now, and waits until the guest
    /// is up.
    ///
    /// # Errors
    /// As for [`Libvirtd::boot`].
    pub async fn start_defined(&self, name: &str, recipe: &Recipe) -> Result<DomainGuest> {
        DomainGuest::start(&self.daemon, name, recipe.has_agent()).await
    }

    /// Ends libvirtd as an update of its package would, and waits for the next one. Domains run on.
    ///
    /// # Errors
    /// It did not come back.
    pub async fn restart(&self) -> Result<()> {
        self.daemon.restart().await
    }

    /// Moves a running domain to another libvirtd as `virsh` does with these words besides, with its console and its
    /// sockets in that one's directory. The way into the guest is not moved along.
    ///
    /// # Errors
    /// It was not moved, or took more than a minute; then it runs on where it was.
    pub async fn migrate(&self, name: &str, to: &Libvirtd, words: &[&str]) -> Result<()> {
        let (here, there) = (self.daemon.guest_dir(name), to.daemon.guest_dir(name));
        fs::create_dir_all(&there)?;
        let placed = |xml: String| xml.replace(&here.display().to_string(), &there.display().to_string());
        let (live, next) = (there.join("live.xml"), there.join("next.xml"));
        fs::write(&live, placed(self.virsh(&["dumpxml", name, "--migratable"]).await?))?;
        fs::write(&next, placed(self.virsh(&["dumpxml", name, "--inactive", "--migratable"]).await?))?;
        let [live, next, socket] =
            [live, next, there.join("migration.sock")].map(|path| path.display().to_string());
        let (uri, socket) = (to.connect_uri(), format!("unix://{socket}"));
        let moved =
            ["migrate", "--live", "--persistent", "--undefinesource", name, &uri, "--migrateuri", &socket];
        let described = ["--xml", &live, "--persistent-xml", &next];
        self.virsh(&[&moved[..], &described, words].concat()).await.map(drop)
    }

    /// What libvirtd itself has said: its warnings and errors.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// The libvirt that runs.
    #[must_use]
    pub fn libvirt(&self) -> &Libvirt {
        &self.daemon.libvirt
    }
}

impl Daemon {
    /// Waits until it answers.
    async fn wait(&mut self) -> Result<()> {
        let socket = self.socket();
        let answered = eventually("libvirtd opens its socket", START, async || {
            if let Some(status) = self.process.ended()? {
                bail!("it ended with {status}");
            }
            Ok(UnixStream::connect(&socket).await.ok())
        });
        let answered = match answered.await {
            Ok(_) => self.virsh(&["version"]).await.map(drop),
            Err(error) => Err(error),
        };
        answered.with_context(|| format!("libvirtd does not start here: {}", self.log()))
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("sock/libvirt-sock")
    }

    pub(crate) fn uri(&self) -> String {
        format!("qemu+unix:///{}?socket={}", mode(), self.socket().display())
    }

    pub(crate) fn guest_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join("guests").join(name)
    }

    pub(crate) async fn restart(&self) -> Result<()> {
        let before = self.pid()?;
        let process = i32::try_from(before).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(process, Signal::TERM)?;
        eventually("libvirtd starts again", START, async || {
            let there = self.pid().is_ok_and(|pid| pid != before);
            Ok((there && self.virsh(&["version"]).await.is_ok()).then_some(()))
        })
        .await
    }

    pub(crate) async fn virsh(&self, args: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::from(self.libvirt.virsh());
        command
            .args(["--quiet", "--connect", &self.uri()])
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let words = args.join(" ");
        let done =
            timeout(VIRSH, command.output()).await.with_context(|| format!("virsh {words}: no end"))?;
        let done = done.context("cannot run virsh")?;
        ensure!(done.status.success(), "virsh {words}: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
    }

    /// Ends a domain at once, if it runs. A libvirtd that is stuck is not waited for: all ends with it.
    pub(crate) fn destroy(&self, name: &str) {
        let mut command = self.libvirt.virsh();
        command.args(["--quiet", "--connect", &self.uri(), "destroy", name]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut virsh) = command.spawn() else { return };
        let until = Instant::now() + DESTROY;
        // It fails where there is nothing to end.
        while matches!(virsh.try_wait(), Ok(None)) {
            if Instant::now() >= until {
                return end(&mut virsh);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// libvirtd's process id as the host counts: the child of that name of process 1.
    fn pid(&self) -> Result<u32> {
        let init = children(self.process.id())?.first().copied().context("process 1 is gone")?;
        let daemon = children(init)?.into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "libvirtd")
        });
        daemon.context("libvirtd is not there")
    }

    /// The end of a domain's log, in which its QEMU says why it dies. A libvirtd in session mode keeps it elsewhere.
    pub(crate) fn words_of_qemu(&self, name: &str) -> String {
        inside::tail(&self.dir.path().join(format!("log/libvirt/qemu/{name}.log")))
    }

    pub(crate) fn log(&self) -> String {
        let read = |name: &str| fs::read(self.dir.path().join(name)).unwrap_or_default();
        let (start, daemon) = (read("start.log"), read("libvirtd.log"));
        format!("{}{}", String::from_utf8_lossy(&start), String::from_utf8_lossy(&daemon))
    }
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    listed.split_whitespace().map(|pid| Ok(pid.parse()?)).collect()
}

/// The kind of libvirtd: the machine's, which only root can be, or a user's own.
fn mode() -> &'static str {
    if rustix::process::geteuid().is_root() { "system" } else { "session" }
}

/// What starts a program in namespaces of its own, as root at least there.
fn namespaces() -> Result<Command> {
    let mut words = vec!["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if mode() == "session" {
        words.extend(["--user", "--map-root-user"]);
    }
    run(Command::new("unshare").args(&words).arg("true")).context(
        "the lab's libvirtd needs mount and process namespaces, and this system does not allow them: in a container, \
         give it CAP_SYS_ADMIN; elsewhere allow unprivileged user namespaces, or run as root",
    )?;
    let mut command = Command::new("unshare");
    command.args(words);
    Ok(command)
}

/// Fills the daemon's directory and gives the script its variables.
fn lay_out(
    dir: &Path,
    libvirt: &Libvirt,
    parts: &Parts,
    cache: &Cache,
    groups: bool,
) -> Result<[(&'static str, String); 4]> {
    for name in ["sock", "etc/libvirt", "conf", "lib", "log", "run", "drivers", "guests"] {
        fs::create_dir_all(dir.join(name))?;
    }
    let shown = dir.display();
    // Two daemons of one host are taken for one and migrate nothing to each other.
    let host = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    fs::write(
        dir.join("conf/libvirtd.conf"),
        format!(
            "unix_sock_dir = \"{shown}/sock\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n\
             host_uuid = \"{}\"\nlog_outputs = \"3:file:{shown}/libvirtd.log\"\n",
            host.trim_end()
        ),
    )?;
    // A namespace has no user but root, and a container mostly no control groups to hand out; there is no virtlogd.
    let groups = if groups { "\"cpu\", \"cpuacct\", \"memory\"" } else { "" };
    let user = if mode() == "system" { "user = \"+0\"\ngroup = \"+0\"\n" } else { "" };
    fs::write(
        dir.join("conf/qemu.conf"),
        format!(
            "security_driver = \"none\"\n{user}dynamic_ownership = 0\nremember_owner = 0\n\
             clear_emulator_capabilities = 0\nnamespaces = []\ncgroup_controllers = [{groups}]\nstdio_handler = \"file\"\n"
        ),
    )?;
    let trees: Vec<&Path> = [libvirt.tree(), parts.qemu.tree()].into_iter().flatten().collect();
    let caps = cache.root().join(format!("libvirt-caps-{}", key(&(libvirt.version(), &trees))));
    fs::create_dir_all(&caps)?;
    let trees: Vec<String> = trees.iter().map(|tree| tree.display().to_string()).collect();
    Ok([
        ("DIR", shown.to_string()),
        ("TREES", trees.join(" ")),
        ("CAPS", caps.display().to_string()),
        ("MODE", mode().to_owned()),
    ])
}

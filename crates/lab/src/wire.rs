//! A network with a guest's side and a host's side, for tests of traffic limits with real traffic: two network
//! namespaces of the test's own with a pair of devices between them, and iperf3 in both.
//!
//! ```text
//! this process (outside): tap0  <--->  eth0 (inside): a process that only holds the namespace
//!      10.99.0.1, fd99::1               10.99.0.2 .3, fd99::2 ::3
//! ```
//! Nothing of it is seen in the machine's own network, and the kernel ends it with the test's process. It will not limit
//! anything: that is what is tested.

use std::fs::{self, Permissions};
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::apt::{Apt, Deb, Suite, run};
use crate::cache::{Cache, key};
use crate::image::library_dirs;
use crate::machine::Process;
use crate::spawn::spawn;

/// Says in a child of [`apart`] that it is one.
const APART: &str = "SUPPLE_LAB_APART";

/// Part of the cache key: raise it when this file changes what it unpacks.
const RECIPE: u32 = 1;

/// Longer than any test with traffic should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a program may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// Runs the test named `test` again in a network namespace of its own, or, there, its `body`. As root it needs nothing;
/// another user needs user namespaces.
///
/// # Panics
/// The body did, or there can be no namespace here.
pub fn apart(test: &str, body: impl FnOnce() -> Result<()>) {
    if std::env::var_os(APART).is_some() {
        body().unwrap_or_else(|error| panic!("{error:?}"));
        return;
    }
    let cache = Cache::open().expect("a cache");
    // From there nothing can be fetched.
    Tools::find(&cache).expect("iperf3 and iproute2 can be had");
    // One after the other: traffic takes a core.
    let _turn = cache.lock("traffic").expect("a lock");
    let this = std::env::current_exe().expect("a test is a program");
    let mut command = in_own_network();
    command.arg(this).args(["--exact", test, "--nocapture", "--test-threads=1"]).env(APART, "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (ok, said) = watched(command).expect("unshare (util-linux) can be run");
    let hint = if said.contains("unshare:") {
        "\nthis test needs a network namespace of its own: run it as root, or allow user namespaces"
    } else {
        ""
    };
    assert!(ok && said.contains("1 passed"), "in a network of its own:\n{said}{hint}");
}

/// Runs the program whose words are added to it in a network namespace of its own. As root it needs nothing; another user
/// needs user namespaces.
#[must_use]
pub fn in_own_network() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--");
    command
}

/// Runs a command to its end, with what it said.
fn watched(command: Command) -> Result<(bool, String)> {
    let mut child = spawn(command)?;
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = pipe {
                // What was said before an error is worth showing.
                let _ = pipe.read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = read(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let err = read(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let since = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if since.elapsed() > PATIENCE => {
                child.kill()?;
                break child.wait()?;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let said = format!("{}{}", out.join().unwrap_or_default(), err.join().unwrap_or_default());
    Ok((status.success(), said))
}

/// The same with a body that boots guests; what they are made of is fetched before.
///
/// # Panics
/// As for [`apart`], and where no guest can be had.
pub fn apart_with_guests(test: &str, body: impl AsyncFnOnce() -> Result<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if std::env::var_os(APART).is_none() {
        runtime.block_on(crate::recipe::prepare()).expect("what guests are made of");
    }
    apart(test, || {
        // The guest's service is reached over it.
        Tools::find(&Cache::open()?)?.run("ip link set lo up")?;
        runtime.block_on(body())
    });
}

/// iperf3 and iproute2, the machine's own or Debian's from the cache.
#[derive(Debug, Clone)]
pub struct Tools {
    tree: Option<PathBuf>,
}

impl Tools {
    /// Finds them, fetching what the machine lacks.
    ///
    /// # Errors
    /// They are not on the PATH, and the archive did not answer.
    pub fn find(cache: &Cache) -> Result<Tools> {
        let there = |name: &str| PLACES.iter().any(|place| Path::new(place).join(name).is_file());
        if ["iperf3", "ip", "tc"].into_iter().all(there) {
            return Ok(Tools { tree: None });
        }
        let apt = Apt::open(cache, Suite::Release)?;
        let tree = apt.with_plan(&["iperf3", "iproute2"], |plan| {
            // The C library stays the machine's: it must fit the machine's loader.
            let is_library = |name: &str| name.starts_with("lib") && name != "libc6";
            let needed = |deb: &&Deb| deb.name == "iperf3" || deb.name == "iproute2" || is_library(&deb.name);
            let debs: Vec<&Deb> = plan.iter().filter(needed).collect();
            cache.ensure(&format!("traffic-{}", key(&(RECIPE, &debs))), |dir| {
                apt.unpack("iperf3 and iproute2", debs.iter().copied(), dir)
            })
        })?;
        Ok(Tools { tree: Some(tree) })
    }

    /// One of the programs, in this process's network.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let Some(tree) = &self.tree else { return Command::new(program) };
        let found = PLACES.iter().map(|place| tree.join(place.trim_start_matches('/')).join(program));
        let mut command = Command::new(found.into_iter().find(|path| path.is_file()).unwrap_or_default());
        let dirs = library_dirs(tree);
        command.env("LD_LIBRARY_PATH", std::env::join_paths(dirs).expect("the cache's path holds no colon"));
        command
    }

    /// Lets those find a program in `dir` that look it up by its name alone. Nothing where the machine has it.
    pub(crate) fn lend(&self, program: &str, dir: &Path) -> Result<()> {
        if self.tree.is_none() {
            return Ok(());
        }
        let command = self.command(program);
        let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let variables: String =
            variables.map(|(name, value)| format!("{}='{}' ", name.display(), value.display())).collect();
        let path = dir.join(program);
        let text = format!("#!/bin/sh\n{variables}exec '{}' \"$@\"\n", command.get_program().display());
        fs::write(&path, text)?;
        Ok(fs::set_permissions(&path, Permissions::from_mode(0o755))?)
    }

    /// Runs `ip` or `tc` with words divided by spaces, and gives what it printed.
    ///
    /// # Errors
    /// It failed.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("a program")?;
        run(self.command(program).args(words))
    }
}

const PLACES: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// The two sides, for as long as this value lives.
#[derive(Debug)]
pub struct Wire {
    tools: Tools,
    inside: Process,
}

/// A stream of iperf3's between the sides.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The guest's address; the host's is the one of the same family.
    pub guest: IpAddr,
    /// Whether the guest receives, or sends.
    pub to_guest: bool,
    /// For how many seconds it is measured, after one that is not.
    pub seconds: u32,
}

impl Wire {
    /// Makes both sides, the host's with the name `tap0`. To be called in [`apart`].
    ///
    /// # Errors
    /// The tools cannot be had, or the kernel lacks something.
    pub fn make() -> Result<Wire> {
        ensure!(std::env::var_os(APART).is_some(), "it would be made in the machine's own network");
        let tools = Tools::find(&Cache::open()?)?;
        let mut hold = Command::new("unshare");
        hold.args(["--net", "--", "sleep", "600"]).stdin(Stdio::null());
        let inside = Process::new(spawn(hold)?);
        let wire = Wire { tools, inside };
        wire.wait_apart()?;
        wire.tools.run("ip link set lo up")?;
        wire.connect()?;
        Ok(wire)
    }

    /// Makes the devices, as the start of a machine does.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn connect(&self) -> Result<()> {
        let holder = self.inside.id();
        let outside = [
            format!("ip link add tap0 type veth peer name eth0 netns {holder}"),
            "ip addr add 10.99.0.1/24 dev tap0".into(),
            "ip addr add fd99::1/64 dev tap0 nodad".into(),
            "ip link set tap0 up".into(),
        ];
        for line in outside {
            self.tools.run(&line)?;
        }
        for line in [
            "ip link set lo up",
            "ip addr add 10.99.0.2/24 dev eth0",
            "ip addr add 10.99.0.3/24 dev eth0",
            "ip addr add fd99::2/64 dev eth0 nodad",
            "ip addr add fd99::3/64 dev eth0 nodad",
            "ip link set eth0 up",
        ] {
            self.in_guest(line)?;
        }
        Ok(())
    }

    /// Takes the devices away, as the end of a machine does.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn disconnect(&self) -> Result<()> {
        self.tools.run("ip link del tap0").map(|_| ())
    }

    /// The programs, for the host's side.
    #[must_use]
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Runs a program on the guest's side.
    ///
    /// # Errors
    /// It failed.
    pub fn in_guest(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("a program")?;
        run(self.inside(program).args(words))
    }

    /// What each stream carried while all ran, in bits a second, as its receiver counted.
    ///
    /// # Errors
    /// iperf3 failed.
    pub fn measure(&self, streams: &[Stream]) -> Result<Vec<f64>> {
        let mut servers = Vec::new();
        for (number, _) in streams.iter().enumerate() {
            let mut server = self.inside("iperf3");
            server.args(["-s", "-1", "-p", &port(number)]).stdin(Stdio::null()).stdout(Stdio::null());
            servers.push(Process::new(spawn(server)?));
        }
        self.wait_listening(streams.len())?;
        let clients: Vec<Child> = streams
            .iter()
            .enumerate()
            .map(|(number, stream)| {
                let mut client = self.tools.command("iperf3");
                let seconds = stream.seconds.to_string();
                client.args(["-J", "-O", "1", "-t", &seconds, "-p", &port(number), "-c"]);
                client.arg(stream.guest.to_string());
                if !stream.to_guest {
                    client.arg("-R");
                }
                client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                Ok(spawn(client)?)
            })
            .collect::<Result<_>>()?;
        clients.into_iter().map(received).collect()
    }

    /// A program on the guest's side.
    #[must_use]
    pub fn inside(&self, program: &str) -> Command {
        let of = self.tools.command(program);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.inside.id())).arg("--").arg(of.get_program());
        command.envs(of.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// Waits until the holder is in its own namespace.
    fn wait_apart(&self) -> Result<()> {
        let net = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
        let own = net("self")?;
        until("a namespace for the guest's side", || Ok(net(&self.inside.id().to_string())? != own))
    }

    /// Waits until a server listens at each port.
    fn wait_listening(&self, servers: usize) -> Result<()> {
        until("iperf3's servers", || {
            let table = fs::read_to_string(format!("/proc/{}/net/tcp6", self.inside.id()))?;
            // The local address's port, and the state LISTEN.
            let is_there = |number: usize| {
                table
                    .lines()
                    .any(|line| line.contains(&format!(":{:04X} ", 5300 + number)) && line.contains(" 0A "))
            };
            Ok((0..servers).all(is_there))
        })
    }
}

fn port(number: usize) -> String {
    (5300 + number).to_string()
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let since = Instant::now();
    while since.elapsed() < READY {
        if is_so()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("{what}: not within {READY:?}")
}

fn received(client: Child) -> Result<f64> {
    let done = client.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let told: Value = serde_json::from_str(&said).with_context(|| format!("iperf3 said {said}"))?;
    let rate = told["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.with_context(|| format!("iperf3 measured nothing: {}", told["error"]))
}

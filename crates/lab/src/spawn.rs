//! Starts processes that must not outlive this one, however it ends.
//!
//! Linux sends the parent-death signal when the *thread* that forked ends (prctl(2), PR_SET_PDEATHSIG), and a
//! test harness or an async runtime ends threads early. So one thread, which lives as long as the process, forks
//! for all. It will not watch what it started: the caller has the `Child`.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{OnceLock, mpsc};
use std::thread;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts `command`; the kernel kills it with SIGKILL when this process is gone.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static FORKER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let forker = FORKER.get_or_init(|| {
        let (requests, queue) = mpsc::channel::<Request>();
        thread::Builder::new()
            .name("lab-forker".to_owned())
            .spawn(move || {
                for (mut command, reply) in queue {
                    // Who asked may be gone; then the child goes with the reply and is killed by its owner.
                    let _ = reply.send(fork(&mut command));
                }
            })
            .expect("a thread can be started");
        requests
    });
    let (reply, answer) = mpsc::channel();
    forker.send((command, reply)).map_err(io::Error::other)?;
    answer.recv().map_err(io::Error::other)?
}

#[allow(unsafe_code, reason = "what is asked of the kernel between fork and exec has no safe form")]
fn fork(command: &mut Command) -> io::Result<Child> {
    let parent = getpid();
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the signal was asked for.
            if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
        });
    }
    command.spawn()
}

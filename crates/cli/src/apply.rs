//! `supple apply`: shows the plan, asks, carries it out and tells what came of it.

use drive::resize::{ResizeError, resize};
use scale::limits::Limits;
use scale::plan::Asked;
use scale::report::{Report, Verdict};
use std::io::IsTerminal;

use crate::address::quoted;
use crate::args::Request;
use crate::failure::{DONE, Failure, PARTIAL};
use crate::progress::{Consent, Sofar, Talk, Voice};
use crate::show::{as_options, how_far};
use crate::target::{Reached, block_on, history, take};
use crate::{screen, show, wire};

/// Carries the command out; its exit status.
pub(crate) fn run(asked: &Request, yes: bool, live_only: bool) -> Result<u8, Failure> {
    let json = asked.machine.output.json;
    let ended = block_on(carry_out(asked, Consent::of(yes, json), live_only))?;
    if json {
        screen::say(&wire::Document::Report(ended.document()).render());
    } else {
        screen::say(&ended.text(asked, screen::columns()));
    }
    Ok(ended.status())
}

/// How an `apply` ended.
pub(crate) struct Ended {
    report: Report,
    /// Changes that the machine's definition in libvirt did not follow, each with libvirt's reason; nothing where it
    /// has none.
    not_followed: Option<Vec<String>>,
}

impl Ended {
    /// As `--json` prints it.
    pub(crate) fn document(&self) -> wire::report::Report {
        wire::report::Report { not_followed: self.not_followed.clone(), ..(&self.report).into() }
    }

    /// In `room` columns.
    pub(crate) fn text(&self, asked: &Request, room: usize) -> String {
        let Ended { report, not_followed } = self;
        let command = command_line(asked, &report.asked);
        [
            show::report::report(report, room),
            show::report::not_followed(not_followed.as_deref().unwrap_or_default(), room),
            show::report::again(report, &command, room).unwrap_or_default(),
        ]
        .concat()
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        let followed = self.not_followed.as_ref().is_none_or(Vec::is_empty);
        if self.report.verdict == Verdict::Proven && followed { DONE } else { PARTIAL }
    }
}

/// Resizes the machine, with progress told as it goes.
pub(crate) async fn carry_out(asked: &Request, consent: Consent, live_only: bool) -> Result<Ended, Failure> {
    let limits = Limits::default();
    let vm = &asked.machine.vm;
    let (Reached { mut driver, key, .. }, mut journal) =
        take(&asked.machine, &asked.wanted, live_only, &limits).await?;
    let voice = match (asked.machine.output.json, std::io::stderr().is_terminal() && screen::is_terminal()) {
        (true, _) => Voice::Silent,
        (false, true) => Voice::Bar,
        (false, false) => Voice::Lines,
    };
    let sofar = Sofar::default();
    let mut talk = Talk::new(vm.to_string(), voice, consent, driver.definition(), &sofar);
    let ended = tokio::select! {
        ended = resize(&mut driver, &mut journal, asked.wanted.clone(), &limits, &mut talk) => Some(ended),
        () = stopped(&sofar) => None,
    };
    talk.end();
    match ended {
        Some(Ok(report)) => Ok(Ended { report, not_followed: driver.not_followed().map(<[String]>::to_vec) }),
        Some(Err(ResizeError::Declined)) if consent == Consent::Nobody => Err(Failure::NobodyToAsk),
        Some(Err(error)) => Err(Failure::of_resize(error, sofar.began.get())),
        None => Err(Failure::Interrupted(where_it_stopped(asked, &key)?)),
    }
}

/// Ends when the user presses Ctrl-C in the middle of a run. Before that, Ctrl-C ends the process as it always does.
///
/// The run is dropped where it stands: what was sent is on record, as after `kill -9`, so a guest that is slow to
/// answer cannot keep the user waiting.
async fn stopped(sofar: &Sofar) {
    sofar.beginning.notified().await;
    if tokio::signal::ctrl_c().await.is_err() {
        // No handler could be set up, so Ctrl-C ends the process by itself.
        std::future::pending::<()>().await;
    }
}

fn where_it_stopped(asked: &Request, key: &str) -> Result<String, Failure> {
    let vm = &asked.machine.vm;
    let history = history(key)?;
    Ok(match history.open() {
        Some(open) => format!(
            "{}. What was sent may still take effect: `supple observe` shows it, and `{}` goes on from there.",
            how_far(open),
            command_line(asked, &open.plan.asked)
        ),
        None => format!("between two steps; `supple why {vm}` tells what was done"),
    })
}

/// The command that asks for the same, whatever has been done of it.
fn command_line(asked: &Request, sizes: &Asked) -> String {
    let agent =
        asked.machine.agent.as_ref().map(|path| format!(" --agent {}", quoted(&path.display().to_string())));
    let (vm, agent) = (&asked.machine.vm, agent.unwrap_or_default());
    format!("supple apply {vm}{agent} {}", as_options(sizes, &asked.wanted))
}

//! `supple apply`: shows the plan, asks, carries it out and tells what came of it.

use drive::resize::{ResizeError, resize};
use scale::limits::Limits;
use scale::plan::Asked;
use scale::report::{Report, Verdict};
use std::io::IsTerminal;

use crate::args::Resize;
use crate::failure::{DONE, Failure, PARTIAL};
use crate::progress::{Consent, Sofar, Talk, Voice};
use crate::show::{as_options, how_far};
use crate::target::{block_on, history, journal, open};
use crate::{screen, show, wire};

/// Carries the command out; its exit status.
pub(crate) fn run(asked: &Resize, yes: bool) -> Result<u8, Failure> {
    let json = asked.machine.output.json;
    let consent = match (yes, screen::can_ask() && !json) {
        (true, _) => Consent::Given,
        (false, true) => Consent::Ask,
        (false, false) => Consent::Nobody,
    };
    let report = block_on(carry_out(asked, consent))?;
    if json {
        screen::say(&wire::Document::Report((&report).into()).render());
    } else {
        let room = screen::columns();
        screen::say(&show::report::report(&report, room));
        let command = command_line(asked, report.asked);
        screen::say(&show::report::again(&report, &command, room).unwrap_or_default());
    }
    Ok(if report.verdict == Verdict::Proven { DONE } else { PARTIAL })
}

async fn carry_out(asked: &Resize, consent: Consent) -> Result<Report, Failure> {
    let limits = Limits::default();
    let vm = &asked.machine.vm;
    let mut driver = open(&asked.machine, &limits).await?;
    let mut journal = journal(vm)?;
    let voice = match (asked.machine.output.json, std::io::stderr().is_terminal() && screen::is_terminal()) {
        (true, _) => Voice::Silent,
        (false, true) => Voice::Bar,
        (false, false) => Voice::Lines,
    };
    let sofar = Sofar::default();
    let mut talk = Talk::new(vm.to_string(), voice, consent, &sofar);
    let ended = tokio::select! {
        ended = resize(&mut driver, &mut journal, asked.wanted(), &limits, &mut talk) => Some(ended),
        () = stopped(&sofar) => None,
    };
    talk.end();
    match ended {
        Some(Ok(report)) => Ok(report),
        Some(Err(ResizeError::Declined)) if consent == Consent::Nobody => Err(Failure::NobodyToAsk),
        Some(Err(error)) => Err(Failure::of_resize(error, sofar.began.get())),
        None => Err(Failure::Interrupted(where_it_stopped(asked)?)),
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

fn where_it_stopped(asked: &Resize) -> Result<String, Failure> {
    let vm = &asked.machine.vm;
    let history = history(vm)?;
    Ok(match history.open() {
        Some(open) => format!(
            "{}. What was sent may still take effect: `supple observe` shows it, and `{}` goes on from there.",
            how_far(open),
            command_line(asked, open.plan.asked)
        ),
        None => format!("between two steps; `supple why {vm}` tells what was done"),
    })
}

/// The command that asks for the same, whatever has been done of it.
fn command_line(asked: &Resize, sizes: Asked) -> String {
    let agent = asked.machine.agent.as_ref().map(|path| format!(" --agent {}", path.display()));
    let (vm, agent) = (&asked.machine.vm, agent.unwrap_or_default());
    format!("supple apply {vm}{agent} {}", as_options(sizes, &asked.wanted()))
}

//! `supple guest`: prepares a guest so that it puts new memory and vCPUs to use by itself.

use drive::guest::Agent;
use drive::guest::setup::{Installed, UDEV_PATH, UDEV_RULES, by_hand, install_udev_rule, without_udev};
use scale::limits::Limits;
use std::path::Path;
use std::time::Duration;

use crate::address::{Address, Domain};
use crate::args::{Machine, Output};
use crate::failure::{DONE, Failure, PARTIAL, UNCHANGED};
use crate::paint::{GOOD, WARN, paint};
use crate::show::paragraph;
use crate::target::{block_on, without_agent};
use crate::words::clean;
use crate::{screen, wire};

/// Prints the rule; its exit status.
pub(crate) fn udev_rule(output: &Output) -> Result<u8, Failure> {
    if output.json {
        let rule = wire::guest::UdevRule { path: UDEV_PATH, text: UDEV_RULES.to_owned() };
        screen::say(&wire::Document::UdevRule(rule).render());
    } else {
        screen::say(UDEV_RULES);
    }
    Ok(DONE)
}

/// How a setup ended.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    status: u8,
    what: String,
    by_hand: String,
}

/// Installs the rule through the guest's agent; the exit status.
pub(crate) fn setup(machine: &Machine) -> Result<u8, Failure> {
    let ended = match (&machine.vm, &machine.agent) {
        (Address::Libvirt(domain), agent) => {
            without_agent(agent.as_deref())?;
            block_on(of_libvirt(domain))?
        }
        (Address::Qmp(_), Some(agent)) => block_on(over_socket(agent)),
        (Address::Qmp(_), None) => not_tried("no guest agent is named: add --agent PATH".to_owned()),
    };
    if machine.output.json {
        screen::say(&wire::Document::Setup(document(&ended)).render());
    } else {
        screen::say(&text(&ended, screen::columns()));
    }
    Ok(ended.status)
}

fn limit() -> Duration {
    Duration::from_millis(Limits::default().agent.as_millis())
}

async fn over_socket(agent: &Path) -> Ended {
    match Agent::connect(agent, limit()).await {
        Ok(agent) => install(agent).await,
        Err(error) => not_tried(error.to_string()),
    }
}

#[cfg(feature = "libvirt")]
async fn of_libvirt(domain: &Domain) -> Result<Ended, Failure> {
    let kept = crate::kept::find(domain, &Limits::default()).await?;
    let state = kept.state().await?;
    let name = kept.name();
    if !state.is_there() {
        return Ok(not_tried(format!("{name} does not run ({state})")));
    }
    let description = kept.described(drive::libvirt::Xml::Live).await?;
    let agent = drive::domxml::Domain::parse(&description).ok().and_then(|described| described.agent);
    let why = match agent {
        None => "has no channel for a guest agent; `supple prepare` gives it one from its next start on",
        Some(channel) if channel.connected == Some(false) => {
            "has no guest agent: install and start qemu-guest-agent in the guest"
        }
        Some(_) => return Ok(install(kept.agent()).await),
    };
    Ok(not_tried(format!("{name} {why}")))
}

#[cfg(not(feature = "libvirt"))]
async fn of_libvirt(_: &Domain) -> Result<Ended, Failure> {
    Err(Failure::no_libvirt())
}

async fn install(mut agent: Agent) -> Ended {
    let limit = limit();
    if let Some(system) = without_udev(&mut agent, limit).await {
        let what = format!("{system} has no udev, and no need of a rule");
        return Ended { status: UNCHANGED, what, by_hand: String::new() };
    }
    let done = |what: String, by_hand: &str| Ended { status: DONE, what, by_hand: by_hand.to_owned() };
    match install_udev_rule(&mut agent, limit).await {
        Ok(Installed::Loaded) => {
            done(format!("{UDEV_PATH} is in place in the guest and udev has read it"), "")
        }
        Ok(Installed::Written(why)) => done(
            format!(
                "{UDEV_PATH} is in place in the guest; udev was not told ({why}), and reads it at its next event"
            ),
            "",
        ),
        Err(error) => Ended { status: PARTIAL, what: error.to_string(), by_hand: error.by_hand },
    }
}

fn not_tried(why: String) -> Ended {
    Ended { status: UNCHANGED, what: why, by_hand: by_hand() }
}

fn text(ended: &Ended, room: usize) -> String {
    if ended.status == DONE {
        return paragraph("done: ", &ended.what, room).replacen("done", &paint(GOOD, "done"), 1);
    }
    let mut out =
        paragraph("not done: ", &ended.what, room).replacen("not done", &paint(WARN, "not done"), 1);
    if ended.by_hand.is_empty() {
        return out;
    }
    out.push_str("\nBy hand, in a root shell in the guest:\n\n");
    // Printed as it is, to be copied.
    out.push_str(&ended.by_hand);
    out
}

fn document(ended: &Ended) -> wire::guest::Setup {
    wire::guest::Setup {
        installed: ended.status == DONE,
        path: UDEV_PATH,
        what: clean(&ended.what),
        by_hand: ended.by_hand.lines().map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_done_is_told_line_by_line() {
        let ended = not_tried("no guest agent is named".to_owned());
        let shown = crate::example::text(&text(&ended, 80));
        assert!(shown.starts_with("not done: no guest agent is named\n"), "{shown}");
        assert!(shown.ends_with(&by_hand()), "{shown}");
        assert!(document(&ended).by_hand.iter().any(|line| line.contains("udevadm control")));
        assert_eq!(ended.status, 2);
    }
}

//! `supple observe`: what QEMU says, what the guest says, where they differ. Changes nothing.

use drive::resize::observe;
use jiff::tz::TimeZone;
use scale::limits::Limits;

use crate::address::Address;
use crate::args::Machine;
use crate::failure::{DONE, Failure};
use crate::show::observed::observed;
use crate::show::report::{Reader, open_run};
use crate::target::{block_on, history, open};
use crate::{screen, wire};

/// Carries the command out; its exit status.
pub(crate) fn run(machine: &Machine) -> Result<u8, Failure> {
    let limits = Limits::default();
    let (seen, history) = block_on(async {
        let mut reached = open(machine, None, false, &limits).await?;
        let history = history(&reached.key)?;
        Ok::<_, Failure>((observe(&mut reached.driver, &history).await?, history))
    })?;
    if machine.output.json {
        let seen = wire::observed::Observed::of(&seen, history.open(), None);
        screen::say(&wire::Document::Observed(Box::new(seen)).render());
        return Ok(DONE);
    }
    let room = screen::columns();
    let address = machine.vm.to_string();
    let mut text = observed(&seen, &address, room);
    if machine.agent.is_none() && matches!(machine.vm, Address::Qmp(_)) {
        text.push_str("Name the guest agent's socket with --agent PATH, and the guest itself is asked.\n");
    }
    #[cfg(feature = "libvirt")]
    text.push_str(&next_start(&machine.vm, room, &limits));
    let reader = Reader { now: seen.at, zone: TimeZone::system(), room };
    if let Some(open) = open_run(&history, &address, None, &reader) {
        text.push('\n');
        text.push_str(&open);
    }
    screen::say(&text);
    Ok(DONE)
}

/// How the definition of a machine of libvirt's differs from what runs, if it does. That it cannot be told is said as well.
#[cfg(feature = "libvirt")]
fn next_start(vm: &Address, room: usize, limits: &Limits) -> String {
    let Address::Libvirt(domain) = vm else { return String::new() };
    let apart = block_on(async { Ok::<_, Failure>(crate::kept::find(domain, limits).await?.apart().await) });
    match apart {
        Ok(Ok(Some(apart))) => crate::show::reconcile::observed(&vm.to_string(), &apart, room),
        Ok(Ok(None)) => String::new(),
        Ok(Err(error)) => crate::show::paragraph("definition not known: ", &error.to_string(), room),
        Err(error) => crate::show::paragraph("definition not known: ", &error.to_string(), room),
    }
}

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
    let (seen, history, definition) = block_on(async {
        let mut reached = open(machine, None, &limits).await?;
        let history = history(&reached.key)?;
        let seen = observe(&mut reached.driver, &history).await?;
        Ok::<_, Failure>((seen, history, definition::of(&reached).await))
    })?;
    if machine.output.json {
        let seen = wire::observed::Observed {
            definition: definition.document(),
            ..wire::observed::Observed::of(&seen, history.open(), None)
        };
        screen::say(&wire::Document::Observed(Box::new(seen)).render());
        return Ok(DONE);
    }
    let room = screen::columns();
    let address = machine.vm.to_string();
    let mut text = observed(&seen, &address, room);
    if machine.agent.is_none() && matches!(machine.vm, Address::Qmp(_)) {
        text.push_str("Name the guest agent's socket with --agent PATH, and the guest itself is asked.\n");
    }
    text.push_str(&definition.text(&address, room));
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
mod definition {
    use drive::libvirt::{Apart, ApartError};

    use crate::show::{paragraph, reconcile};
    use crate::target::Reached;
    use crate::wire::observed::Definition;

    pub(super) struct Known(Result<Option<Apart>, ApartError>);

    pub(super) async fn of(reached: &Reached) -> Known {
        Known(match &reached.kept {
            Some(kept) => kept.apart().await,
            None => Ok(None),
        })
    }

    impl Known {
        pub(super) fn text(&self, vm: &str, room: usize) -> String {
            match &self.0 {
                Ok(Some(apart)) => reconcile::observed(vm, apart, room),
                Ok(None) => String::new(),
                Err(error) => paragraph("definition not known: ", &error.to_string(), room),
            }
        }

        pub(super) fn document(&self) -> Option<Definition> {
            self.0.as_ref().ok().and_then(Option::as_ref).map(Definition::from)
        }
    }
}

/// There is none without libvirt.
#[cfg(not(feature = "libvirt"))]
mod definition {
    use crate::target::Reached;
    use crate::wire::observed::Definition;

    pub(super) struct Known;

    pub(super) async fn of(_: &Reached) -> Known {
        Known
    }

    impl Known {
        pub(super) fn text(&self, _: &str, _: usize) -> String {
            String::new()
        }

        pub(super) fn document(&self) -> Option<Definition> {
            None
        }
    }
}

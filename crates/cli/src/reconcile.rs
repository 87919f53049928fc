//! `supple reconcile`: where the guest, the running machine and its definition have come apart, each is made to follow:
//! the guest puts to use what the machine has, and the definition becomes what runs. Sizes stay as they are.

use drive::resize::observe;
use scale::limits::Limits;
use scale::plan::Sizes;
use scale::units::Change;
use scale::wanted::Wanted;

use crate::apply;
use crate::args::{Machine, Request};
use crate::failure::{DONE, Failure, PARTIAL};
use crate::progress::Consent;
use crate::target::{block_on, history, open};
use crate::{screen, wire};

/// Carries the command out; its exit status.
pub(crate) fn run(machine: Machine, yes: bool) -> Result<u8, Failure> {
    let json = machine.output.json;
    let consent = Consent::of(yes, json);
    block_on(async {
        let wanted = present(&machine).await?;
        let definition = definition::mend(&machine, consent).await?;
        let asked = Request { machine, wanted };
        let ended = apply::carry_out(&asked, consent, false).await?;
        if json {
            let reconciled = wire::reconcile::Reconciled {
                definition: definition.as_ref().map(definition::Mended::document),
                report: ended.document(),
            };
            screen::say(&wire::Document::Reconciled(Box::new(reconciled)).render());
        } else {
            screen::say(&ended.text(&asked, screen::columns()));
        }
        let whole = definition.is_none_or(|definition| definition.is_whole());
        Ok(if whole && ended.status() == DONE { DONE } else { PARTIAL })
    })
}

/// The sizes that the machine has, as a wish: what a guest does not use of them yet is brought into use.
async fn present(machine: &Machine) -> Result<Wanted, Failure> {
    let mut reached = open(machine, None, &Limits::default()).await?;
    let seen = observe(&mut reached.driver, &history(&reached.key)?).await?;
    let sizes = Sizes::of(&seen);
    Ok(Wanted {
        memory: Some(Change::To(sizes.memory)),
        vcpus: Some(Change::To(sizes.vcpus)),
        ..Wanted::default()
    })
}

#[cfg(feature = "libvirt")]
mod definition {
    use drive::libvirt::Apart;
    use scale::limits::Limits;

    use crate::address::{Address, uuid_key};
    use crate::args::Machine;
    use crate::failure::Failure;
    use crate::progress::Consent;
    use crate::show::reconcile::{apart, outcome};
    use crate::target::journal;
    use crate::{kept, screen, wire};

    /// What became of a definition.
    pub(crate) struct Mended {
        apart: Apart,
        /// For each difference that could be mended: nothing, or why it was not.
        failed: Vec<Option<String>>,
    }

    impl Mended {
        /// True where nothing is left that a person must do.
        pub(crate) fn is_whole(&self) -> bool {
            self.apart.by_hand.is_empty() && self.failed.iter().all(Option::is_none)
        }

        pub(crate) fn document(&self) -> wire::reconcile::Definition {
            let mends = self.apart.mends.iter().zip(&self.failed);
            wire::reconcile::Definition {
                mended: mends
                    .map(|(mend, failed)| wire::reconcile::Mended {
                        what: mend.drift.to_string(),
                        mend: mend.what(),
                        why_not: failed.clone(),
                    })
                    .collect(),
                waits: self.apart.waits.iter().map(ToString::to_string).collect(),
                by_hand: self.apart.by_hand.iter().map(|(drift, why)| format!("{drift}; {why}")).collect(),
            }
        }
    }

    /// Makes the definition follow; nothing where the machine has none that is known.
    pub(crate) async fn mend(machine: &Machine, consent: Consent) -> Result<Option<Mended>, Failure> {
        let Address::Libvirt(domain) = &machine.vm else { return Ok(None) };
        let kept = kept::find(domain, &Limits::default()).await?;
        let Some(found) = kept.apart().await.map_err(unknown)? else { return Ok(None) };
        let room = screen::columns();
        if !machine.output.json {
            screen::say(&apart(&kept.name(), &found, room));
        }
        let mut failed = Vec::new();
        if !found.mends.is_empty() {
            match consent {
                Consent::Given => {}
                Consent::Nobody => return Err(Failure::NobodyToAsk),
                Consent::Ask if screen::ask("Mend the definition? [y/N] ") => {}
                Consent::Ask => return Err(Failure::Declined),
            }
            // A resize edits the definition too.
            let _lock = journal(&uuid_key(&kept.uuid()))?;
            for mend in &found.mends {
                let why = kept.mend(mend).await.err().map(|error| error.to_string());
                if !machine.output.json {
                    screen::say(&outcome(mend, why.as_deref(), room));
                }
                failed.push(why);
            }
        }
        Ok(Some(Mended { apart: found, failed }))
    }

    fn unknown(error: drive::libvirt::ApartError) -> Failure {
        Failure::Broke { kind: "unreachable", message: error.to_string(), began: false }
    }
}

#[cfg(not(feature = "libvirt"))]
mod definition {
    use crate::args::Machine;
    use crate::failure::Failure;
    use crate::progress::Consent;
    use crate::wire;

    /// What became of a definition: there is none without libvirt.
    pub(crate) enum Mended {}

    impl Mended {
        pub(crate) fn is_whole(&self) -> bool {
            match *self {}
        }

        pub(crate) fn document(&self) -> wire::reconcile::Definition {
            match *self {}
        }
    }

    /// Nothing.
    pub(crate) async fn mend(_: &Machine, _: Consent) -> Result<Option<Mended>, Failure> {
        Ok(None)
    }
}

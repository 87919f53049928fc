//! `supple plan`: what a resize would do, or what stands in its way. Changes nothing.

use drive::resize::observe_for;
use scale::limits::Limits;
use scale::plan::plan;

use crate::args::Request;
use crate::failure::{DONE, Failure};
use crate::show::plan::{Purpose, plan as show};
use crate::target::{block_on, history, open};
use crate::{screen, wire};

/// Carries the command out; its exit status.
pub(crate) fn run(Request { machine, wanted }: &Request) -> Result<u8, Failure> {
    let limits = Limits::default();
    let (seen, definition) = block_on(async {
        let mut reached = open(machine, Some(wanted), &limits).await?;
        let history = history(&reached.key)?;
        Ok::<_, Failure>((
            observe_for(&mut reached.driver, &history, wanted).await?,
            reached.driver.definition(),
        ))
    })?;
    let plan = plan(&seen, wanted, &limits).map_err(Failure::Refused)?;
    if machine.output.json {
        screen::say(&wire::Document::Plan((&plan).into()).render());
    } else {
        let address = machine.vm.to_string();
        screen::say(&show(&plan, &seen.machine, &address, Purpose::Look(definition), screen::columns()));
    }
    Ok(DONE)
}

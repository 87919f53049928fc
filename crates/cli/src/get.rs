//! `supple get`: what a machine is, as the file that `plan -f` and `apply -f` read. Changes nothing.

use drive::resize::observe;
use scale::limits::Limits;

use crate::args::Machine;
use crate::failure::{DONE, Failure};
use crate::file::{File, Format};
use crate::screen;
use crate::target::{block_on, history, open};

/// Carries the command out; its exit status.
pub(crate) fn run(machine: &Machine, format: Format) -> Result<u8, Failure> {
    let limits = Limits::default();
    let seen = block_on(async {
        let mut reached = open(machine, None, &limits).await?;
        let history = history(&reached.key)?;
        Ok::<_, Failure>(observe(&mut reached.driver, &history).await?)
    })?;
    let file = File::of(&seen, Some(machine.vm.to_string()), machine.agent.clone());
    screen::say(&file.write(format));
    Ok(DONE)
}

//! Machines of libvirt's for the commands: found where the user means, driven, or said why not.

use drive::domxml;
use drive::libvirt::{Kept, LibvirtMachine, OpenError, Xml};
use scale::limits::Limits;
use scale::wanted::{Scope, Wanted};

use crate::address::{Address, Domain, quoted};
use crate::connect;
use crate::failure::Failure;
use crate::shut_off::{Asleep, refusal};

/// Finds the machine at the libvirt that is named, or at the one that is meant where none is.
pub(crate) async fn find(domain: &Domain, limits: &Limits) -> Result<Kept, Failure> {
    let find = async |uri: &str| Kept::find(uri, &domain.name, limits).await;
    Ok(connect::reach(domain.uri.as_deref(), find).await?)
}

/// Drives the machine. One that does not run is a refusal of what is wanted, with what would apply at its next start.
pub(crate) async fn drive(
    kept: &Kept,
    vm: &Address,
    wanted: Option<&Wanted>,
    limits: &Limits,
) -> Result<LibvirtMachine, Failure> {
    let scope = wanted.map_or(Scope::ALL, Wanted::scope);
    let error = match LibvirtMachine::attending(kept, scope, limits).await {
        Ok(machine) => return Ok(machine),
        Err(error) => error,
    };
    let OpenError::NotRunning { state, .. } = &error else { return Err(error.into()) };
    let next = kept.described(Xml::Inactive).await.ok();
    let Some(next) = next.and_then(|xml| domxml::Domain::parse(&xml).ok()) else { return Err(error.into()) };
    let asleep = Asleep {
        vm: vm.to_string(),
        name: &next.name,
        state: state.to_string(),
        virsh: format!("virsh -c {}", quoted(kept.uri())),
        next: &next,
    };
    Err(match wanted {
        Some(wanted) => Failure::Refused(refusal(&asleep, wanted)),
        None => Failure::Broke { kind: "not-running", message: asleep.text(), began: false },
    })
}

//! `supple doctor`: what works on this host, or what one machine can do and what is missing. Changes nothing.

use drive::doctor::{find_qemu, gather_host};
use drive::qmp::QmpMachine;
use scale::doctor::host::{HostFacts, LibvirtFacts};
use scale::doctor::vm::{Called, Running, VmFacts};
use scale::doctor::{host, is_ready, vm};
use scale::limits::Limits;
use std::path::Path;

use crate::address::{Address, Domain, quoted, socket_key};
use crate::args::doctor::Doctor;
use crate::failure::{DONE, Failure, PARTIAL};
use crate::target::{block_on, history, refuse_while_held, without_agent};
use crate::{screen, show, wire};

/// Nothing is in the way.
const READY: u8 = DONE;
/// Something is missing, or dangerous.
const NOT_READY: u8 = PARTIAL;

/// Carries the command out; its exit status. `connect` is the libvirt that was named.
pub(crate) fn run(asked: &Doctor, connect: Option<&str>) -> Result<u8, Failure> {
    if asked.guests {
        return Ok(guests(asked.output.json));
    }
    match &asked.vm {
        None => {
            let facts = block_on(this_host(asked.qemu.as_deref(), connect))?;
            Ok(of_host(&facts, asked.output.json))
        }
        Some(address) => {
            let facts = block_on(machine(address, asked.agent.as_deref()))?;
            Ok(of_machine(&facts, asked.output.json))
        }
    }
}

fn guests(json: bool) -> u8 {
    if json {
        screen::say(&wire::Document::Guests(wire::doctor::Guests::all()).render());
    } else {
        screen::say(&show::guests::guests(screen::columns()));
    }
    DONE
}

async fn this_host(qemu: Option<&Path>, connect: Option<&str>) -> Result<HostFacts, Failure> {
    let arch = std::env::consts::ARCH;
    let path = std::env::var("PATH").ok();
    let qemu = match qemu {
        Some(path) => Ok(path.to_owned()),
        None => find_qemu(path.as_deref(), arch),
    };
    let libvirt = libvirt(connect, arch).await;
    Ok(gather_host(qemu, libvirt).await)
}

#[cfg(feature = "libvirt")]
async fn libvirt(connect: Option<&str>, arch: &str) -> LibvirtFacts {
    let mut uris = crate::connect::candidates(connect).into_iter();
    let first = uris.next().expect("there is always a URI");
    let answer = drive::doctor::ask_libvirt(&first, arch).await;
    match (&answer, uris.next()) {
        // The user's own, where the host's does not let him in.
        (LibvirtFacts::Silent { .. }, Some(second)) => {
            match drive::doctor::ask_libvirt(&second, arch).await {
                own @ LibvirtFacts::Answers(_) => own,
                LibvirtFacts::NotBuilt | LibvirtFacts::NoLibrary(_) | LibvirtFacts::Silent { .. } => answer,
            }
        }
        _decided => answer,
    }
}

#[cfg(not(feature = "libvirt"))]
async fn libvirt(_: Option<&str>, _: &str) -> LibvirtFacts {
    LibvirtFacts::NotBuilt
}

fn of_host(facts: &HostFacts, json: bool) -> u8 {
    let found = host(facts);
    if json {
        screen::say(&wire::Document::Doctor(wire::doctor::Doctor::of_host(&found)).render());
    } else {
        screen::say(&show::doctor::of_host(&facts.system.name, &found, screen::columns()));
    }
    if is_ready(&found) { READY } else { NOT_READY }
}

async fn machine(address: &Address, agent: Option<&Path>) -> Result<VmFacts, Failure> {
    match address {
        Address::Qmp(socket) => on_qmp(address, socket, agent).await,
        Address::Libvirt(domain) => {
            without_agent(agent)?;
            of_libvirt(address, domain).await
        }
    }
}

async fn on_qmp(address: &Address, socket: &Path, agent: Option<&Path>) -> Result<VmFacts, Failure> {
    let limits = Limits::default();
    let key = socket_key(socket);
    refuse_while_held(&key)?;
    let mut driver = QmpMachine::open(socket, agent, &limits).await?;
    let running = with_history(driver.examined().await?, &key)?;
    let called = Called {
        vm: address.to_string(),
        agent: agent.map(|path| quoted(&path.display().to_string())),
        domain: None,
    };
    Ok(VmFacts { called, running: Some(running), next: None, limits })
}

/// With what is on record besides: removals that were asked and not answered, and vCPUs that were plugged.
fn with_history(running: Running, key: &str) -> Result<Running, Failure> {
    Ok(Running { seen: history(key)?.added_to(running.seen), ..running })
}

#[cfg(feature = "libvirt")]
async fn of_libvirt(address: &Address, domain: &Domain) -> Result<VmFacts, Failure> {
    use drive::doctor::shape_of;
    use drive::libvirt::{LibvirtMachine, Xml};

    let limits = Limits::default();
    let kept = crate::kept::find(domain, &limits).await?;
    let told = |what: &str, error: String| Failure::Broke {
        kind: "unreachable",
        message: format!("{what} of {address}: {error}"),
        began: false,
    };
    let described = async |which: Xml| {
        let xml = kept.described(which).await.map_err(|error| error.to_string())?;
        drive::domxml::Domain::parse(&xml).map_err(|error| error.to_string())
    };
    let state = kept.state().await.map_err(|error| told("the state", error.to_string()))?;
    let persistent = described(Xml::Inactive).await;
    let live = if state.is_there() {
        Some(described(Xml::Live).await.map_err(|error| told("the description", error))?)
    } else {
        None
    };
    let any = live.as_ref().or(persistent.as_ref().ok());
    let Some(any) = any else {
        return Err(told("the definition", persistent.err().unwrap_or_default()));
    };
    let host = kept.host_limits(any).await.unwrap_or_default();
    let mut is_persistent = true;
    let running = match &live {
        None => None,
        Some(live) => {
            let mut driver = LibvirtMachine::of(&kept, &limits).await?;
            is_persistent = driver.is_persistent();
            let running = driver.examined(live, &host).await?;
            Some(with_history(running, &crate::address::uuid_key(&kept.uuid()))?)
        }
    };
    let next = persistent.ok().filter(|_| is_persistent).map(|domain| shape_of(&domain, &host));
    let domain = Some((quoted(kept.uri()), quoted(&kept.name())));
    let called = Called { vm: address.to_string(), agent: None, domain };
    Ok(VmFacts { called, running, next, limits })
}

#[cfg(not(feature = "libvirt"))]
async fn of_libvirt(_: &Address, _: &Domain) -> Result<VmFacts, Failure> {
    Err(Failure::no_libvirt())
}

fn of_machine(facts: &VmFacts, json: bool) -> u8 {
    let found = vm(facts);
    if json {
        screen::say(&wire::Document::Doctor(wire::doctor::Doctor::of_machine(facts, &found)).render());
    } else {
        screen::say(&show::doctor::of_machine(facts, &found, screen::columns()));
    }
    if is_ready(&found) { READY } else { NOT_READY }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use crate::example;
    use clap::Parser;
    use scale::doctor::Finding;
    use scale::doctor::vm::{Channel, Shape, preparation};
    use scale::observed::Guest;

    /// Machines that lack one thing or another.
    fn machines() -> Vec<VmFacts> {
        let with = |change: fn(&mut VmFacts)| {
            let mut facts = example::examined();
            change(&mut facts);
            facts
        };
        let shaped = |change: fn(&mut Shape)| {
            let mut facts = example::examined();
            change(&mut facts.running.as_mut().unwrap().shape);
            facts
        };
        vec![
            example::examined(),
            with(|facts| facts.running.as_mut().unwrap().seen.guest = Guest::Unheard("silent".to_owned())),
            shaped(|shape| shape.channel = Channel::Absent),
            shaped(|shape| {
                (shape.ceiling, shape.slots, shape.max_vcpus) = (Some(scale::units::Bytes::gib(8)), 0, 8)
            }),
            shaped(|shape| {
                (shape.ceiling, shape.nodes, shape.outside_nodes) =
                    (Some(scale::units::Bytes::gib(8)), Some(1), 2)
            }),
            shaped(|shape| shape.raw = vec!["-foo".to_owned()]),
        ]
    }

    /// The commands of ours in what mends a finding.
    fn commands(found: &[Finding]) -> Vec<String> {
        let texts =
            found.iter().filter_map(|finding| finding.mend.as_ref()).map(|mend| mend.text().to_owned());
        texts.filter(|text| text.starts_with("supple ")).collect()
    }

    #[test]
    fn every_command_that_is_advised_is_understood() {
        let mut all = Vec::new();
        for facts in machines() {
            let found = vm(&facts);
            all.extend(commands(&found));
            all.extend(preparation(&facts, &found));
        }
        for word in
            ["prepare", "guest setup", "--virtio-mem", "--max-memory", "--max-vcpus", "--removable-vcpus"]
        {
            assert!(all.iter().any(|command| command.contains(word)), "{word} is advised nowhere: {all:#?}");
        }
        for command in all {
            if let Err(error) = Cli::try_parse_from(command.split_whitespace()) {
                panic!("{command}: {error}");
            }
        }
    }
}

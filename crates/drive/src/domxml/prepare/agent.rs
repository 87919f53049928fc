//! The guest agent's channel.

use super::{Case, Obstacle, Said};
use crate::domxml::domain::Domain;
use crate::domxml::fragment::Fragment;
use crate::domxml::machine::Board;
use crate::domxml::read::AGENT;

pub(super) fn check(case: &Case<'_>, obstacles: &mut Vec<Obstacle>) {
    if !case.want.agent_channel {
        return;
    }
    match &case.domain.agent {
        // libvirt 9.0 and 11.3, `qemuConnectAgent`.
        Some(channel) if channel.kind != "unix" => {
            obstacles.push(Obstacle::AgentChannel { kind: channel.kind.clone() });
        }
        None if case.board == Board::Isapc => {
            obstacles.push(Obstacle::FixedBoard { machine: case.machine_name() });
        }
        _ => {}
    }
}

/// The channel to add, if any. libvirt chooses the socket and adds the virtio-serial controller itself.
pub(super) fn new_device(case: &Case<'_>, said: &mut Said) -> Option<Fragment> {
    if !case.want.agent_channel || case.domain.agent.is_some() {
        return None;
    }
    said.changes.push(
        "A channel for the guest agent: through it Supple sees what the guest made of a change, and brings new memory \
         and vCPUs online."
            .to_owned(),
    );
    let target = Fragment::empty("target").with("type", "virtio").with("name", AGENT);
    Some(Fragment::holding("channel", vec![target]).with("type", "unix"))
}

pub(super) fn is_in(domain: &Domain, case: &Case<'_>) -> bool {
    !case.want.agent_channel || domain.agent.is_some()
}

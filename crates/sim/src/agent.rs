//! The guest's agent: whether it can be asked, what it does, and what it says, true or not.

use crate::clock::{Happening, pace};
use crate::mood::{Lie, Mood};
use crate::world::World;
use drive::ApplyError;
use scale::observed::{GuestVcpu, MemBlock};
use scale::plan::{Act, Zone};
use scale::sight::GuestView;
use scale::time::Moment;
use std::collections::BTreeSet;

/// What an agent of a Debian guest takes.
pub(crate) const COMMANDS: [&str; 12] = [
    "guest-exec",
    "guest-exec-status",
    "guest-file-close",
    "guest-file-open",
    "guest-file-read",
    "guest-file-write",
    "guest-get-memory-block-info",
    "guest-get-memory-blocks",
    "guest-get-osinfo",
    "guest-get-vcpus",
    "guest-set-memory-blocks",
    "guest-set-vcpus",
];

impl World {
    /// The commands that the agent takes now; none where there is no agent.
    pub(crate) fn agent_commands(&self) -> BTreeSet<String> {
        if self.is(&Mood::NoAgent) {
            return BTreeSet::new();
        }
        let mut commands = self.guest.commands.clone();
        for mood in self.moods() {
            if let Mood::FilteredAgent(filtered) = mood {
                commands.retain(|c| !filtered.contains(c));
            }
        }
        commands
    }

    /// Asks the agent something by this command, and waits for its answer as long as a driver does.
    pub(crate) fn ask<T>(&mut self, command: &str, answer: impl FnOnce(&World) -> T) -> GuestView<T> {
        if !self.agent_commands().contains(command) {
            return GuestView::Unasked(match self.is(&Mood::NoAgent) {
                true => "there is no agent".into(),
                false => format!("Command {command} has been disabled: the command is not allowed"),
            });
        }
        match self.silent_until() {
            Some(until) if until > self.clock.now + pace::AGENT_LIMIT => {
                self.pass(pace::AGENT_LIMIT);
                GuestView::Silent(format!("no answer in {}", pace::AGENT_LIMIT))
            }
            Some(until) => {
                self.pass(until.since(self.clock.now) + pace::AGENT);
                GuestView::Shows(answer(self))
            }
            None => {
                self.pass(pace::AGENT);
                GuestView::Shows(answer(self))
            }
        }
    }

    /// Sends an act to the agent. One that it does not answer in time it may still do later.
    pub(crate) fn send_to_agent(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        let now = self.clock.now;
        if let Some(silent) = self.silent_until().filter(|silent| *silent > until) {
            if self.guest.booting_until.is_none() {
                self.clock.after(silent.since(now), Happening::AgentActs(act.clone()));
            }
            self.pass(until.since(now));
            return Err(ApplyError::Unknown("the guest's agent did not answer".into()));
        }
        if let Some(silent) = self.silent_until() {
            self.pass(silent.since(now));
        }
        self.pass(pace::AGENT);
        self.agent_acts(act, until)
    }

    /// The agent does what it is told, thing by thing, until it is done or out of time.
    pub(crate) fn agent_acts(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        self.agent_can(act)?;
        if self.is(&Mood::Lies(Lie::Done)) {
            return Ok(());
        }
        match act {
            Act::MakeKnown { device, after } => self.make_known(device, *after, until),
            Act::OnlineBlocks { device, zone } => {
                self.await_blocks(device, until);
                let blocks = self.said_blocks(device).unwrap_or_default();
                self.each_block(&blocks, until, pace::ONLINE, |world, index| world.online_block(index, *zone))
            }
            Act::OfflineBlocks { device } => {
                let blocks = self.said_blocks(device).unwrap_or_default();
                self.each_block(&blocks, until, pace::OFFLINE, |world, index| {
                    world.empties_in_time(index, until)
                })
            }
            Act::OnlineVcpus { count } => {
                self.online_vcpus_up_to(*count as usize);
                Ok(())
            }
            Act::GrowInGuest { disk, device, layer, tool } => self.grow_layer(disk, device, layer, *tool),
            Act::CreateBackend { .. }
            | Act::DeleteBackend { .. }
            | Act::PlugDimm { .. }
            | Act::UnplugDimm { .. }
            | Act::ResizeVirtioMem { .. }
            | Act::SettleVirtioMem { .. }
            | Act::SetBalloon { .. }
            | Act::PlugVcpu { .. }
            | Act::UnplugVcpu { .. }
            | Act::AwaitOnline { .. }
            | Act::Set { .. }
            | Act::GrowDisk { .. } => unreachable!("{act} is not the agent's"),
        }
    }

    fn agent_can(&self, act: &Act) -> Result<(), ApplyError> {
        let commands = self.agent_commands();
        let by_hand = commands.contains("guest-exec") || commands.contains("guest-file-write");
        let own = if matches!(act, Act::OnlineVcpus { .. }) {
            "guest-set-vcpus"
        } else {
            "guest-set-memory-blocks"
        };
        if matches!(act, Act::MakeKnown { .. }) && !commands.contains("guest-file-write") {
            let why = "Command guest-file-write has been disabled: the command is not allowed";
            return Err(ApplyError::Refused(why.into()));
        }
        if matches!(act, Act::GrowInGuest { .. }) && !commands.contains("guest-exec") {
            let why = "Command guest-exec has been disabled: the command is not allowed";
            return Err(ApplyError::Refused(why.into()));
        }
        let movable = matches!(act, Act::OnlineBlocks { zone: Zone::Movable | Zone::PreferMovable, .. });
        if by_hand || (!movable && commands.contains(own)) {
            return Ok(());
        }
        Err(ApplyError::Refused(format!("Command {own} has been disabled: the command is not allowed")))
    }

    fn each_block(
        &mut self,
        blocks: &[MemBlock],
        until: Moment,
        each: scale::time::Span,
        mut switch: impl FnMut(&mut World, u64) -> Result<(), &'static str>,
    ) -> Result<(), ApplyError> {
        for (done, block) in blocks.iter().enumerate() {
            if self.clock.now + each > until {
                let of = blocks.len();
                return Err(ApplyError::Unknown(format!("{done} of {of} blocks were answered for in time")));
            }
            self.pass(each);
            if let Err(why) = switch(self, block.index) {
                let index = block.index;
                return Err(ApplyError::Refused(format!(
                    "memory block {index}: {why} ({done} done before it)"
                )));
            }
        }
        Ok(())
    }

    /// Takes a block offline, asked for a few times as a driver does.
    fn empties_in_time(&mut self, index: u64, until: Moment) -> Result<(), &'static str> {
        let mut pause = pace::BUSY;
        for _ in 1..pace::BUSY_TRIES {
            let answer = self.offline_block(index);
            if answer.is_ok() || self.clock.now + pause > until {
                return answer;
            }
            self.pass(pause);
            pause = pause.times(2).min(pace::BUSY_MAX);
        }
        self.offline_block(index)
    }

    /// A driver waits for blocks that the guest has yet to show, for a while.
    fn await_blocks(&mut self, device: &str, until: Moment) {
        let least = self.qemu.blocks_at_least(device, self.guest.block);
        let until = until.min(self.clock.now + pace::APPEARS);
        while self.said_blocks(device).is_some_and(|said| (said.len() as u64) < least)
            && self.clock.now < until
        {
            self.pass(pace::AGENT);
        }
    }

    fn online_vcpus_up_to(&mut self, count: usize) {
        let mut online = self.online_vcpus();
        let mut passed = 0;
        for is_online in self.guest.vcpus.values_mut() {
            if online >= count {
                break;
            }
            if !*is_online {
                *is_online = true;
                online += 1;
                passed += 1;
            }
        }
        self.pass(pace::ONLINE.times(passed));
    }

    /// The blocks of a device as the agent tells them, if QEMU has the device.
    pub(crate) fn said_blocks(&self, device: &str) -> Option<Vec<MemBlock>> {
        let range = self.qemu.blocks_of(device, self.guest.block)?;
        Some(self.said_blocks_in(range))
    }

    fn said_blocks_in(&self, range: std::ops::Range<u64>) -> Vec<MemBlock> {
        let all_online = self.is(&Mood::Lies(Lie::AllOnline));
        let said = |index: u64, online: bool| MemBlock { index, online: online || all_online };
        if self.is(&Mood::Lies(Lie::Phantoms)) {
            let truth = |index| self.guest.blocks.get(&index).is_some_and(|b| b.online);
            return range.map(|index| said(index, truth(index))).collect();
        }
        self.guest.blocks.range(range).map(|(index, b)| said(*index, b.online)).collect()
    }

    /// All blocks as the agent tells them. A lying agent adds some for every place where a device is plugged, and
    /// one that no machine has.
    pub(crate) fn said_all_blocks(&self) -> Vec<MemBlock> {
        let mut blocks = self.said_blocks_in(0..0);
        let truth = self.guest.blocks.iter();
        let all_online = self.is(&Mood::Lies(Lie::AllOnline));
        blocks.extend(truth.map(|(index, b)| MemBlock { index: *index, online: b.online || all_online }));
        if self.is(&Mood::Lies(Lie::Phantoms)) {
            for range in self.qemu.dimms.iter().filter_map(|d| self.qemu.blocks_of(&d.id, self.guest.block)) {
                blocks.extend(self.said_blocks_in(range));
            }
            blocks.push(MemBlock { index: u64::MAX, online: true });
            blocks.sort_by_key(|b| b.index);
            blocks.dedup_by_key(|b| b.index);
        }
        blocks
    }

    /// The guest's vCPUs as the agent tells them.
    pub(crate) fn said_vcpus(&self) -> Vec<GuestVcpu> {
        let vcpus = self.guest.vcpus.iter();
        vcpus.map(|(id, online)| GuestVcpu { id: *id, online: *online, can_offline: *id > 0 }).collect()
    }
}

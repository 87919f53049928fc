//! Disks: QEMU's `block_resize`, the host's pools, and what lies on them in the guest. Nothing here ever cuts: a
//! command that would is a fault of whoever sent it, and ends the world.

use crate::mood::Mood;
use crate::world::World;
use drive::ApplyError;
use scale::disk::{Tool, command};
use scale::observed::{Disk, DiskBus, Known, Layer, LayerKind, Lies, Pool};
use scale::units::Bytes;

/// How long a program that grows a layer takes.
const GROW: scale::time::Span = scale::time::Span::millis(120);

impl World {
    /// The disks as they are.
    pub fn disks(&self) -> &[Disk] {
        &self.fittings.disks
    }

    /// `block_resize`. QEMU takes a smaller size too and cuts; nobody may ask that of this world.
    pub(crate) fn resize_disk(&mut self, name: &str, from: Bytes, to: Bytes) -> Result<(), String> {
        let full = self.is(&Mood::HostFull);
        let unnoticed = self.is(&Mood::DisksUnnoticed) || self.guest.booting_until.is_some();
        let Some(disk) = self.fittings.disks.iter_mut().find(|disk| disk.name == name) else {
            return Err(format!("Device '{name}' not found"));
        };
        if disk.size != from && disk.size != to {
            return Err(format!("{name} is at {}, not at {from}: somebody else has changed it", disk.size));
        }
        assert!(to >= disk.size, "{name} was to be cut from {} to {to}", disk.size);
        if disk.read_only {
            return Err("Image is read-only".into());
        }
        if let Some(job) = disk.busy.first() {
            return Err(format!("Node '{name}' is busy: {job}"));
        }
        if let Lies::Block { size, .. } = &disk.lies
            && disk.format == "raw"
            && *size < to
        {
            return Err("Cannot grow device files".into());
        }
        let by = to - disk.size;
        if full || pool_of(&disk.lies).is_some_and(|pool| pool.free < by) {
            return Err("Failed to resize underlying file: No space left on device".into());
        }
        disk.size = to;
        let told = matches!(disk.bus, DiskBus::Virtio | DiskBus::VirtioScsi) && !unnoticed;
        if let (true, Known::Is(guest)) = (told, &mut disk.guest) {
            guest.size = to;
        }
        let lies = disk.lies.clone();
        self.draw(&lies, by);
        Ok(())
    }

    /// A program in the guest lets a layer take all that lies below it.
    pub(crate) fn grow_layer(
        &mut self,
        name: &str,
        device: &str,
        layer: &Layer,
        tool: Tool,
    ) -> Result<(), ApplyError> {
        let refused = |why: String| Err(ApplyError::Refused(why));
        if command(tool, device, layer).is_none() || !self.guest.tools.contains(&tool) {
            return refused(format!("{tool}: command not found"));
        }
        self.pass(GROW);
        if self.is(&Mood::ToolsFail) {
            return refused(format!("{tool}: Structure needs cleaning (exit status 1)"));
        }
        let disk = self.fittings.disks.iter_mut().find(|disk| disk.name == name);
        let Some(Known::Is(guest)) = disk.map(|disk| &mut disk.guest) else {
            return refused(format!("open: {device}: No such file or directory"));
        };
        let free = group_of(&layer.kind).and_then(|group| free_in(&guest.layers, group)).unwrap_or_default();
        let size = guest.size;
        match grow(&mut guest.layers, size, layer, free) {
            Some(taken) => {
                if let Some(group) = group_of(&layer.kind) {
                    give(&mut guest.layers, group, taken);
                }
                Ok(())
            }
            None => refused(format!("{tool}: {} not found", layer.device)),
        }
    }

    /// The guest looks at its disks afresh, as it does when it starts.
    pub(crate) fn look_at_disks(&mut self) {
        for disk in &mut self.fittings.disks {
            if let Known::Is(guest) = &mut disk.guest {
                guest.size = disk.size;
            }
        }
    }

    /// The disks as a driver sees them; the guest's side where its agent may run programs.
    pub(crate) fn said_disks(&self, heard: Result<(), &str>) -> Vec<Disk> {
        let exec = self.agent_commands().contains("guest-exec");
        let why = match heard {
            Ok(()) if exec => None,
            Ok(()) => Some("its agent may not run programs (guest-exec)"),
            Err(why) => Some(why),
        };
        let said = |disk: &Disk| match why {
            None => disk.clone(),
            Some(why) => Disk { guest: Known::Not(why.to_owned()), ..disk.clone() },
        };
        self.fittings.disks.iter().map(said).collect()
    }

    /// What is drawn from a pool is gone for all on it.
    fn draw(&mut self, lies: &Lies, by: Bytes) {
        let Some(name) = pool_of(lies).map(|pool| pool.name.clone()) else { return };
        for disk in &mut self.fittings.disks {
            let pool = match &mut disk.lies {
                Lies::File { filesystem: Some(pool), .. } | Lies::Block { thin: Some(pool), .. } => pool,
                Lies::File { .. } | Lies::Block { .. } | Lies::Network(_) | Lies::Unknown(_) => continue,
            };
            if pool.name == name {
                pool.free = pool.free - by;
            }
        }
    }
}

fn pool_of(lies: &Lies) -> Option<&Pool> {
    match lies {
        Lies::File { filesystem: pool, .. } | Lies::Block { thin: pool, .. } => pool.as_ref(),
        Lies::Network(_) | Lies::Unknown(_) => None,
    }
}

/// Grows the one layer that is wanted among these, which lie on `below`; what it took of a volume group, or nothing
/// where it is not here. Each keeps as much of what is below for itself as the real ones do, about.
fn grow(layers: &mut [Layer], below: Bytes, wanted: &Layer, free: Bytes) -> Option<Bytes> {
    let last = layers.len().checked_sub(1)?;
    for (nth, layer) in layers.iter_mut().enumerate() {
        if layer.name() != wanted.name() {
            if let Some(taken) = grow(&mut layer.above, layer.size, wanted, free) {
                return Some(taken);
            }
            continue;
        }
        let before = layer.size;
        let reach = match &mut layer.kind {
            // Only the last one has room behind it.
            LayerKind::Partition { start, .. } if nth == last => below - *start - Bytes::mib(1),
            LayerKind::Partition { .. } | LayerKind::Swap | LayerKind::Other(_) => layer.size,
            LayerKind::Luks => below - Bytes::mib(16),
            LayerKind::PhysicalVolume { free, .. } => {
                let reach = below - Bytes::mib(4);
                *free = *free + reach.saturating_sub(layer.size);
                reach
            }
            LayerKind::LogicalVolume { .. } => layer.size + free,
            LayerKind::Filesystem { .. } => below - below.per(32),
        };
        layer.size = layer.size.max(reach);
        return Some(layer.size - before);
    }
    None
}

fn group_of(kind: &LayerKind) -> Option<&str> {
    match kind {
        LayerKind::LogicalVolume { group, .. } => Some(group),
        LayerKind::Partition { .. }
        | LayerKind::Luks
        | LayerKind::PhysicalVolume { .. }
        | LayerKind::Filesystem { .. }
        | LayerKind::Swap
        | LayerKind::Other(_) => None,
    }
}

fn free_in(layers: &[Layer], group: &str) -> Option<Bytes> {
    layers.iter().find_map(|layer| match &layer.kind {
        LayerKind::PhysicalVolume { group: of, free } if of == group => Some(*free),
        LayerKind::Partition { .. }
        | LayerKind::Luks
        | LayerKind::PhysicalVolume { .. }
        | LayerKind::LogicalVolume { .. }
        | LayerKind::Filesystem { .. }
        | LayerKind::Swap
        | LayerKind::Other(_) => free_in(&layer.above, group),
    })
}

/// Takes from what is free in a volume group.
fn give(layers: &mut [Layer], group: &str, taken: Bytes) {
    for layer in layers {
        if let LayerKind::PhysicalVolume { group: of, free } = &mut layer.kind
            && of == group
        {
            *free = free.saturating_sub(taken);
        }
        give(&mut layer.above, group, taken);
    }
}

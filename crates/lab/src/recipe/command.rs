//! A recipe as the command line of one QEMU, and of the guest's kernel.

use std::path::Path;
use std::process::Command;

use super::{AGENT_CHARDEV, Agent, Board, Onlining, Parts, Recipe, VirtioMem, disk, place};
use crate::accel::{Accel, emulated_clocks};

/// Nothing leaves the guest but answers to its service; QEMU picks the port on the host's side.
pub(super) const USER_NET: &str = "user,id=labnet,restrict=on,hostfwd=tcp:127.0.0.1:0-10.0.2.15:80";

impl Recipe {
    /// The parts' arguments: the whole command line of one QEMU whose sockets and logs lie in `dir`.
    pub(crate) fn command(&self, parts: &Parts, dir: &Path) -> Command {
        let mut qemu = parts.qemu.command();
        let at = |name: &str| dir.join(name).display().to_string();
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-name", "lab"]);
        let (accel, name) = match self.emulated {
            None => (parts.accel, parts.accel.name()),
            Some(threads) => (Accel::Tcg, threads.argument()),
        };
        qemu.args(["-machine", self.board.name(), "-cpu", accel.cpu(), "-accel", name]);
        self.size(&mut qemu);
        if self.system {
            qemu.arg("-kernel").arg(parts.image.kernel());
            qemu.arg("-initrd").arg(parts.image.initrd(self.variant()));
            qemu.arg("-append").arg(self.kernel_line(accel));
        }

        for (id, socket) in [("qmp", place::QMP), ("lab", place::LAB_QMP)] {
            qemu.arg("-chardev").arg(socket_chardev(id, &at(socket)));
            qemu.args(["-mon", &format!("chardev={id},mode=control")]);
        }
        qemu.arg("-chardev").arg(format!("file,id=console,path={}", at(place::CONSOLE)));
        qemu.args(["-serial", "chardev:console", "-device", "virtio-serial-pci"]);
        let ports = [
            (AGENT_CHARDEV, place::AGENT, "org.qemu.guest_agent.0"),
            ("witness", place::WITNESS, "org.supple.lab"),
        ];
        for (id, socket, port) in ports {
            qemu.arg("-chardev").arg(socket_chardev(id, &at(socket)));
            qemu.arg("-device").arg(format!("virtserialport,chardev={id},name={port}"));
        }
        qemu.args(["-netdev", USER_NET, "-device", "virtio-net-pci,netdev=labnet,romfile="]);
        if let Some(mac) = &self.tap {
            qemu.args(["-netdev", "tap,id=tapnet,ifname=tap0,script=no,downscript=no"]);
            qemu.arg("-device").arg(format!("virtio-net-pci,netdev=tapnet,mac={mac},romfile="));
        }
        if self.balloon {
            qemu.args(["-device", "virtio-balloon-pci,id=balloon0"]);
        }
        disk::arguments(&self.disks, dir, &mut qemu);
        if let Some(VirtioMem { max, node }) = self.virtio_mem {
            qemu.arg("-object")
                .arg(format!("memory-backend-ram,id=vmembackend0,size={},reserve=off", max.get()));
            qemu.arg("-device").arg(format!("virtio-mem-pci,id=vmem0,memdev=vmembackend0,node={node}"));
        }
        qemu
    }

    fn size(&self, qemu: &mut Command) {
        let mut memory = format!("size={}B", self.memory.get());
        if self.max_memory > self.memory {
            memory.push_str(&format!(",maxmem={}B", self.max_memory.get()));
            if self.slots > 0 {
                memory.push_str(&format!(",slots={}", self.slots));
            }
        }
        qemu.args(["-m", &memory]);
        let (boot, max, nodes) = (self.vcpus, self.max_vcpus, u16::from(self.numa_nodes));
        let cores = max / nodes;
        qemu.args(["-smp", &format!("{boot},maxcpus={max},sockets={nodes},cores={cores},threads=1")]);
        if self.numa_nodes > 1 {
            let share = self.memory.get() / u64::from(self.numa_nodes);
            for node in 0..nodes {
                let (first, last) = (node * cores, (node + 1) * cores - 1);
                let huge = self.huge_node.is_some_and(|huge| u16::from(huge) == node);
                let kind = match huge {
                    true => {
                        "memory-backend-memfd,hugetlb=on,hugetlbsize=2M,prealloc=on,host-nodes=0,policy=bind"
                    }
                    false => "memory-backend-ram",
                };
                qemu.arg("-object").arg(format!("{kind},id=ram{node},size={share}"));
                qemu.arg("-numa").arg(format!("node,nodeid={node},memdev=ram{node},cpus={first}-{last}"));
            }
        }
    }

    /// The kernel's command line.
    pub(super) fn kernel_line(&self, accel: Accel) -> String {
        let clocks = match accel {
            Accel::Kvm => String::new(),
            Accel::Tcg => emulated_clocks(),
        };
        let mut words = vec!["console=ttyS0", "loglevel=5", &clocks];
        match self.onlining {
            Onlining::Nobody => {}
            Onlining::Udev => words.push("lab_udev=1"),
            Onlining::Kernel => words.push("memhp_default_state=online"),
            Onlining::KernelMovable => words.push("memhp_default_state=online_movable"),
        }
        let mut line = words.join(" ");
        match &self.agent {
            Agent::Full => {}
            Agent::Absent => line.push_str(" lab_agent=0"),
            Agent::Blocking(calls) => line.push_str(&format!(" lab_block_rpcs={}", calls.join(","))),
        }
        for param in &self.kernel_params {
            line.push_str(&format!(" {param}"));
        }
        line
    }
}

impl Board {
    pub(super) fn name(self) -> &'static str {
        match self {
            Board::Q35 => "q35",
            Board::I440fx => "pc",
        }
    }
}

fn socket_chardev(id: &str, path: &str) -> String {
    format!("socket,id={id},path={path},server=on,wait=off")
}

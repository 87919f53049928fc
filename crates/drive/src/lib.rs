//! How Supple reaches a machine: QEMU over QMP, the guest through its agent, the host.

//! The wire clients against peers scripted by hand, on real Unix sockets. No QEMU is needed.

mod agent;
mod peer;
mod qmp;

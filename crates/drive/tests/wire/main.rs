//! The wire clients against peers scripted by hand, on real Unix sockets. No QEMU is needed.
//!
//! The clock is paused, so a time-out costs no time and cannot come too early: it moves only when neither side has
//! anything left to do.

mod agent;
mod framing;
mod inside;
mod monitor;
mod peer;

//! The QMP driver against a QEMU and a guest agent that are played from recorded and made-up replies: what it makes of
//! them, what it sends, and what it does with nonsense. Real guests are in the lab.

mod acts;
mod doctor;
mod fake;
mod guest;
mod known;
mod news;
mod nics;
mod observed;
mod zones;

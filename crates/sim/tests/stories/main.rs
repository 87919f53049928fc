//! Whole resizes against a world in memory: controllers that die at every step, guests that are difficult in every
//! way, connections that fail. What must hold at the end is always the same, and stands in [`harness`].

mod chance;
mod closing;
mod deaths;
mod difficult;
mod harness;
mod known;
mod limits;
mod lives;
mod stale;
mod willing;
mod zones;

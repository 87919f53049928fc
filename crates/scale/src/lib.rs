//! What Supple knows and decides: sizes, observations, plans, audits and runs.
//!
//! This crate is pure. It opens nothing, asks no clock and spawns no task: time, load and chance are arguments,
//! and every answer is a value that carries its reason. `drive` does what this crate decides.
//!
//! The order to read it in is the life of one resize: [`wanted`], [`observed`], [`plan`], [`audit`],
//! [`run`], [`history`], [`report`]. What stands in the way of all that, and what
//! mends it, is judged by [`doctor`]; what a guest's system can do at all is data: [`guests`].

pub mod audit;
pub mod disk;
pub mod doctor;
pub mod generations;
pub mod guests;
pub mod history;
pub mod limits;
pub mod observed;
pub mod plan;
pub mod report;
pub mod run;
pub mod setting;
pub mod sight;
pub mod time;
pub mod units;
pub mod wanted;
pub mod words;

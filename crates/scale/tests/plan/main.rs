//! What the planner decides, case by case.

mod choices;
mod disks;
mod escort;
mod furniture;
mod known;
mod limits;
mod machine;
mod model;
mod numa;
mod properties;
mod refusals;
mod steps;
mod together;
mod windows;

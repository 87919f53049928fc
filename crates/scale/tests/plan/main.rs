//! What the planner decides, case by case.

mod choices;
mod known;
mod machine;
mod model;
mod properties;
mod refusals;
mod steps;

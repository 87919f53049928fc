//! What the planner decides, case by case.

mod machine;
mod model;
mod properties;
mod steps;

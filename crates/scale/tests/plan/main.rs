//! What the planner decides, case by case.

mod machine;
mod steps;

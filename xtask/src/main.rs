//! The project's chores: demo, test, bench, check.

fn main() {}

//! The program users run.

fn main() {}

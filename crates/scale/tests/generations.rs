//! The page of facts and the table of differences say the same.

#![allow(clippy::disallowed_methods, reason = "this test reads the page; it is not the core")]

use std::fs;

use scale::generations::DIFFERENCES;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/qemu.md");

#[test]
fn each_difference_that_is_acted_on_is_a_row_of_the_page() {
    let page = fs::read_to_string(PAGE).unwrap();
    let (_, rows) = page.split_once("\n## Two generations\n").expect("the part of differences");
    for difference in DIFFERENCES {
        let until = format!("{}.{}", difference.until.0, difference.until.1);
        let is_there = rows
            .lines()
            .any(|row| row.to_lowercase().contains(&difference.what.to_lowercase()) && row.contains(&until));
        assert!(is_there, "docs/qemu.md: no row with \"{}\" and {until}", difference.what);
    }
}

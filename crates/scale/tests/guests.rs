//! The guide to guests and the support matrix say the same.

#![allow(clippy::disallowed_methods, reason = "this test reads the guide; it is not the core")]

use std::fs;

use scale::guests::markdown;

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guests.md");
const BEGIN: &str =
    "<!-- the matrix: written by `SUPPLE_WRITE_DOCS=1 cargo test -p scale --test guests` -->\n";
const END: &str = "<!-- end of the matrix -->\n";

/// What stands before, between and after the marks.
fn parts(guide: &str) -> (&str, &str, &str) {
    let (before, rest) = guide.split_once(BEGIN).expect("docs/guests.md has the mark before the matrix");
    let (matrix, after) = rest.split_once(END).expect("docs/guests.md has the mark after the matrix");
    (before, matrix, after)
}

#[test]
fn the_guide_has_the_matrix_word_for_word() {
    let guide = fs::read_to_string(GUIDE).unwrap();
    let (before, matrix, after) = parts(&guide);
    let wanted = format!("\n{}\n", markdown());
    if std::env::var_os("SUPPLE_WRITE_DOCS").is_some() {
        fs::write(GUIDE, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    assert!(
        matrix == wanted,
        "docs/guests.md differs from crates/scale/src/guests/rows.rs; write it anew with:\n  SUPPLE_WRITE_DOCS=1 cargo \
         test -p scale --test guests"
    );
}

#[test]
fn every_word_of_the_matrix_is_explained_in_the_guide() {
    let guide = fs::read_to_string(GUIDE).unwrap();
    let (before, _, _) = parts(&guide);
    for word in ["yes", "maybe", "no", "unknown", "itself", "kernel", "udev", "nobody", "varies"] {
        assert!(before.contains(&format!("`{word}`")), "{word} is not explained");
    }
}

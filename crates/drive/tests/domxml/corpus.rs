//! The descriptions in `tests/domxml/corpus/`, small and each odd in a way of its own.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

/// One description of the corpus.
pub(crate) struct Description {
    /// Its file's name, without `.xml`.
    pub(crate) name: String,
    /// Its text.
    pub(crate) text: String,
}

/// All of them, by name.
pub(crate) fn all() -> &'static [Description] {
    &CORPUS
}

static CORPUS: LazyLock<Vec<Description>> = LazyLock::new(read);

fn read() -> Vec<Description> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/domxml/corpus");
    let mut found: Vec<Description> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| {
            let path = entry.expect("a file of the corpus").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            Description { name, text }
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(found.len() >= 40, "only {} descriptions in {}", found.len(), dir.display());
    found
}

/// The text of one.
pub(crate) fn text(name: &str) -> String {
    all().iter().find(|d| d.name == name).unwrap_or_else(|| panic!("no {name}.xml")).text.clone()
}

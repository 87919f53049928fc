//! Huge pages of the host, set aside for as long as a test runs. It sets aside no more than it is asked for, and gives
//! back what it took.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};

/// Who counts pages counts alone: the host has one number for all.
static ALONE: Mutex<()> = Mutex::new(());

/// Huge pages of 2 MiB that were set aside; dropped, the host has as many as before.
#[derive(Debug)]
pub struct HugePages {
    before: u64,
    _alone: MutexGuard<'static, ()>,
}

impl HugePages {
    /// Sets `count` more pages of 2 MiB aside.
    ///
    /// # Errors
    /// The kernel has no such pages, they may not be set aside from here, or there is too little memory in one piece.
    pub fn set_aside(count: u64) -> Result<HugePages> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = read("nr_hugepages")?;
        let pages = HugePages { before, _alone: alone };
        let free = read("free_hugepages")?;
        write(before + count)?;
        let got = read("free_hugepages")?;
        ensure!(
            got >= free + count,
            "only {} of {count} huge pages can be set aside",
            got.saturating_sub(free)
        );
        Ok(pages)
    }

    /// How many are free now.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn free(&self) -> Result<u64> {
        read("free_hugepages")
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = write(self.before) {
            eprintln!("{error:#}");
        }
    }
}

fn file(name: &str) -> PathBuf {
    PathBuf::from("/sys/kernel/mm/hugepages/hugepages-2048kB").join(name)
}

fn read(name: &str) -> Result<u64> {
    let text = fs::read_to_string(file(name)).context("this kernel has no huge pages of 2 MiB")?;
    text.trim().parse().with_context(|| format!("{name}: {text}"))
}

fn write(count: u64) -> Result<()> {
    fs::write(file("nr_hugepages"), count.to_string()).context("huge pages may not be set aside here")
}

//! What the witness tells of a guest: its memory blocks, its size, its CPUs, and memory that is really used.
//!
//! All of it is read from the guest's kernel, none of it from the agent or from QEMU. It will not change what it
//! looks at, but for the memory that [`Witness::touch`] is asked to use.

use std::time::Duration;

use anyhow::{Context, Result};
use scale::units::Bytes;

use crate::witness::Witness;

/// Enough for a question to an emulated guest that is busy with something else.
const QUESTION: Duration = Duration::from_secs(60);

/// Even an emulated guest writes and sums more than this in a second.
const SLOWEST: Bytes = Bytes::mib(8);

/// A memory block (`/sys/devices/system/memory/memoryN`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The block's number: its physical address divided by the block size.
    pub number: u64,
    /// True if its state is `online`; `going-offline` is not.
    pub online: bool,
    /// The first word of `valid_zones`: an online block's zone, an offline block's if it were put online. `none` for
    /// a block that spans zones.
    pub zone: String,
}

/// Memory that a process in the guest has written, and what it wrote.
#[derive(Debug)]
pub struct Touched {
    file: String,
    size: Bytes,
    sum: String,
}

impl Witness {
    /// All memory blocks that the guest knows, by number.
    ///
    /// # Errors
    /// The guest did not answer, or not in the form that Linux does.
    pub async fn blocks(&self) -> Result<Vec<Block>> {
        let listed = self
            .ask("cd /sys/devices/system/memory && for b in memory*; do read s < $b/state; read z _ < $b/valid_zones; echo ${b#memory} $s $z; done")
            .await?;
        let mut blocks = listed.lines().map(block).collect::<Result<Vec<_>>>()?;
        blocks.sort_by_key(|block| block.number);
        Ok(blocks)
    }

    /// The size of the guest's memory blocks.
    ///
    /// # Errors
    /// The guest did not answer, or not in the form that Linux does.
    pub async fn block_size(&self) -> Result<Bytes> {
        let hex = self.ask("cat /sys/devices/system/memory/block_size_bytes").await?;
        Ok(Bytes::new(u64::from_str_radix(&hex, 16).context("block_size_bytes is not a number")?))
    }

    /// `MemTotal`: the online memory less what the kernel keeps for itself from the start.
    ///
    /// # Errors
    /// The guest did not answer, or not in the form that Linux does.
    pub async fn mem_total(&self) -> Result<Bytes> {
        let line = self.ask("grep ^MemTotal: /proc/meminfo").await?;
        let kib: u64 = line.split_whitespace().nth(1).context("no MemTotal")?.parse()?;
        Ok(Bytes::new(kib * 1024))
    }

    /// How many CPUs are online.
    ///
    /// # Errors
    /// The guest did not answer, or not in the form that Linux does.
    pub async fn nproc(&self) -> Result<u16> {
        Ok(self.ask("nproc").await?.parse()?)
    }

    /// Uses `size` of the guest's memory: writes noise into a tmpfs, and remembers the sum of every 256th piece of
    /// 256 KiB. All of it is written; summing all of it would take an emulated guest minutes.
    ///
    /// # Errors
    /// The guest has not that much free, or did not answer.
    pub async fn touch(&self, size: Bytes) -> Result<Touched> {
        let name = self.ask("mktemp /mem/touched-XXXXXX").await?;
        let seed = Bytes::mib(4);
        let (whole, rest) = (size.count_of(seed), size.get() % seed.get());
        let write = format!(
            "set -e; dd if=/dev/urandom of={name}.seed bs=64k count=64 2> /dev/null; i=0; \
             {{ while [ $i -lt {whole} ]; do cat {name}.seed; i=$((i + 1)); done; head -c {rest} {name}.seed; }} > {name}; \
             rm {name}.seed"
        );
        self.shell(&write, time_for(size)).await?.ok()?;
        let sum = self.sum(&name, size).await?;
        Ok(Touched { file: name, size, sum })
    }

    /// True if the memory still holds what was written to it.
    ///
    /// # Errors
    /// The guest did not answer.
    pub async fn intact(&self, touched: &Touched) -> Result<bool> {
        Ok(self.sum(&touched.file, touched.size).await? == touched.sum)
    }

    /// Gives the memory back to the guest.
    ///
    /// # Errors
    /// The guest did not answer.
    pub async fn release(&self, touched: Touched) -> Result<()> {
        self.ask(&format!("rm {}", touched.file)).await.map(drop)
    }

    async fn sum(&self, file: &str, size: Bytes) -> Result<String> {
        let pieces = size.count_of(Bytes::new(256 << 10)).max(1);
        let sum = format!(
            "i=0; while [ $i -lt {pieces} ]; do dd if={file} bs=256k skip=$i count=1 2> /dev/null; \
             i=$((i + 256)); done | crc32"
        );
        self.shell(&sum, time_for(size)).await?.ok()
    }

    async fn ask(&self, command: &str) -> Result<String> {
        self.shell(command, QUESTION).await?.ok()
    }
}

fn time_for(size: Bytes) -> Duration {
    QUESTION + Duration::from_secs(size.count_of(SLOWEST))
}

/// `NUMBER STATE ZONE`
fn block(line: &str) -> Result<Block> {
    let mut words = line.split_whitespace();
    let mut word = || words.next().with_context(|| format!("half a block: {line:?}"));
    let (number, state, zone) = (word()?.parse()?, word()?, word()?);
    Ok(Block { number, online: state == "online", zone: zone.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_going_offline_is_not_online() {
        let going = Block { number: 40, online: false, zone: "Movable".into() };
        assert_eq!(block("40 going-offline Movable").unwrap(), going);
        assert!(block("40 online").is_err());
    }
}

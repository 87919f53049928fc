//! Where a disk's bytes lie on this host, and how much room is there: a file on its filesystem, a block device, a thin
//! volume in its pool. What cannot be looked at from here is told as that, and nothing is guessed.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{major, minor, statvfs};
use scale::observed::{Lies, Pool};
use scale::units::Bytes;
use tokio::process::Command;
use tokio::time::timeout;

use super::drive::Drive;
use crate::wire::shown;

/// What Linux counts block devices in, whatever their own sectors are.
const SECTOR: u64 = 512;
/// How long the device mapper's program may take.
const DMSETUP: Duration = Duration::from_secs(5);
/// Drivers of QEMU's whose address is a path (block/file-posix.c).
const LOCAL: [&str; 3] = ["file", "host_device", "host_cdrom"];

/// Looks at where the bytes of `drive` lie. `pid` is its QEMU, where that is a process of this host.
pub(super) async fn look(drive: &Drive, pid: Option<u32>) -> Lies {
    let name = drive.filename.as_str();
    let protocol = drive.protocol.as_deref().filter(|protocol| *protocol != drive.format);
    if let Some(protocol) = protocol.filter(|protocol| !LOCAL.contains(protocol)) {
        return Lies::Network(shown(protocol));
    }
    if let Some((protocol, _)) = name.split_once(':').filter(|(protocol, _)| is_protocol(protocol)) {
        return match protocol {
            "json" => Lies::Unknown("QEMU describes the image in a way that tells no file".to_owned()),
            _ => Lies::Network(protocol.to_owned()),
        };
    }
    let Some(pid) = pid else {
        return Lies::Unknown("QEMU's process is not one of this host's that can be told".to_owned());
    };
    let seen = seen_by(pid, name);
    match fs::metadata(&seen) {
        Ok(found) if found.file_type().is_block_device() => block(name, &found).await,
        Ok(found) if found.is_file() => file(name, &seen, &found),
        Ok(_) => Lies::Unknown(format!("{} is neither a file nor a block device", shown(name))),
        Err(error) => Lies::Unknown(format!("{} cannot be looked at: {error}", shown(name))),
    }
}

/// As QEMU tells a protocol from a path (`path_has_protocol`, block.c).
fn is_protocol(word: &str) -> bool {
    !word.is_empty() && !word.contains('/')
}

/// The path as the process sees it: it may live in a mount namespace, and the path may be from where it started.
fn seen_by(pid: u32, name: &str) -> PathBuf {
    let from =
        |folder: &str| PathBuf::from(format!("/proc/{pid}/{folder}")).join(name.trim_start_matches('/'));
    let seen = from(if name.starts_with('/') { "root" } else { "cwd" });
    // Another user's process hides both.
    if seen.exists() { seen } else { PathBuf::from(name) }
}

fn file(name: &str, seen: &Path, found: &Metadata) -> Lies {
    let free = statvfs(seen).ok().and_then(|told| told.f_bavail.checked_mul(told.f_frsize));
    let filesystem = free.map(|free| Pool { name: mounted_at(found.dev()), free: Bytes::new(free) });
    Lies::File { path: name.to_owned(), taken: Bytes::new(found.blocks().saturating_mul(SECTOR)), filesystem }
}

/// Where the file system with these numbers is mounted, or the numbers, by which it is known as well.
fn mounted_at(device: u64) -> String {
    let numbers = format!("{}:{}", major(device), minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let found = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(2);
        (words.next()? == numbers && words.next()? == "/").then(|| words.next())?
    });
    found.map_or(numbers, str::to_owned)
}

async fn block(name: &str, found: &Metadata) -> Lies {
    let at = format!("/sys/dev/block/{}:{}", major(found.rdev()), minor(found.rdev()));
    let sectors =
        fs::read_to_string(format!("{at}/size")).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let Some(size) = sectors.and_then(|sectors| sectors.checked_mul(SECTOR)) else {
        return Lies::Unknown(format!("the size of {} cannot be read", shown(name)));
    };
    let thin = match pool_of(Path::new(&at)) {
        Some(name) => free_in(&name).await.map(|free| Pool { name, free }),
        None => None,
    };
    Lies::Block { path: name.to_owned(), size: Bytes::new(size), thin }
}

/// The device mapper's name of the thin pool below a volume, if LVM made one there: such a pool's uuid ends so
/// (lib/activate/dev_manager.c of LVM 2.03).
fn pool_of(volume: &Path) -> Option<String> {
    let below = fs::read_dir(volume.join("slaves")).ok()?;
    below.flatten().take(64).find_map(|entry| {
        let told = |file: &str| fs::read_to_string(entry.path().join("dm").join(file)).ok();
        told("uuid")?.trim().ends_with("-tpool").then(|| told("name"))?.map(|name| name.trim().to_owned())
    })
}

/// What is free in a pool, by the device mapper's own program: the kernel tells it by that way alone.
async fn free_in(pool: &str) -> Option<Bytes> {
    let (status, table) = tokio::join!(dmsetup("status", pool), dmsetup("table", pool));
    free(&status?, &table?)
}

async fn dmsetup(verb: &str, pool: &str) -> Option<String> {
    let mut command = Command::new("dmsetup");
    let path = std::env::var("PATH").unwrap_or_default();
    // `--noflush`: a look must not have the pool write its metadata out.
    command.args([verb, "--noflush", "--", pool]).env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let done = timeout(DMSETUP, command.output()).await.ok()?.ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}

/// `0 SECTORS thin-pool TRANSACTION USED/METADATA USED/DATA ...` and `0 SECTORS thin-pool META DATA BLOCK ...`, blocks
/// in sectors (Documentation/admin-guide/device-mapper/thin-provisioning.rst).
fn free(status: &str, table: &str) -> Option<Bytes> {
    let words = |line: &str| -> Option<Vec<String>> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        (words.get(2).map(String::as_str) == Some("thin-pool")).then_some(words)
    };
    let (status, table) = (words(status)?, words(table)?);
    let (used, total) = status.get(5)?.split_once('/')?;
    let blocks = total.parse::<u64>().ok()?.checked_sub(used.parse().ok()?)?;
    let block = table.get(5)?.parse::<u64>().ok()?.checked_mul(SECTOR)?;
    blocks.checked_mul(block).map(Bytes::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(filename: &str, protocol: Option<&str>) -> Drive {
        Drive {
            qdev: "d".into(),
            path: "/machine/peripheral/d".into(),
            id: Some("d".into()),
            node: "n".into(),
            drive: None,
            format: "raw".into(),
            size: Bytes::mib(1),
            read_only: false,
            busy: Vec::new(),
            filename: filename.into(),
            protocol: protocol.map(str::to_owned),
            own: Default::default(),
            filter: None,
        }
    }

    #[tokio::test]
    async fn a_file_tells_what_it_takes_and_what_is_free_around_it() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(1 << 30).expect("sparse");
        let path = file.path().to_str().expect("text");
        let Lies::File { taken, filesystem, .. } =
            look(&drive(path, Some("file")), Some(std::process::id())).await
        else {
            panic!("a file")
        };
        assert!(taken < Bytes::mib(1), "{taken} of a file that is all holes");
        assert!(filesystem.is_some_and(|pool| !pool.free.is_zero() && pool.name.starts_with('/')));
        assert!(
            matches!(look(&drive(path, None), None).await, Lies::Unknown(_)),
            "whose process nobody can tell"
        );
        assert!(matches!(look(&drive("/dev/null", None), Some(std::process::id())).await, Lies::Unknown(_)));
    }

    #[tokio::test]
    async fn what_is_not_here_is_told() {
        for (name, protocol, said) in [
            ("rbd:pool/image", None, "rbd"),
            ("nbd://host:10809", None, "nbd"),
            ("image", Some("gluster"), "gluster"),
        ] {
            let lies = look(&drive(name, protocol), Some(std::process::id())).await;
            assert_eq!(lies, Lies::Network(said.to_owned()));
        }
        assert!(matches!(look(&drive("json:{", None), Some(1)).await, Lies::Unknown(_)));
        assert!(matches!(look(&drive("/none/such", None), Some(1)).await, Lies::Unknown(_)));
    }

    #[test]
    fn free_blocks_of_a_pool_are_counted_in_its_own_blocks() {
        let status =
            "0 2097152 thin-pool 1 11/1024 100/16384 - rw no_discard_passdown queue_if_no_space - 1024\n";
        let table = "0 2097152 thin-pool 254:0 254:1 128 0 0\n";
        assert_eq!(free(status, table), Some(Bytes::new((16384 - 100) * 64 * 1024)));
        assert_eq!(free("0 8 linear 8:0 0\n", table), None);
        assert_eq!(free("0 8 thin-pool Fail\n", table), None);
    }
}

//! Changes of disks: each reads what it starts from right before it is sent, and none ever makes anything smaller.

use scale::disk::{Tool, as_typed, command};
use scale::observed::{Known, Layer};
use scale::setting::{DiskIo, Setting};
use scale::units::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::drive::Drive;
use super::{Names, dialect, find, group_path, limits};
use crate::ApplyError;
use crate::guest::exec::{self, End, ExecError};
use crate::guest::files::left;
use crate::guest::reach::Reach;
use crate::qmp::monitor::Monitor;
use crate::wire::shown;

/// QEMU counts disks in these (`BDRV_SECTOR_SIZE`, include/block/block.h, 7.2 and 10.0).
const SECTOR: Bytes = Bytes::new(512);
/// The most that is taken of what a program prints.
const MOST_TEXT: usize = 16 * 1024;
/// How much of it is told.
const TOLD: usize = 400;

/// The disk that is to grow, if it still may: QEMU makes a disk smaller without a question, and libvirt passes that on
/// (`qmp_block_resize`, blockdev.c, 7.2 and 10.0). Nothing where it has that size already.
///
/// # Errors
/// It stands elsewhere, or the size is none that it can grow to. Nothing was sent.
pub(crate) async fn may_grow(
    monitor: &Monitor,
    names: &Names,
    disk: &str,
    from: Bytes,
    to: Bytes,
) -> Result<Option<Drive>, ApplyError> {
    let refused = |why: String| Err(ApplyError::Refused(format!("{why}; nothing was changed")));
    let Some(drive) = find(monitor, disk, names).await? else {
        return refused(format!("QEMU lists no disk {disk}"));
    };
    if drive.size == to {
        return Ok(None);
    }
    if to < drive.size || to < from {
        return refused(format!("{disk} has {} and would be cut to {to}, with what lies there", drive.size));
    }
    if drive.size != from {
        return refused(format!(
            "{disk} has {} and no longer {from}: something else has changed it",
            drive.size
        ));
    }
    if !drive.busy.is_empty() {
        return refused(format!("{disk} is busy: {}", drive.busy.join(", ")));
    }
    if !to.is_multiple_of(SECTOR) {
        return refused(format!("{to} is not a whole number of sectors"));
    }
    Ok(Some(drive))
}

/// Makes a disk of plain QEMU's larger.
pub(crate) async fn grow(
    monitor: &Monitor,
    disk: &str,
    from: Bytes,
    to: Bytes,
    until: Instant,
) -> Result<(), ApplyError> {
    let Some(drive) = may_grow(monitor, &Names::new(), disk, from, to).await? else { return Ok(()) };
    let arguments = json!({ "node-name": drive.node, "size": to.get() });
    monitor.order("block_resize", arguments, until).await
}

/// The limits of a disk, if they are what they are said to be.
///
/// # Errors
/// They are others, or cannot be told. Nothing was sent.
pub(crate) async fn may_set(
    monitor: &Monitor,
    names: &Names,
    disk: &str,
    from: &DiskIo,
    to: &DiskIo,
) -> Result<Drive, ApplyError> {
    let Some(drive) = find(monitor, disk, names).await? else {
        return Err(ApplyError::Refused(format!("QEMU lists no disk {disk}")));
    };
    let now = match limits(monitor, &drive).await? {
        Known::Is(now) => now,
        Known::Not(why) => return Err(ApplyError::Refused(why)),
    };
    let [was, is, asked] =
        [from, &now, to].map(|io| Setting::DiskIo { disk: disk.to_owned(), io: io.clone() });
    if !is.stands_between(&was, &asked) {
        let why = format!("the I/O of {disk} has {now} and no longer {from}: something else has changed it");
        return Err(ApplyError::Refused(why));
    }
    if to.group != now.group {
        return Err(ApplyError::Refused(format!("{disk} would leave its throttle group")));
    }
    Ok(drive)
}

/// Limits a disk of plain QEMU's: every field is written, since what is left out is lifted.
pub(crate) async fn limit(
    monitor: &Monitor,
    disk: &str,
    from: &DiskIo,
    to: &DiskIo,
    until: Instant,
) -> Result<(), ApplyError> {
    let drive = may_set(monitor, &Names::new(), disk, from, to).await?;
    if let Some(group) = &drive.filter {
        let value: Map<String, Value> = fields(&dialect::GROUP, to);
        let arguments = json!({ "path": group_path(group), "property": "limits", "value": value });
        return monitor.order("qom-set", arguments, until).await;
    }
    let mut arguments = fields(&dialect::DEVICE, to);
    arguments.insert("id".into(), drive.qdev.into());
    if let Some(group) = &to.group {
        arguments.insert("group".into(), group.as_str().into());
    }
    monitor.order("block_set_io_throttle", arguments.into(), until).await
}

fn fields(dialect: &dialect::Dialect, io: &DiskIo) -> Map<String, Value> {
    dialect.write(io).into_iter().map(|(name, number)| (name, number.into())).collect()
}

/// The shell that finds the program where the agent's own path does not lead to it.
const SHELL: &str = "/bin/sh";
const FIND: &str = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin LC_ALL=C; \
                    export PATH LC_ALL; exec \"$@\"";

/// Has a layer in the guest take all that is below it. Done a second time, it does nothing.
pub(crate) async fn grow_in_guest(
    reach: &mut Reach,
    device: &str,
    layer: &Layer,
    tool: Tool,
    until: Instant,
) -> Result<(), ApplyError> {
    let Some(words) = command(tool, device, layer) else {
        return Err(ApplyError::Refused(format!("{tool} does not grow {}", layer.name())));
    };
    let agent = reach.agent().await?;
    let mut arguments = vec!["-c", FIND, "sh"];
    arguments.extend(words.iter().map(String::as_str));
    let output = match exec::run(agent, SHELL, &arguments, MOST_TEXT, left(until)).await {
        Ok(output) => output,
        Err(ExecError::Agent(error)) => return Err(reach.note(&error).into()),
        Err(error @ ExecError::StillRuns { .. }) => return Err(ApplyError::Unknown(error.to_string())),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let said = format!("{} {}", text(&output.stderr), text(&output.stdout));
    let nothing_to_do = match output.end {
        End::Exit(status) => {
            status == 0 || tool.nothing_to_do().map(i64::from) == Some(status) || is_full(tool, &said)
        }
        End::Signal(_) | End::Unknown => false,
    };
    if nothing_to_do {
        return Ok(());
    }
    let said: String = shown(said.trim()).chars().take(TOLD).collect();
    Err(ApplyError::Refused(format!("`{}` failed in the guest: {said}", as_typed(&words))))
}

/// lvextend counts it as an error that there is nothing left to take (tools/lvresize.c of LVM 2.03).
fn is_full(tool: Tool, said: &str) -> bool {
    tool == Tool::Lvextend && said.contains("matches existing size")
}

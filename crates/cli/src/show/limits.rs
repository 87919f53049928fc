//! Disks and limits in words: as options that ask for them again, as changes, and as rows of an observation.

use scale::observed::{Disk, Known, Nic, Observed};
use scale::plan::{Asked, Plan};
use scale::report::{DiskReport, Report, SettingReport};
use scale::setting::Setting;
use scale::wanted::Wanted;
use scale::words;

use crate::address::quoted;
use crate::paint::{BOLD, DIM};
use crate::table::{Cell, Table};
use crate::words::{about, as_value};

/// `--disk vda=40GiB --nic 52:54:00:00:00:01=500mbit`: the options that ask for the same disks and limits.
pub(crate) fn as_options(asked: &Asked, wanted: &Wanted) -> Vec<String> {
    let mut options: Vec<String> =
        asked.disks.iter().map(|(disk, size)| format!("--disk {}", named(disk, &as_value(*size)))).collect();
    let iops = wanted.disks.values().any(|wish| !wish.iops.is_keep());
    let rate = wanted.disks.values().any(|wish| !wish.rate.is_keep());
    for setting in &asked.settings {
        match setting {
            Setting::CpuPower(power) => {
                let limit = power.limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
                options.extend((!wanted.cpu_limit.is_keep()).then(|| format!("--cpu-limit {limit}")));
                options.extend(wanted.cpu_weight.map(|weight| format!("--cpu-weight {weight}")));
            }
            Setting::DiskIo { disk, io } => {
                let (ops, bytes) = (words::iops(&io.iops), words::throttled_bytes(&io.bytes));
                options.extend(iops.then(|| format!("--disk-iops {}", named(disk, &ops))));
                options.extend(rate.then(|| format!("--disk-rate {}", named(disk, &bytes))));
            }
            // Nobody asks for these.
            Setting::Memory { .. } | Setting::Locked { .. } => {}
            Setting::NicRate { nic, rate } => {
                options.push(format!("--nic {}", named(nic, &words::nic_rate(rate))));
            }
            Setting::IpRate { nic, ip, rate } => {
                options.push(format!("--ip {}", named(&format!("{ip}@{nic}"), &words::nic_rate(rate))));
            }
        }
    }
    options
}

fn named(name: &str, value: &str) -> String {
    quoted(&format!("{name}={value}"))
}

/// What is asked beside memory and vCPUs, each as `disk vda 40 GiB` or by the limit's name.
pub(crate) fn wish(asked: &Asked) -> Vec<String> {
    let disks = asked.disks.iter().map(|(disk, size)| format!("disk {disk} {size}"));
    disks.chain(asked.settings.iter().map(ToString::to_string)).collect()
}

/// What a plan changes beside memory and vCPUs.
pub(crate) fn changes(plan: &Plan) -> Vec<String> {
    let disks = plan.asked.disks.iter().map(|(disk, to)| {
        match plan.basis.disks.iter().find(|(name, _)| name == disk) {
            Some((_, from)) if from != to => format!("disk {disk} {from} -> {to}"),
            Some(_) | None => format!("disk {disk} {to}"),
        }
    });
    disks.chain(plan.asked.settings.iter().map(ToString::to_string)).collect()
}

/// What became of disks and limits.
pub(crate) fn outcomes(report: &Report) -> Vec<String> {
    let disks = report.disks.iter().map(disk);
    disks.chain(report.settings.iter().map(setting)).collect()
}

fn disk(report: &DiskReport) -> String {
    let DiskReport { disk, from, asked, achieved, filesystem } = report;
    let size = super::report::one_change(&format!("disk {disk}"), *from, *achieved, *asked);
    match filesystem {
        Some((name, size_now)) => format!("{size} (df: {} of {name})", about(*size_now)),
        None => size,
    }
}

fn setting(report: &SettingReport) -> String {
    let asked = &report.asked;
    match (&report.achieved, report.is_reached()) {
        (_, true) => asked.to_string(),
        (Some(now), false) => format!("{now} ({} asked)", asked.value()),
        (None, false) => format!("{} unknown ({} asked)", asked.name(), asked.value()),
    }
}

/// The rows of disks, NICs and CPU power.
pub(crate) fn rows(table: &mut Table, seen: &Observed) {
    if let Known::Is(power) = &seen.power {
        table.row([Cell::new("CPU power", BOLD), power.to_string().into(), "".into(), "".into()]);
    }
    for disk in seen.disks() {
        table.row(disk_row(disk));
    }
    for nic in seen.nics() {
        table.row(nic_row(nic));
    }
}

fn disk_row(disk: &Disk) -> [Cell; 4] {
    let mut qemu = Cell::from(format!("{} {}, {}", about(disk.size), disk.format, disk.bus));
    qemu = match &disk.io {
        Known::Is(io) => qemu.line(&io.to_string()),
        Known::Not(why) => qemu.line(&format!("limits not known: {why}")),
    };
    let mut guest = Cell::from("");
    if let Known::Is(shown) = &disk.guest {
        guest = Cell::from(format!("{} {}", shown.device, about(shown.size)));
        let mut next = shown.layers.as_slice();
        // Along the way that grows: the last partition, and the first of what lies above.
        while let Some(layer) = next.last() {
            guest = guest.line(&format!("{} {}", layer.name(), about(layer.size)));
            next = layer.above.get(..layer.above.len().min(1)).unwrap_or_default();
        }
    }
    let differs = match &disk.guest {
        Known::Is(shown) if shown.size != disk.size => Cell::from("the guest has not learned its size"),
        Known::Is(_) => Cell::from(""),
        Known::Not(why) => Cell::new(why, DIM),
    };
    [Cell::new(&format!("disk {}", disk.name), BOLD), qemu, guest, differs]
}

fn nic_row(nic: &Nic) -> [Cell; 4] {
    let tap = nic.tap.as_ref().map(|tap| format!("at {tap}")).unwrap_or_default();
    let mut qemu = Cell::from("").or_line(&tap);
    qemu = match &nic.rate {
        Known::Is(rate) => qemu.or_line(&rate.to_string()),
        Known::Not(why) => qemu.or_line(&format!("limits not known: {why}")),
    };
    for of in nic.ips.known().into_iter().flatten() {
        qemu = qemu.line(&format!("{}: {}", of.ip, of.rate));
    }
    let mut guest = Cell::from("").or_line(&nic.aliases.join(", "));
    for address in &nic.addresses {
        guest = guest.or_line(&address.to_string());
    }
    [Cell::new(&format!("NIC {}", nic.name), BOLD), qemu, guest, "".into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use scale::plan::plan;
    use scale::setting::SettingName;

    #[test]
    fn options_ask_for_the_same_disks_and_limits_again() {
        let seen = crate::example::furnished();
        let wanted = Wanted {
            disks: [(
                "vda".to_owned(),
                scale::wanted::DiskWish {
                    size: Some(scale::units::Change::To(scale::units::Bytes::gib(40))),
                    rate: words::parse_bytes_wish("200M").expect("a limit"),
                    ..Default::default()
                },
            )]
            .into(),
            nics: [("eth0".to_owned(), words::parse_rate_wish("in:1gbit").expect("a rate"))].into(),
            cpu_limit: words::parse_cpu_limit("none").expect("no limit"),
            ..Wanted::default()
        };
        let plan = plan(&seen, &wanted, &Default::default()).expect("a plan");
        assert_eq!(
            as_options(&plan.asked, &wanted).join(" "),
            "--disk vda=40GiB --cpu-limit none \
            --disk-rate vda=200MiB --nic 52:54:00:00:00:01=in:1gbit,burst:6104KiB,out:none"
        );
        assert_eq!(changes(&plan)[0], "disk vda 20 GiB -> 40 GiB");
        assert!(
            wish(&plan.asked).iter().any(|one| one == "CPU power: no limit, weight 200"),
            "{:?}",
            wish(&plan.asked)
        );
    }

    #[test]
    fn what_is_read_back_is_told_beside_what_was_asked() {
        let seen = crate::example::furnished();
        let now = seen.settings();
        let power = now.iter().find(|s| s.name() == SettingName::CpuPower).expect("it has").clone();
        let report =
            SettingReport { from: Some(power.clone()), asked: power.clone(), achieved: Some(power.clone()) };
        assert_eq!(setting(&report), "CPU power: limit 2.5 CPUs, weight 200");
        let nothing = SettingReport { achieved: None, ..report };
        assert_eq!(setting(&nothing), "CPU power unknown (limit 2.5 CPUs, weight 200 asked)");
    }
}

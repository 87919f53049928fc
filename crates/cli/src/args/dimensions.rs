//! The options beside memory and vCPUs: CPU power, disks, their I/O, and the traffic of NICs and addresses.

use clap::Args;
use core::net::IpAddr;
use scale::setting::{Iops, Millicpus, Weight};
use scale::units::{BadSize, Bytes, Change, parse_change};
use scale::wanted::{DiskWish, IpWish, RateWish, ThrottleWish, Wanted, Wish};
use scale::words::{
    BadLimit, parse_bytes_wish, parse_cpu_limit, parse_cpu_weight, parse_iops_wish, parse_ip_name,
    parse_rate_wish, split_named,
};

pub(crate) const LIMITS: &str = "\
Limits:
  --cpu-limit 2.5                        all vCPUs together take 2.5 host CPUs at most
  --disk-iops vda=2000                   operations a second; --disk-rate vda=200M is bytes a second
  --disk-iops vda=read:500,write:500,burst:4000/10s
                                         apart for reads and writes, with bursts of 10 s
  --nic eth0=500mbit/1gbit               average and peak, for both directions alike
  --nic eth0=in:500mbit,out:200mbit,burst:256K
                                         in is what the guest receives, out what it sends
  --ip 203.0.113.7=100mbit               one address; with 203.0.113.7@eth0 its NIC is named
  `none` lifts a limit; what is not named stays. An address is held to the limit of its NIC as well.
  Disks and NICs have the names that libvirt, QEMU or the guest give them: vda, a device's id, eth0,
  vnet3, a MAC address. `mbps`, `500M` and `Mb` are refused with their readings offered.";

/// What is asked beside memory and vCPUs.
#[derive(Debug, Clone, Args)]
pub(crate) struct Dimensions {
    /// The most host CPUs that all vCPUs together may take, such as 2.5, or none
    #[arg(long, value_name = "CPUS", value_parser = read_cpu_limit, help_heading = "Limits and disks")]
    cpu_limit: Option<Wish<Millicpus>>,
    /// The share of CPU time under contention, from 1 to 10000; 100 is usual
    #[arg(long, value_name = "WEIGHT", value_parser = read_cpu_weight, help_heading = "Limits and disks")]
    cpu_weight: Option<Weight>,
    /// A disk's size, never smaller than it is: vda=40G, or a step such as vda=+10G; what lies on it in the guest follows
    #[arg(long = "disk", value_name = "DISK=SIZE", value_parser = read_disk, help_heading = "Limits and disks")]
    disks: Vec<(String, Change<Bytes>)>,
    /// A disk's operations a second: vda=2000, vda=read:500,write:500,burst:4000/10s, or vda=none
    #[arg(long, value_name = "DISK=IOPS", value_parser = read_iops, help_heading = "Limits and disks")]
    disk_iops: Vec<(String, ThrottleWish<Iops>)>,
    /// A disk's bytes a second: vda=200M, vda=read:200M,write:100M, or vda=none
    #[arg(long, value_name = "DISK=SIZE", value_parser = read_rate, help_heading = "Limits and disks")]
    disk_rate: Vec<(String, ThrottleWish<Bytes>)>,
    /// A NIC's traffic: eth0=500mbit/1gbit (average/peak both ways), eth0=in:500mbit,out:200mbit, or eth0=none
    #[arg(long = "nic", value_name = "NIC=RATE", value_parser = read_nic, help_heading = "Limits and disks")]
    nics: Vec<(String, RateWish)>,
    /// The traffic of one address of the guest, v4 or v6: 203.0.113.7=100mbit, or 203.0.113.7=none
    #[arg(long = "ip", value_name = "IP=RATE", value_parser = read_ip, help_heading = "Limits and disks")]
    ips: Vec<(IpAddr, IpWish)>,
}

impl Dimensions {
    /// Writes what is asked here over a wish.
    ///
    /// # Errors
    /// Where an option is given twice for one thing.
    pub(crate) fn over(&self, wanted: &mut Wanted) -> Result<(), String> {
        if let Some(limit) = self.cpu_limit {
            wanted.cpu_limit = limit;
        }
        wanted.cpu_weight = self.cpu_weight.or(wanted.cpu_weight);
        let disk = |wanted: &mut Wanted, name: &str, set: &dyn Fn(&mut DiskWish)| {
            set(wanted.disks.entry(name.to_owned()).or_default());
        };
        for (name, size) in once("--disk", &self.disks)? {
            disk(wanted, name, &|wish| wish.size = Some(*size));
        }
        for (name, iops) in once("--disk-iops", &self.disk_iops)? {
            disk(wanted, name, &|wish| wish.iops = *iops);
        }
        for (name, rate) in once("--disk-rate", &self.disk_rate)? {
            disk(wanted, name, &|wish| wish.rate = *rate);
        }
        wanted.nics.extend(once("--nic", &self.nics)?.cloned());
        wanted.ips.extend(once("--ip", &self.ips)?.cloned());
        Ok(())
    }
}

/// All of these, each thing named once.
fn once<'a, K: PartialEq + ToString, V>(
    option: &str,
    all: &'a [(K, V)],
) -> Result<impl Iterator<Item = &'a (K, V)>, String> {
    let twice = (1..all.len()).find(|nth| all[..*nth].iter().any(|(name, _)| *name == all[*nth].0));
    match twice {
        Some(nth) => Err(format!(
            "{option} is given twice for {}; say all of it in one, parts separated by commas",
            all[nth].0.to_string()
        )),
        None => Ok(all.iter()),
    }
}

fn read_cpu_limit(text: &str) -> Result<Wish<Millicpus>, BadLimit> {
    parse_cpu_limit(text)
}

fn read_cpu_weight(text: &str) -> Result<Weight, BadLimit> {
    parse_cpu_weight(text)
}

fn read_disk(text: &str) -> Result<(String, Change<Bytes>), BadLimit> {
    let (name, size) = split_named(text, "vda=40G or vda=+10G")?;
    parse_change(size).map(|size| (name.to_owned(), size)).map_err(|why: BadSize| why.into())
}

fn read_iops(text: &str) -> Result<(String, ThrottleWish<Iops>), BadLimit> {
    let (name, limit) = split_named(text, "vda=2000 or vda=none")?;
    Ok((name.to_owned(), parse_iops_wish(limit)?))
}

fn read_rate(text: &str) -> Result<(String, ThrottleWish<Bytes>), BadLimit> {
    let (name, limit) = split_named(text, "vda=200M or vda=none")?;
    Ok((name.to_owned(), parse_bytes_wish(limit)?))
}

fn read_nic(text: &str) -> Result<(String, RateWish), BadLimit> {
    let (name, rate) = split_named(text, "eth0=500mbit/1gbit or eth0=none")?;
    Ok((name.to_owned(), parse_rate_wish(rate)?))
}

fn read_ip(text: &str) -> Result<(IpAddr, IpWish), BadLimit> {
    let (name, rate) = split_named(text, "203.0.113.7=100mbit or 203.0.113.7=none")?;
    let (ip, nic) = parse_ip_name(name)?;
    Ok((ip, IpWish { nic, rate: parse_rate_wish(rate)? }))
}

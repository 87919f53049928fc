//! The least that a client can do, to measure Supple against: blocking, no checks, no record, no undo.
//!
//! It runs as a process of its own, as `supple` does, so that both pay for starting and connecting.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Runs one raw job: `dimm QMP AGENT ID MIB`, `virtio-mem QMP ID BYTES`, `vcpu QMP AGENT`,
/// `guest-facts AGENT`.
pub(crate) fn run(job: &[&str]) -> Result<()> {
    match *job {
        ["dimm", qmp, agent, id, mib] => dimm(qmp.as_ref(), agent.as_ref(), id, mib.parse()?),
        ["virtio-mem", qmp, id, bytes] => virtio_mem(qmp.as_ref(), id, bytes.parse()?),
        ["vcpu", qmp, agent] => vcpu(qmp.as_ref(), agent.as_ref()),
        ["guest-facts", agent] => guest_facts(agent.as_ref()),
        _ => bail!("not a raw job: {job:?}"),
    }
}

struct Line {
    reader: BufReader<UnixStream>,
}

impl Line {
    fn open(path: &Path) -> Result<Line> {
        let stream =
            UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Line { reader: BufReader::new(stream) })
    }

    fn monitor(path: &Path) -> Result<Line> {
        let mut line = Line::open(path)?;
        line.reply()?;
        line.call("qmp_capabilities", &json!({}))?;
        Ok(line)
    }

    fn agent(path: &Path) -> Result<Line> {
        let mut line = Line::open(path)?;
        line.call("guest-sync", &json!({ "id": 4242 }))?;
        Ok(line)
    }

    fn reply(&mut self) -> Result<Value> {
        let mut text = String::new();
        self.reader.read_line(&mut text)?;
        Ok(serde_json::from_str(text.trim_start_matches('\u{fffd}'))?)
    }

    fn call(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut text = json!({ "execute": command, "arguments": arguments }).to_string();
        text.push('\n');
        self.reader.get_mut().write_all(text.as_bytes())?;
        loop {
            let reply = self.reply()?;
            if let Some(error) = reply.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(value) = reply.get("return") {
                return Ok(value.clone());
            }
        }
    }
}

fn dimm(qmp: &Path, agent: &Path, id: &str, mib: u64) -> Result<()> {
    let mut monitor = Line::monitor(qmp)?;
    let mut guest = Line::agent(agent)?;
    let memdev = format!("m-{id}");
    monitor
        .call("object-add", &json!({ "qom-type": "memory-backend-ram", "id": memdev, "size": mib << 20 }))?;
    monitor.call("device_add", &json!({ "driver": "pc-dimm", "id": id, "memdev": memdev }))?;
    let block =
        guest.call("guest-get-memory-block-info", &json!({}))?["size"].as_u64().context("a block size")?;
    let devices = monitor.call("query-memory-devices", &json!({}))?;
    let data = devices
        .as_array()
        .and_then(|all| all.iter().map(|d| &d["data"]).find(|d| d["id"] == id))
        .context("the DIMM in query-memory-devices")?;
    let first = data["addr"].as_u64().context("an address")? / block;
    let wanted: Vec<u64> = (first..first + (mib << 20) / block).collect();
    loop {
        let blocks = guest.call("guest-get-memory-blocks", &json!({}))?;
        let blocks = blocks.as_array().context("memory blocks")?;
        let mine = |online: bool| {
            let is_mine = |b: &&Value| b["phys-index"].as_u64().is_some_and(|i| wanted.contains(&i));
            blocks.iter().filter(is_mine).filter(|b| b["online"] == online).count()
        };
        if mine(true) == wanted.len() {
            return Ok(());
        }
        if mine(true) + mine(false) == wanted.len() {
            let set: Vec<Value> = wanted.iter().map(|i| json!({ "phys-index": i, "online": true })).collect();
            guest.call("guest-set-memory-blocks", &json!({ "mem-blks": set }))?;
        } else {
            sleep(Duration::from_millis(5));
        }
    }
}

fn virtio_mem(qmp: &Path, id: &str, bytes: u64) -> Result<()> {
    let mut monitor = Line::monitor(qmp)?;
    let path = format!("/machine/peripheral/{id}");
    monitor.call("qom-set", &json!({ "path": path, "property": "requested-size", "value": bytes }))?;
    while monitor.call("qom-get", &json!({ "path": path, "property": "size" }))? != json!(bytes) {
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Plugs the first vCPU that is not there and has the guest bring it online.
fn vcpu(qmp: &Path, agent: &Path) -> Result<()> {
    let mut monitor = Line::monitor(qmp)?;
    let mut guest = Line::agent(agent)?;
    let places = monitor.call("query-hotpluggable-cpus", &json!({}))?;
    let places = places.as_array().context("places of vCPUs")?;
    let there = places.iter().filter(|place| place.get("qom-path").is_some()).count();
    let free = places.iter().rev().find(|place| place.get("qom-path").is_none()).context("a free place")?;
    let mut device = free["props"].clone();
    device["driver"] = free["type"].clone();
    device["id"] = json!(format!("raw-vcpu{there}"));
    monitor.call("device_add", &device)?;
    loop {
        let vcpus = guest.call("guest-get-vcpus", &json!({}))?;
        let vcpus = vcpus.as_array().context("vCPUs")?;
        let offline: Vec<Value> = vcpus
            .iter()
            .filter(|vcpu| vcpu["online"] == json!(false))
            .map(|vcpu| json!({ "logical-id": vcpu["logical-id"], "online": true }))
            .collect();
        if !offline.is_empty() {
            guest.call("guest-set-vcpus", &json!({ "vcpus": offline }))?;
        } else if vcpus.len() > there {
            return Ok(());
        } else {
            sleep(Duration::from_millis(5));
        }
    }
}

/// What a guest answers to the questions of one observation, and nothing else.
fn guest_facts(agent: &Path) -> Result<()> {
    let mut guest = Line::agent(agent)?;
    for command in [
        "guest-info",
        "guest-get-osinfo",
        "guest-get-memory-block-info",
        "guest-get-memory-blocks",
        "guest-get-vcpus",
    ] {
        guest.call(command, &json!({}))?;
    }
    for path in ["/proc/meminfo", "/sys/devices/system/memory/auto_online_blocks"] {
        let handle = guest.call("guest-file-open", &json!({ "path": path }))?;
        guest.call("guest-file-read", &json!({ "handle": handle, "count": 4096 }))?;
        guest.call("guest-file-close", &json!({ "handle": handle }))?;
    }
    Ok(())
}

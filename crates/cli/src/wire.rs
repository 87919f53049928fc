//! What `--json` prints. One object whose only key tells what it holds; errors are objects too.
//!
//! These types are a promise to scripts and apart from the core's types for that reason: fields are added, never
//! renamed or removed. Sizes are whole bytes (`_bytes`), lengths of time milliseconds (`_ms`), points in time RFC 3339
//! in UTC; what is not known is `null`, never absent and never zero. docs/json.md lists them for readers.

pub(crate) mod doctor;
pub(crate) mod guest;
pub(crate) mod limits;
#[cfg(feature = "libvirt")]
pub(crate) mod list;
pub(crate) mod memory;
pub(crate) mod observed;
pub(crate) mod plan;
#[cfg(feature = "libvirt")]
pub(crate) mod prepare;
pub(crate) mod reconcile;
pub(crate) mod report;

use scale::plan::{Refusal as CoreRefusal, Sizes as CoreSizes, When};
use serde::Serialize;

/// Everything that `--json` can print.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Document {
    /// `supple list`.
    #[cfg(feature = "libvirt")]
    Machines(list::Machines),
    /// `supple observe`.
    Observed(Box<observed::Observed>),
    /// `supple plan`.
    Plan(plan::Plan),
    /// `supple apply`.
    Report(report::Report),
    /// `supple why`.
    History(report::History),
    /// `supple doctor`.
    Doctor(doctor::Doctor),
    /// `supple doctor --guests`.
    Guests(doctor::Guests),
    /// `supple guest setup`.
    Setup(guest::Setup),
    /// `supple guest udev-rule`.
    UdevRule(guest::UdevRule),
    /// `supple device-xml`.
    DeviceXml(DeviceXml),
    /// `supple prepare`.
    #[cfg(feature = "libvirt")]
    Prepared(Box<prepare::Prepared>),
    /// `supple reconcile`.
    Reconciled(Box<reconcile::Reconciled>),
    /// There is no plan, from `plan` and `apply`. Exit status 2.
    Refusal(Refusal),
    /// Something is wrong, from any command. The exit status tells whether anything was changed.
    Error(Error),
}

impl Document {
    /// The object as it is printed, on lines of its own.
    pub(crate) fn render(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("wire types are plain data");
        text.push('\n');
        text
    }
}

/// The sizes of a machine.
#[derive(Debug, Serialize)]
pub(crate) struct Sizes {
    /// Memory that QEMU gives the guest, the balloon's part taken off.
    pub(crate) memory_bytes: u64,
    /// vCPUs that QEMU gives the guest.
    pub(crate) vcpus: u32,
}

impl From<CoreSizes> for Sizes {
    fn from(sizes: CoreSizes) -> Sizes {
        Sizes { memory_bytes: sizes.memory.get(), vcpus: sizes.vcpus }
    }
}

/// The sizes that were asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Asked {
    /// Total memory; null where none was asked for.
    pub(crate) memory_bytes: Option<u64>,
    /// Total vCPUs; null where none were asked for.
    pub(crate) vcpus: Option<u32>,
    /// Disks; empty where none were asked for.
    pub(crate) disks: Vec<limits::DiskSize>,
    /// Limits, each with its whole value; empty where none were asked for.
    pub(crate) limits: Vec<limits::Limit>,
}

impl From<&scale::plan::Asked> for Asked {
    fn from(asked: &scale::plan::Asked) -> Asked {
        Asked {
            memory_bytes: asked.memory.map(scale::units::Bytes::get),
            vcpus: asked.vcpus,
            disks: asked
                .disks
                .iter()
                .map(|(disk, size)| limits::DiskSize { disk: disk.clone(), size_bytes: size.get() })
                .collect(),
            limits: asked.settings.iter().map(limits::Limit::from).collect(),
        }
    }
}

/// Why there is no plan. Nothing was changed.
#[derive(Debug, Serialize)]
pub(crate) struct Refusal {
    /// Everything that stands in the way; never empty.
    pub(crate) obstacles: Vec<Obstacle>,
}

/// One thing that stands in the way.
#[derive(Debug, Serialize)]
pub(crate) struct Obstacle {
    /// `not-now`, `cold` (only across a stop and start) or `impossible`.
    pub(crate) when: &'static str,
    /// Why not now.
    pub(crate) reason: String,
    /// What would work.
    pub(crate) way_out: String,
}

impl From<&CoreRefusal> for Refusal {
    fn from(refusal: &CoreRefusal) -> Refusal {
        let obstacles = refusal.obstacles.iter().map(|o| Obstacle {
            when: match o.when {
                When::NotNow => "not-now",
                When::Cold => "cold",
                When::Impossible => "impossible",
            },
            reason: o.reason.clone(),
            way_out: o.way_out.clone(),
        });
        Refusal { obstacles: obstacles.collect() }
    }
}

/// What went wrong.
#[derive(Debug, Serialize)]
pub(crate) struct Error {
    /// A word for scripts: see docs/json.md.
    pub(crate) kind: &'static str,
    /// The same text as without `--json`.
    pub(crate) message: String,
    /// False where it is certain that nothing was changed.
    pub(crate) may_have_changed: bool,
}

/// The description of a memory device.
#[derive(Debug, Serialize)]
pub(crate) struct DeviceXml {
    /// Its text.
    pub(crate) xml: String,
    /// Its size, which is the one asked for or the next one that is the same everywhere.
    pub(crate) size_bytes: u64,
    /// What there is to say about it.
    pub(crate) notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::failure::Failure;
    use scale::history::History;
    use scale::plan::Obstacle;
    use scale::run::Record;
    use serde_json::Value;

    const GUIDE: &str = include_str!("../../../docs/json.md");

    fn parsed(document: &Document) -> Value {
        serde_json::from_str(&document.render()).unwrap()
    }

    fn seen() -> Value {
        parsed(&Document::Observed(Box::new(observed::Observed::of(&example::observed(), None, None))))
    }

    fn refusal() -> Failure {
        let when = When::NotNow;
        let (reason, way_out) = ("a migration is under way".to_owned(), "wait for its end".to_owned());
        Failure::Refused(CoreRefusal { obstacles: vec![Obstacle { when, reason, way_out }] })
    }

    fn history() -> Value {
        let (plan, wanted) = (Box::new(example::plan()), scale::wanted::Wanted::default());
        let records = [
            Record::Reported { report: Box::new(example::report()) },
            Record::Began { at: example::NOW, wanted, plan },
        ];
        parsed(&Document::History(report::History::of(&History::of(&records), Some(7))))
    }

    fn doctor() -> Value {
        let facts = example::examined();
        parsed(&Document::Doctor(doctor::Doctor::of_machine(&facts, &scale::doctor::vm(&facts))))
    }

    fn every_document() -> Vec<Value> {
        let path = "/etc/udev/rules.d/80-supple-hotplug.rules";
        let what = "no agent".to_owned();
        let mut all = of_libvirt();
        all.extend([
            seen(),
            history(),
            parsed(&Document::Plan((&example::plan()).into())),
            parsed(&Document::Report((&example::report()).into())),
            parsed(&refusal().document()),
            parsed(&Failure::Declined.document()),
            parsed(&Document::UdevRule(guest::UdevRule { path, text: String::new() })),
            parsed(&Document::Setup(guest::Setup {
                installed: false,
                path,
                what,
                by_hand: vec![String::new()],
            })),
            doctor(),
            parsed(&Document::Guests(doctor::Guests::all())),
            parsed(&Document::Reconciled(Box::new(reconcile::Reconciled {
                definition: Some(reconcile::Definition {
                    mended: vec![reconcile::Mended {
                        what: String::new(),
                        mend: String::new(),
                        why_not: None,
                    }],
                    waits: Vec::new(),
                    by_hand: Vec::new(),
                }),
                report: (&example::report()).into(),
            }))),
            parsed(&Document::DeviceXml(DeviceXml { xml: String::new(), size_bytes: 0, notes: Vec::new() })),
        ]);
        all
    }

    #[cfg(not(feature = "libvirt"))]
    fn of_libvirt() -> Vec<Value> {
        Vec::new()
    }

    /// The documents that only a program with libvirt prints.
    #[cfg(feature = "libvirt")]
    fn of_libvirt() -> Vec<Value> {
        let xml = "<domain type='kvm'><name>web1</name><memory unit='GiB'>1</memory></domain>";
        let room = drive::domxml::room(&drive::domxml::Domain::parse(xml).unwrap());
        let entry = crate::list::Entry {
            name: "web1".to_owned(),
            uuid: String::new(),
            state: "running".to_owned(),
            runs: true,
            room: Ok(room),
        };
        let told = crate::prepare::Told {
            name: "web1".to_owned(),
            vm: "web1".to_owned(),
            runs: false,
            diff: String::new(),
            changes: Vec::new(),
            notes: Vec::new(),
            tried: None,
            outcome: crate::prepare::Outcome::Defined,
        };
        vec![
            parsed(&Document::Machines(list::Machines::of("qemu:///system", &[entry]))),
            parsed(&Document::Prepared(Box::new((&told).into()))),
        ]
    }

    fn collect(value: &Value, keys: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    keys.push(key.clone());
                    collect(value, keys);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, keys)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_field_is_in_the_guide() {
        let mut keys = Vec::new();
        every_document().iter().for_each(|document| collect(document, &mut keys));
        let furnished = observed::Observed::of(&example::furnished(), None, None);
        collect(&parsed(&Document::Observed(Box::new(furnished))), &mut keys);
        assert!(keys.len() > 150, "{}", keys.len());
        for key in keys {
            assert!(GUIDE.contains(&format!("`{key}`")) || GUIDE.contains(&format!("{key}[]`")), "{key}");
        }
    }

    #[test]
    fn a_document_has_one_key_that_tells_what_it_holds() {
        let keys: Vec<String> = every_document()
            .iter()
            .map(|document| document.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" "))
            .collect();
        let expected = [
            "observed",
            "history",
            "plan",
            "report",
            "refusal",
            "error",
            "udev_rule",
            "setup",
            "doctor",
            "guests",
            "reconciled",
            "device_xml",
        ];
        let libvirts: &[&str] = if cfg!(feature = "libvirt") { &["machines", "prepared"] } else { &[] };
        assert_eq!(keys, [libvirts, &expected].concat());
    }

    #[test]
    fn an_observation_keeps_its_numbers() {
        let seen = &seen()["observed"];
        assert_eq!(seen["at"], "2026-11-23T17:10:02.123Z");
        assert_eq!(seen["sizes"], serde_json::json!({"memory_bytes": 3_u64 << 30, "vcpus": 3}));
        assert_eq!(seen["memory"]["dimms"][0]["blocks"], serde_json::json!({"shown": 16, "online": 8}));
        assert_eq!(seen["vcpus"]["slots"][1]["state"], "device");
        assert_eq!(seen["vcpus"]["slots"][1]["place"]["core_id"], 1);
        assert_eq!(seen["guest"]["mem_total_bytes"], 2_013_412_u64 << 10);
        assert_eq!(seen["host"]["cgroup_headroom_bytes"], Value::Null);
        assert_eq!(seen["differences"][0]["kind"], "offline");
    }

    #[test]
    fn a_plan_and_its_report_keep_their_words() {
        let plan = &parsed(&Document::Plan((&example::plan()).into()))["plan"];
        assert_eq!(
            (&plan["steps"][1]["act"], &plan["steps"][1]["proof"]),
            (&"plug-dimm".into(), &"dimm-seen".into())
        );
        assert_eq!(plan["steps"][3]["strength"], "driver-confirmed");
        assert_eq!(plan["steps"][0]["deadline_ms"], 30_000);
        let report = &parsed(&Document::Report((&example::report()).into()))["report"];
        assert_eq!((&report["verdict"], &report["took_ms"]), (&"proven".into(), &900.into()));
        assert_eq!(report["steps"][2]["outcome"], "proven");
        assert_eq!(history()["history"]["open"]["process"], 7);
    }

    #[test]
    fn a_doctors_findings_keep_their_words_and_commands() {
        let told = &doctor()["doctor"];
        assert_eq!(
            (&told["of"], &told["ready"], &told["runs"]),
            (&"machine".into(), &false.into(), &true.into())
        );
        assert_eq!(told["reach"]["most_memory_bytes"], 8_u64 << 30);
        assert_eq!(told["guest"]["name"], "Debian 12");
        let ceiling =
            told["findings"].as_array().unwrap().iter().find(|f| f["subject"] == "memory-ceiling").unwrap();
        assert_eq!((&ceiling["severity"], &ceiling["section"]), (&"missing".into(), &"memory".into()));
        assert_eq!(ceiling["mend"]["kind"], "host-command");
        assert_eq!(told["prepare"], "supple prepare web1 --max-memory 4G --slots 16 --max-vcpus 12");
    }

    #[test]
    fn a_refusal_changed_nothing_and_an_error_says_so() {
        assert_eq!(parsed(&refusal().document())["refusal"]["obstacles"][0]["when"], "not-now");
        assert_eq!(refusal().status(), 2);
        let broke = |began| Failure::Broke { kind: "journal", message: "disk full".to_owned(), began };
        assert_eq!(parsed(&broke(true).document())["error"]["may_have_changed"], true);
        assert_eq!((broke(true).status(), broke(false).status()), (1, 2));
        assert_eq!(Failure::Interrupted(String::new()).status(), 130);
    }
}

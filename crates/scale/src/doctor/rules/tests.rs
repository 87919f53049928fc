use super::*;
use proptest::prelude::*;

fn file(text: &str) -> Vec<RuleFile> {
    vec![RuleFile { path: "/lib/udev/rules.d/x.rules".to_owned(), text: text.to_owned() }]
}

fn writes(text: &str, event: Event) -> Option<String> {
    upon(&file(text), event, "x86_64").map(|verdict| verdict.writes)
}

fn all(text: &str) -> [Option<String>; 3] {
    [Event::MemoryCame, Event::CpuCame, Event::MemoryOffline].map(|event| writes(text, event))
}

fn some(word: &str) -> Option<String> {
    Some(word.to_owned())
}

/// The shape of the rules of RHEL 7.0 to 7.5, and of most guides.
const PLAIN: &str = "\
SUBSYSTEM==\"cpu\", ACTION==\"add\", TEST==\"online\", ATTR{online}==\"0\", ATTR{online}=\"1\"
# memory
SUBSYSTEM==\"memory\", ACTION==\"add\", ATTR{state}==\"offline\", ATTR{state}=\"online\"
";

/// The shape of RHEL 8's and 7.7's: jumps, a variable, a question what the machine is.
const RED_HAT: &str = "\
SUBSYSTEM!=\"memory\", GOTO=\"memory_hotplug_end\"
ACTION!=\"add\", GOTO=\"memory_hotplug_end\"
PROGRAM=\"/bin/uname -p\", RESULT==\"s390*\", GOTO=\"memory_hotplug_end\"
ENV{.state}=\"online\"
PROGRAM=\"/bin/systemd-detect-virt\", RESULT==\"none\", ENV{.state}=\"online_movable\"
ATTR{state}==\"offline\", ATTR{state}=\"$env{.state}\"
LABEL=\"memory_hotplug_end\"
";

/// The shape of Ubuntu's and Debian's rule for Hyper-V and Xen.
const UBUNTU: &str = "\
ATTR{[dmi/id]sys_vendor}==\"Microsoft Corporation\", ATTR{[dmi/id]product_name}==\"Virtual Machine\", GOTO=\"apply\"
ATTR{[dmi/id]sys_vendor}==\"Xen\", GOTO=\"apply\"
GOTO=\"end\"
LABEL=\"apply\"
SUBSYSTEM==\"memory\", ACTION==\"add\", DEVPATH==\"/devices/system/memory/memory[0-9]*\", TEST==\"state\", ATTR{state}!=\"online\", ATTR{state}=\"online\"
SUBSYSTEM==\"cpu\", ACTION==\"add\", DEVPATH==\"/devices/system/cpu/cpu[0-9]*\", TEST==\"online\", ATTR{online}!=\"1\", ATTR{online}=\"1\"
LABEL=\"end\"
";

/// The shape of SUSE's: a rule that goes over several lines.
const SUSE: &str = "\
ACTION!=\"add\", GOTO=\"hotplug_cpu_end\"
SUBSYSTEM!=\"cpu|memory\", GOTO=\"hotplug_cpu_end\"
SUBSYSTEM==\"cpu\", CONST{arch}==\"x86-64\", TEST==\"online\", ATTR{online}==\"0\", ATTR{online}=\"1\"
SUBSYSTEM==\"memory\", CONST{arch}!=\"s390x\", ATTR{state}==\"offline\", ATTR{state}=\"online\", \\
  RUN+=\"/bin/sh -c ' \\
    while read src dst; do :; done </proc/self/mounts\"
LABEL=\"hotplug_cpu_end\"
";

#[test]
fn plain_rules_online_what_comes_and_leave_what_goes() {
    assert_eq!(all(PLAIN), [some("online"), some("1"), None]);
}

#[test]
fn jumps_variables_and_programs_are_followed() {
    assert_eq!(all(RED_HAT), [some("online"), None, None]);
    assert_eq!(upon(&file(RED_HAT), Event::MemoryCame, "s390x"), None);
    assert_eq!(all(SUSE), [some("online"), some("1"), None]);
    assert_eq!(upon(&file(SUSE), Event::MemoryCame, "s390x"), None);
}

#[test]
fn a_rule_for_another_hypervisor_does_nothing_here() {
    assert_eq!(all(UBUNTU), [None, None, None]);
}

#[test]
fn a_rule_that_onlines_what_was_taken_offline_is_found_out() {
    // RHEL 7.6's first form: both conditions on one line mean "neither memory nor added".
    let wrong = RED_HAT.replace("GOTO=\"memory_hotplug_end\"\nACTION", "ACTION");
    assert!(wrong.starts_with("SUBSYSTEM!=\"memory\", ACTION!=\"add\""), "{wrong}");
    assert_eq!(writes(&wrong, Event::MemoryOffline), some("online"));
    assert_eq!(writes(&wrong, Event::MemoryCame), some("online"));
}

#[test]
fn supples_own_rule_does_what_it_promises() {
    let own = "SUBSYSTEM==\"memory\", ACTION==\"add\", TEST==\"state\", ATTR{state}==\"offline\", ATTR{state}=\"online_movable\"";
    assert_eq!(all(own), [some("online_movable"), None, None]);
}

#[test]
fn the_first_file_that_acts_is_named() {
    let mut files = file(UBUNTU);
    files.push(RuleFile { path: "/etc/udev/rules.d/90-own.rules".to_owned(), text: PLAIN.to_owned() });
    let verdict = upon(&files, Event::CpuCame, "x86_64").unwrap();
    assert_eq!(verdict, Verdict { writes: "1".to_owned(), by: "/etc/udev/rules.d/90-own.rules".to_owned() });
}

#[test]
fn no_text_whatever_makes_a_rule_hang_or_fail() {
    for text in [
        "",
        "\"",
        "\"\"\"",
        "=\"\"",
        "GOTO=\"nowhere\"\nATTR{state}=\"online\"",
        "LABEL=\"a\"\nGOTO=\"a\"",
        "ATTR{state==\"offline\", \\\n\\\n\\",
        "SUBSYSTEM==\"[\", ATTR{state}=\"online\"",
        "\u{0}\u{1b}[31m \u{202e}\"x\"==\"y\"",
    ] {
        for event in [Event::MemoryCame, Event::CpuCame, Event::MemoryOffline] {
            assert_eq!(writes(text, event), None, "{text:?}");
        }
    }
}

#[test]
fn patterns_are_the_shells() {
    let matches = |pattern: &str, text: &str| glob(pattern.as_bytes(), text.as_bytes());
    assert!(matches("memory[0-9]*", "memory40") && !matches("memory[0-9]*", "memory"));
    assert!(matches("*", "") && matches("a*c", "abbc") && !matches("a*c", "abb") && matches("?", "x"));
    assert!(!matches("", "x") && matches("s390*", "s390x") && !matches("[", "["));
    let long = "a".repeat(2000);
    assert!(!matches(&format!("{}b", "a*".repeat(1000)), &long), "many stars take no longer than few");
}

proptest! {
    #[test]
    fn whatever_a_guest_has_for_rules_is_read_to_its_end(
        words in prop::collection::vec(
            prop_oneof![
                "[A-Z]{1,9}", Just("ATTR{state}".to_owned()), Just("SUBSYSTEM".to_owned()), Just("GOTO".to_owned()),
                Just("LABEL".to_owned()), Just("==".to_owned()), Just("!=".to_owned()), Just("=".to_owned()),
                Just("\"".to_owned()), Just("\"*[a-".to_owned()), Just(", ".to_owned()), Just("\\\n".to_owned()),
                Just("\n".to_owned()), Just("$env{".to_owned()), any::<String>(),
            ],
            0..60,
        ),
    ) {
        let text = words.concat();
        for event in [Event::MemoryCame, Event::MemoryOffline, Event::CpuCame] {
            // That it ends, and names the file that it was given, is all there is to promise of nonsense.
            let verdict = upon(&file(&text), event, "x86_64");
            prop_assert!(verdict.is_none_or(|verdict| verdict.by.ends_with("x.rules")));
        }
    }
}

//! What is judged of the agent, the guest's system and its kernel.

use super::*;
use crate::doctor::Section;
use crate::doctor::kernel::Built;

#[test]
fn an_agent_that_filters_is_told_from_one_that_is_too_old() {
    let off = |id: &str| {
        changed(|r| {
            r.inside.system = Some(System::of_agent(id, "9", "", "x86_64"));
            guest(r).commands.remove("guest-set-memory-blocks");
            r.inside.disabled.insert("guest-set-memory-blocks".to_owned());
        })
    };
    assert_eq!(about(&off("rhel"), "agent-memory").found, "switched off: guest-set-memory-blocks");
    assert!(mend(&off("rhel"), "agent-memory").contains("/etc/sysconfig/qemu-ga"));
    assert!(mend(&off("debian"), "agent-memory").contains("/etc/qemu/qemu-ga.conf"));
    let old = changed(|r| guest(r).commands.retain(|command| command != "guest-set-memory-blocks"));
    assert_eq!(about(&old, "agent-memory").found, "it has no guest-set-memory-blocks");
    assert_eq!(severity(&old, "agent-memory"), Severity::Missing);
}

#[test]
fn red_hats_filter_of_files_and_programs_is_a_note() {
    let facts = changed(|r| {
        guest(r).commands.retain(|command| !command.contains("file") && !command.contains("exec"));
        r.inside = Inside {
            system: Some(System::of_agent("rhel", "9.4", "Red Hat Enterprise Linux 9.4", "x86_64")),
            disabled: ["guest-exec", "guest-file-open"].map(str::to_owned).into_iter().collect(),
            files_barred: Some("the agent may not read files".to_owned()),
            ..Inside::default()
        };
        guest(r).auto_online = None;
    });
    assert_eq!(severity(&facts, "agent-files"), Severity::Note);
    assert_eq!(severity(&facts, "agent-programs"), Severity::Note);
    assert!(about(&facts, "onlines-memory").found.starts_with("udev, by the support matrix"));
    assert_eq!(severity(&facts, "kernel-options"), Severity::Note);
    assert!(is_ready(&vm(&facts)), "it grows and shrinks all the same: {:#?}", vm(&facts));
}

#[test]
fn a_windows_agent_without_block_commands_lacks_nothing() {
    let facts = changed(|r| {
        guest(r).commands.retain(|command| !command.contains("memory-block") && command != "guest-set-vcpus");
        (guest(r).block, guest(r).auto_online) = (None, None);
        let system = System::of_agent("mswindows", "2022", "Windows Server 2022 Datacenter", "x86_64");
        r.inside = Inside { system: Some(system), ..Inside::default() };
    });
    assert_eq!(severity(&facts, "agent-memory"), Severity::Note);
    assert_eq!(severity(&facts, "onlines-memory"), Severity::Ok);
    assert_eq!(severity(&facts, "removable-vcpus"), Severity::Note);
    assert_eq!(find(&facts, "kernel-options"), None);
    assert!(is_ready(&vm(&facts)), "{:#?}", vm(&facts));
}

#[test]
fn a_system_that_takes_nothing_is_not_ready() {
    let facts = changed(|r| r.inside.system = Some(System::of_agent("freebsd", "14.2", "FreeBSD", "x86_64")));
    assert_eq!(severity(&facts, "guest-system"), Severity::Missing);
    assert_eq!(
        severity(&facts, "virtio-mem"),
        Severity::Missing,
        "a device that its system has no driver for"
    );
}

#[test]
fn a_description_names_the_system_where_the_guest_is_not_heard() {
    let next = Shape { system: System::of_libosinfo("http://microsoft.com/win/2k22", "x86_64"), ..shape() };
    let facts = VmFacts { running: None, next: Some(next), ..good() };
    assert!(about(&facts, "guest-system").found.starts_with("Windows Server 2022"));
}

#[test]
fn kernel_options_that_are_out_are_named_with_what_goes_without_them() {
    let facts = changed(|r| {
        let options = Options::read("CONFIG_64BIT=y\nCONFIG_MEMORY_HOTPLUG=y\nCONFIG_HOTPLUG_CPU=y\n");
        r.inside.options = Some((options, "/proc/config.gz".to_owned()));
        r.seen.memory.virtio_mem.clear();
    });
    assert_eq!(severity(&facts, "kernel-dimms"), Severity::Missing);
    assert_eq!(severity(&facts, "kernel-memory-removal"), Severity::Note);
    assert_eq!(find(&facts, "kernel-virtio-mem"), None, "it has no such device");
    assert_eq!(find(&facts, "kernel-options"), None, "not well, so not said to be");
    let signs = changed(|r| {
        let options = Options::seen(&[("CONFIG_MEMORY_HOTPLUG", Built::In)]);
        r.inside.options = Some((options, "by signs".to_owned()));
    });
    assert!(about(&signs, "kernel-options").found.starts_with("nothing speaks against it"));
}

#[test]
fn limits_on_the_kernels_command_line_are_found() {
    let facts = changed(|r| r.inside.command_line = Some(CommandLine::read("mem=4G nr_cpus=2")));
    assert_eq!(severity(&facts, "kernel-memory-limit"), Severity::Missing);
    assert_eq!(severity(&facts, "kernel-vcpu-limit"), Severity::Missing);
}

#[test]
fn who_onlines_is_the_kernel_a_rule_or_nobody() {
    let with = |auto: AutoOnline, rules: &str, udev: Option<bool>| {
        changed(|r| {
            guest(r).auto_online = Some(auto);
            r.inside.online_policy = None;
            r.inside.udev_runs = udev;
            let path = "/usr/lib/udev/rules.d/40-redhat.rules".to_owned();
            r.inside.rules = Some(vec![RuleFile { path, text: rules.to_owned() }]);
        })
    };
    let rule = "SUBSYSTEM==\"memory\", ACTION==\"add\", ATTR{state}==\"offline\", ATTR{state}=\"online\"\n";
    assert!(
        about(&with(AutoOnline::Movable, "", None), "onlines-memory")
            .found
            .contains("the kernel does, as movable")
    );
    let by_rule = with(AutoOnline::Offline, rule, Some(true));
    assert_eq!(
        about(&by_rule, "onlines-memory").found,
        "udev does: online, by /usr/lib/udev/rules.d/40-redhat.rules"
    );
    assert_eq!(severity(&by_rule, "memory-zone"), Severity::Note, "the kernel's zone");
    let without_udev = with(AutoOnline::Offline, rule, Some(false));
    assert_eq!(about(&without_udev, "onlines-memory").found, "nobody does by itself");
    assert_eq!(mend(&without_udev, "onlines-memory"), "supple guest setup web1");
}

#[test]
fn nobody_and_an_agent_that_may_not_is_missing() {
    let facts = changed(|r| {
        guest(r).auto_online = Some(AutoOnline::Offline);
        guest(r).commands.remove("guest-set-memory-blocks");
        guest(r).commands.remove("guest-set-vcpus");
        r.inside.rules = Some(Vec::new());
    });
    assert_eq!(severity(&facts, "onlines-memory"), Severity::Missing);
    assert_eq!(severity(&facts, "onlines-vcpus"), Severity::Missing);
}

#[test]
fn a_rule_that_onlines_what_was_taken_offline_is_a_danger() {
    let facts = changed(|r| {
        let text = "SUBSYSTEM!=\"memory\", ACTION!=\"add\", GOTO=\"end\"\nATTR{state}==\"offline\", ATTR{state}=\"online\"\n\
                    LABEL=\"end\"\n";
        let path = "/usr/lib/udev/rules.d/40-redhat.rules".to_owned();
        r.inside.rules = Some(vec![RuleFile { path, text: text.to_owned() }]);
    });
    assert_eq!(severity(&facts, "onlines-again"), Severity::Danger);
}

#[test]
fn a_silent_agent_is_mended_where_the_guest_is_known() {
    let facts = changed(|r| r.seen.guest = Guest::Unheard("no answer".to_owned()));
    assert_eq!(severity(&facts, "agent"), Severity::Missing);
    assert!(mend(&facts, "agent").starts_with("apt-get install qemu-guest-agent"));
    let unnamed = VmFacts { called: Called { agent: None, ..on_qemu() }, ..facts };
    assert_eq!(mend(&unnamed, "agent"), "name its socket: supple doctor qmp:/q --agent PATH");
    assert!(
        vm(&unnamed)
            .iter()
            .all(|finding| finding.section != Section::Guest || finding.subject == "guest-system")
    );
}

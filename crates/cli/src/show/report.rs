//! A report: what was asked and achieved, proven by what, in what time, and what held it back.

use anstyle::Style;
use jiff::tz::TimeZone;
use scale::history::History;
use scale::observed::{Pending, PendingDevice};
use scale::report::{GuestSizes, Report, StepReport, Verdict};
use scale::run::Outcome;
use scale::time::Moment;

use crate::paint::{BAD, BOLD, DIM, GOOD, WARN, paint};
use crate::show::{as_options, how_far, paragraph, sizes, wish};
use crate::words::{about, ago, count, when};

/// A report: the verdict, the guest's own account and, where it is not all well, what is left.
pub(crate) fn report(report: &Report, room: usize) -> String {
    if nothing_done(report) {
        let is = report.achieved.unwrap_or(report.from);
        let further = super::limits::wish(&report.asked);
        let all = [sizes(Some(is.memory), Some(is.vcpus))].into_iter().chain(further);
        let all = all.collect::<Vec<_>>().join(", ");
        return led(GOOD, "nothing to do", &format!("{all} already"), room);
    }
    let mut out = headline(report, room);
    if let Some(shows) = guest_shows(report.guest) {
        out.push_str(&paragraph("", &shows, room));
    }
    out.push_str(&what_is_left(report, room));
    out
}

/// Changes that the machine's definition in libvirt did not follow.
pub(crate) fn not_followed(whys: &[String], room: usize) -> String {
    let mut out: String =
        whys.iter().map(|why| paragraph("not kept for the next start: ", why, room)).collect();
    if !whys.is_empty() {
        out.push_str(&paragraph(
            "",
            "`supple reconcile` has the definition follow the running machine.",
            room,
        ));
    }
    out
}

/// What to do after a report that is not all well.
pub(crate) fn again(report: &Report, command: &str, room: usize) -> Option<String> {
    let text = format!("`{command}` tries again from here.");
    (report.verdict != Verdict::Proven).then(|| paragraph("", &text, room))
}

/// True where the machine was as asked already.
fn nothing_done(report: &Report) -> bool {
    report.steps.is_empty() && report.verdict == Verdict::Proven
}

/// `proven: memory 1 GiB -> 3 GiB, vCPUs 1 -> 3 in 900 ms (guest-confirmed)`.
fn headline(report: &Report, room: usize) -> String {
    let strength = report.strength.map(|s| format!(" ({s})")).unwrap_or_default();
    let text = format!("{} in {}{strength}", changes(report), report.took);
    led(style(report.verdict), &report.verdict.to_string(), &text, room)
}

/// A paragraph after a word that stands out.
fn led(style: Style, word: &str, text: &str, room: usize) -> String {
    paragraph(&format!("{word}: "), text, room).replacen(word, &paint(style, word), 1)
}

fn changes(report: &Report) -> String {
    let now = report.achieved;
    let memory = report
        .asked
        .memory
        .map(|asked| one_change("memory", report.from.memory, now.map(|n| n.memory), asked));
    let vcpus =
        report.asked.vcpus.map(|asked| one_change("vCPUs", report.from.vcpus, now.map(|n| n.vcpus), asked));
    let further = super::limits::outcomes(report);
    [memory, vcpus].into_iter().flatten().chain(further).collect::<Vec<_>>().join(", ")
}

pub(crate) fn one_change<T: PartialEq + std::fmt::Display>(
    what: &str,
    from: T,
    now: Option<T>,
    asked: T,
) -> String {
    match now {
        None => format!("{what} {from} -> unknown ({asked} asked)"),
        Some(now) if now == asked && from == asked => format!("{what} {asked}"),
        Some(now) if now == asked => format!("{what} {from} -> {now}"),
        Some(now) if now == from => format!("{what} still {from} ({asked} asked)"),
        Some(now) => format!("{what} {from} -> {now} ({asked} asked)"),
    }
}

fn style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Proven => GOOD,
        Verdict::Partial => WARN,
        Verdict::Failed => BAD,
    }
}

/// `The guest shows 3 GiB online, MemTotal 2.87 GiB, 3 vCPUs online.`
fn guest_shows(guest: GuestSizes) -> Option<String> {
    let online = guest.online.map(|m| format!("{} online", about(m)));
    let total = guest.total.map(|m| format!("MemTotal {}", about(m)));
    let vcpus = guest.vcpus.map(|n| format!("{} online", count(n.into(), "vCPU")));
    let shown: Vec<String> = [online, total, vcpus].into_iter().flatten().collect();
    (!shown.is_empty()).then(|| format!("The guest shows {}.", shown.join(", ")))
}

fn what_is_left(report: &Report, room: usize) -> String {
    let mut out = String::new();
    // What did not hold a proven run back is still worth a word: that it took an interrupted one up.
    let lead = if report.verdict == Verdict::Proven { "note: " } else { "held back: " };
    for why in &report.held_back {
        out.push_str(&paragraph(lead, why, room));
    }
    for left in &report.left_behind {
        out.push_str(&paragraph("left behind: ", left, room));
    }
    for pending in &report.pending {
        out.push_str(&paragraph("pending: ", &still_pending(pending), room));
    }
    out
}

fn still_pending(pending: &Pending) -> String {
    let device = match &pending.device {
        PendingDevice::Dimm { id, .. } => format!("DIMM {id}"),
        PendingDevice::Vcpu { id } => format!("vCPU {id}"),
    };
    format!("the guest may still give up {device}; `supple observe` tells when it has")
}

/// One step as it ended: `  ok         80 ms  plug DIMM supple-dimm0 into slot 0, node 0 (guest-confirmed)`.
pub(crate) fn step(step: &StepReport, room: usize) -> String {
    let (style, word, took, text) = match &step.outcome {
        Outcome::Proven { strength, took } => {
            (GOOD, "ok", took.to_string(), format!("{} ({strength})", step.act))
        }
        Outcome::Refused { why, .. } => (BAD, "refused", String::new(), format!("{}: {why}", step.act)),
        Outcome::Overdue { missing } => (BAD, "overdue", String::new(), format!("{}: {missing}", step.act)),
        Outcome::Lost { why } => (BAD, "lost", String::new(), format!("{}: {why}", step.act)),
    };
    paragraph(&format!("  {word:<7} {took:>7}  "), &text, room).replacen(word, &paint(style, word), 1)
}

/// Who reads a history, and when.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) now: Moment,
    pub(crate) zone: TimeZone,
    pub(crate) room: usize,
}

/// All of `why`: the run that is open, if any, then the last report.
pub(crate) fn history(history: &History, address: &str, holder: Option<u32>, reader: &Reader) -> String {
    let mut parts = Vec::new();
    parts.extend(open_run(history, address, holder, reader));
    parts.extend(history.report().map(|last| last_report(last, reader)));
    if parts.is_empty() {
        return format!("No run on {address} is on record.\n");
    }
    let late = late(history, reader);
    parts.extend((!late.is_empty()).then_some(late));
    parts.join("\n")
}

/// The run that has begun and not ended, as `observe` and `why` tell of it.
pub(crate) fn open_run(
    history: &History,
    address: &str,
    holder: Option<u32>,
    reader: &Reader,
) -> Option<String> {
    let open = history.open()?;
    let wish = wish(&open.plan.asked);
    let began = format!("{} ({})", when(open.began, &reader.zone), ago(open.began, reader.now));
    let far = how_far(open);
    let text = match holder {
        Some(pid) => format!("A run to {wish} that began {began} is in progress (process {pid}), {far}."),
        None => format!(
            "A run to {wish} that began {began} was interrupted {far}. \
             `supple apply {address} {}` takes it up from where the machine stands.",
            as_options(&open.plan.asked, &open.wanted)
        ),
    };
    let painted = paragraph("", &text, reader.room);
    Some(if holder.is_none() {
        painted.replacen("interrupted", &paint(WARN, "interrupted"), 1)
    } else {
        painted
    })
}

fn last_report(last: &Report, reader: &Reader) -> String {
    let began = format!("{}, {}", when(last.began, &reader.zone), ago(last.began, reader.now));
    let mut out = format!("{} {}\n", paint(BOLD, "last run"), paint(DIM, &format!("({began})")));
    out.push_str(&report(last, reader.room));
    if !last.steps.is_empty() {
        out.push('\n');
        for ended in &last.steps {
            out.push_str(&step(ended, reader.room));
        }
    }
    out
}

/// What has come to its end since the report, and what has not.
fn late(history: &History, reader: &Reader) -> String {
    let Some(last) = history.report() else { return String::new() };
    let still = |pending: &&Pending| history.pending().iter().any(|p| p.device.id() == pending.device.id());
    last.pending
        .iter()
        .filter(|p| !still(p))
        .map(|p| {
            paragraph("", &format!("Since then the removal of {} has ended.", p.device.id()), reader.room)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use scale::plan::Sizes;
    use scale::run::{End, Place, Record};
    use scale::time::Span;
    use scale::units::Bytes;
    use scale::wanted::Wanted;

    const VM: &str = "qmp:/run/web1/qmp.sock";

    fn reader() -> Reader {
        Reader { now: example::NOW, zone: TimeZone::UTC, room: 100 }
    }

    fn told(records: &[Record], holder: Option<u32>) -> String {
        example::text(&history(&History::of(records), VM, holder, &reader()))
    }

    fn reported(report: Report) -> Record {
        Record::Reported { report: Box::new(report) }
    }

    fn began() -> Record {
        let plan = Box::new(example::plan());
        Record::Began { at: example::NOW - Span::secs(60), wanted: Wanted::default(), plan }
    }

    #[test]
    fn a_proven_run_is_told_in_two_lines() {
        let expected = "\
proven: memory 1 GiB -> 3 GiB, vCPUs 1 -> 2 in 900 ms (guest-confirmed)
The guest shows 3 GiB online, MemTotal 2.87 GiB, 2 vCPUs online.
";
        assert_eq!(example::text(&report(&example::report(), 100)), expected);
    }

    #[test]
    fn a_partial_run_tells_what_held_it_back_and_how_to_go_on() {
        let mut partial = example::report();
        partial.verdict = Verdict::Partial;
        partial.achieved = Some(Sizes { memory: Bytes::gib(2), vcpus: 2 });
        partial.held_back = vec!["unplug DIMM supple-dimm1: the device is busy in the guest".to_owned()];
        partial.left_behind = vec!["give host memory supple-mem1 back: in use".to_owned()];
        let device = PendingDevice::Vcpu { id: "supple-cpu1".to_owned() };
        partial.pending = vec![Pending { device, since: example::NOW }];
        let expected = "\
partial: memory 1 GiB -> 2 GiB (3 GiB asked), vCPUs 1 -> 2 in 900 ms (guest-confirmed)
The guest shows 3 GiB online, MemTotal 2.87 GiB, 2 vCPUs online.
held back: unplug DIMM supple-dimm1: the device is busy in the guest
left behind: give host memory supple-mem1 back: in use
pending: the guest may still give up vCPU supple-cpu1; `supple observe` tells when it has
";
        assert_eq!(example::text(&report(&partial, 100)), expected);
        let again = |of: &Report| again(of, "supple apply x", 100);
        assert_eq!(again(&partial).as_deref(), Some("`supple apply x` tries again from here.\n"));
        assert_eq!(again(&example::report()), None);
    }

    #[test]
    fn a_proven_run_was_not_held_back() {
        let mut proven = example::report();
        proven.held_back = vec!["an earlier run was interrupted; taken up from there".to_owned()];
        let shown = example::text(&report(&proven, 100));
        assert!(shown.ends_with("\nnote: an earlier run was interrupted; taken up from there\n"), "{shown}");
    }

    #[test]
    fn a_machine_that_is_gone_has_no_size() {
        let mut failed = example::report();
        (failed.verdict, failed.achieved, failed.strength) = (Verdict::Failed, None, None);
        let shown = example::text(&report(&failed, 100));
        assert!(shown.starts_with("failed: memory 1 GiB -> unknown (3 GiB asked), "), "{shown}");
    }

    #[test]
    fn nothing_to_do_is_said_in_one_line() {
        let mut idle = example::report();
        idle.steps.clear();
        assert_eq!(example::text(&report(&idle, 100)), "nothing to do: memory 3 GiB, 2 vCPUs already\n");
    }

    #[test]
    fn the_last_run_is_told_step_by_step() {
        let mut last = example::report();
        last.steps.truncate(1);
        last.steps.push(StepReport {
            act: "plug vCPU supple-cpu1".to_owned(),
            outcome: Outcome::Refused { why: "no\u{1b}[31m room".to_owned(), by_guest: false },
        });
        let expected = "\
last run (2026-11-23 17:06:42, 3 min ago)
proven: memory 1 GiB -> 3 GiB, vCPUs 1 -> 2 in 900 ms (guest-confirmed)
The guest shows 3 GiB online, MemTotal 2.87 GiB, 2 vCPUs online.

  ok        80 ms  make 2 GiB of host memory supple-mem0 (device-only)
  refused          plug vCPU supple-cpu1: no [31m room
";
        assert_eq!(told(&[reported(last)], None), expected);
    }

    #[test]
    fn an_interrupted_run_says_where_it_stopped_and_how_to_go_on() {
        let sending =
            Record::Sending { at: example::NOW, place: Place { step: 1, undo: None }, refused_before: false };
        let expected = "\
A run to memory 3 GiB, 2 vCPUs that began 2026-11-23 17:09:02 (60 s ago) was interrupted after 0 of
4 steps, at: plug DIMM supple-dimm0 into slot 0, node 0. `supple apply qmp:/run/web1/qmp.sock
--memory 3GiB --vcpus 2` takes it up from where the machine stands.
";
        assert_eq!(told(&[began(), sending.clone()], None), expected);
        let shown = told(&[began(), sending], Some(77)).replace('\n', " ");
        assert!(shown.contains("is in progress (process 77)") && !shown.contains("interrupted"), "{shown}");
    }

    #[test]
    fn a_machine_without_a_record_says_so() {
        assert_eq!(told(&[], None), "No run on qmp:/run/web1/qmp.sock is on record.\n");
    }

    #[test]
    fn a_removal_that_ended_after_its_report_is_told() {
        let device = PendingDevice::Vcpu { id: "supple-cpu1".to_owned() };
        let mut last = example::report();
        last.pending = vec![Pending { device, since: example::NOW }];
        let ended = Record::Ended { at: example::NOW, end: End::Done };
        let shown = told(&[began(), ended, reported(last)], None);
        assert!(shown.ends_with("Since then the removal of supple-cpu1 has ended.\n"), "{shown}");
    }
}

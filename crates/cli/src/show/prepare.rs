//! A preparation: what would be changed and why, and how it ended.

use drive::domxml::LEFT_OUT;

use crate::paint::{BAD, BOLD, DIM, GOOD, PLAIN, WARN, paint};
use crate::prepare::{Outcome, Told};
use crate::show::paragraph;
use crate::words::clean;

/// What would be changed, before it is consented to.
pub(crate) fn proposal(told: &Told, room: usize) -> String {
    let mut out = paint(BOLD, &format!("{}: its definition", clean(&told.name)));
    out.push_str("\n\n");
    for line in told.diff.lines() {
        let style = match line.as_bytes().first() {
            _ if line.starts_with("+++") || line.starts_with("---") => BOLD,
            Some(b'+') => GOOD,
            Some(b'-') => BAD,
            Some(b'@') => DIM,
            _ => PLAIN,
        };
        out.push_str(&paint(style, &clean(line)));
        out.push('\n');
    }
    out.push('\n');
    told.changes.iter().for_each(|change| out.push_str(&paragraph("- ", change, room)));
    told.notes.iter().for_each(|note| out.push_str(&paragraph("note: ", note, room)));
    out.push('\n');
    out
}

/// That a throw-away machine started.
pub(crate) fn tried(room: usize) -> String {
    let text = format!("a throw-away machine with this definition starts ({LEFT_OUT})");
    format!("{}\n", paragraph("tried out: ", &text, room))
}

/// How it ended.
pub(crate) fn ending(told: &Told, room: usize) -> String {
    let name = clean(&told.name);
    match told.outcome {
        Outcome::Already => {
            let notes: String = told.notes.iter().map(|note| paragraph("note: ", note, room)).collect();
            format!("nothing to do: {name} is prepared for that already\n{notes}")
        }
        Outcome::Shown => paragraph("", "Nothing was changed: the same words without --dry-run do it.", room),
        Outcome::Defined => {
            let when = if told.runs {
                format!(
                    "{name} runs on unchanged. This takes effect when it is shut down and started again; a restart \
                     within the guest is not enough."
                )
            } else {
                format!("This takes effect when {name} is started.")
            };
            let undo = format!("`supple prepare {} --undo` takes it back.", told.vm);
            let text = paragraph("prepared: ", &format!("{when} {undo}"), room);
            text.replacen("prepared:", &paint(GOOD, "prepared:"), 1)
        }
        Outcome::Otherwise => {
            let text = format!(
                "libvirt took the new definition of {name}, and what it shows of it is not all that was asked for; \
                 `virsh dumpxml --inactive {name}` shows what it made of it, `supple prepare {} --undo` takes it back",
                told.vm
            );
            paragraph("partly: ", &text, room).replacen("partly:", &paint(WARN, "partly:"), 1)
        }
        Outcome::TakenBack => {
            let running = if told.runs { ", from its next start on" } else { "" };
            let text = format!("the definition of {name} is what it was before{running}.");
            paragraph("taken back: ", &text, room).replacen("taken back:", &paint(GOOD, "taken back:"), 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    fn told(outcome: Outcome, runs: bool) -> Told {
        Told {
            name: "web1".to_owned(),
            vm: "web1".to_owned(),
            runs,
            diff: "--- before\n+++ after\n@@ -1,2 +1,2 @@\n-<vcpu>2</vcpu>\n+<vcpu current='2'>4</vcpu>\n"
                .to_owned(),
            changes: vec!["up to 4 vCPUs".to_owned()],
            notes: vec!["it has no agent".to_owned()],
            tried: Some(true),
            outcome,
        }
    }

    #[test]
    fn the_difference_comes_first_then_what_it_is_for() {
        let seen = told(Outcome::Shown, true);
        let shown = [proposal(&seen, 70), tried(70), ending(&seen, 70)].concat();
        let shown = example::text(&shown);
        let expected = "\
web1: its definition

--- before
+++ after
@@ -1,2 +1,2 @@
-<vcpu>2</vcpu>
+<vcpu current='2'>4</vcpu>

- up to 4 vCPUs
note: it has no agent

tried out: a throw-away machine with this definition starts (without
           disks, networks, firmware, huge pages and passed-through
           devices)

Nothing was changed: the same words without --dry-run do it.
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_running_machine_is_said_to_run_on_unchanged() {
        let running = example::text(&ending(&told(Outcome::Defined, true), 200));
        assert!(
            running.contains("runs on unchanged") && running.contains("shut down and started"),
            "{running}"
        );
        assert!(running.contains("`supple prepare web1 --undo` takes it back"), "{running}");
        let off = example::text(&ending(&told(Outcome::Defined, false), 200));
        assert!(off.contains("when web1 is started") && !off.contains("runs on"), "{off}");
    }
}

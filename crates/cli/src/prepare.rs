//! `supple prepare`: edits a machine's definition so that its next start can be resized while it runs; and takes the last
//! such edit back. A running machine is not touched. What the edit is, is decided in `drive::domxml`.

use drive::domxml::{self, LEFT_OUT, Obstacle, Prepared, trial};
use drive::journal::FileJournal;
use drive::libvirt::{CallError, Kept, Xml};
use scale::limits::Limits;
use scale::plan::{Obstacle as Stands, Refusal, When};
use scale::units::Bytes;

use crate::address::{Address, quoted, uuid_key};
use crate::args::Prepare;
use crate::failure::{DONE, Failure, PARTIAL};
use crate::prepared::{Former, Last};
use crate::show;
use crate::target::{block_on, directory, journal};
use crate::{kept, screen, wire};

/// The attribute that holds a password.
const SECRET: &str = " passwd=";

/// Carries the command out; its exit status.
pub(crate) fn run(asked: &Prepare) -> Result<u8, Failure> {
    let told = block_on(carry_out(asked))?;
    if asked.output.json {
        screen::say(&wire::Document::Prepared(Box::new((&told).into())).render());
    } else {
        screen::say(&show::prepare::ending(&told, screen::columns()));
    }
    Ok(match told.outcome {
        Outcome::Otherwise => PARTIAL,
        Outcome::Already | Outcome::Shown | Outcome::Defined | Outcome::TakenBack => DONE,
    })
}

/// What a preparation came to.
#[derive(Debug)]
pub(crate) struct Told {
    /// The machine's name.
    pub(crate) name: String,
    /// How the user named it.
    pub(crate) vm: String,
    /// True where it runs, with the definition that it was started with.
    pub(crate) runs: bool,
    /// What was changed, or would be, as a unified diff.
    pub(crate) diff: String,
    /// Each change, in a sentence.
    pub(crate) changes: Vec<String>,
    /// What else is good to know.
    pub(crate) notes: Vec<String>,
    /// Whether a throw-away machine of the new definition started; nothing where none was tried.
    pub(crate) tried: Option<bool>,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

/// How a preparation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The machine was prepared already.
    Already,
    /// It was only to be shown.
    Shown,
    /// The definition is the new one.
    Defined,
    /// libvirt took the new definition, and shows another one.
    Otherwise,
    /// The definition is the former one again.
    TakenBack,
}

async fn carry_out(asked: &Prepare) -> Result<Told, Failure> {
    let Address::Libvirt(domain) = &asked.vm else {
        return Err(Failure::bad_input(by_hand(asked)));
    };
    let kept = kept::find(domain, &Limits::default()).await?;
    if !kept.call("a question to libvirt", |domain| domain.is_persistent()).await? {
        return Err(refused(format!(
            "{} is transient: it has no definition that a next start would take; make it persistent with `virsh define`",
            kept.name()
        )));
    }
    // With its secrets, without which it could not be defined again.
    let before = kept.described(Xml::InactiveSecure).await?;
    if asked.undo { take_back(asked, &kept, before).await } else { prepare(asked, &kept, before).await }
}

async fn prepare(asked: &Prepare, kept: &Kept, before: String) -> Result<Told, Failure> {
    let domain = domxml::Domain::parse(&before).map_err(|error| refused(error.to_string()))?;
    let host = kept.host_limits(&domain).await?;
    let wanted = wish(asked);
    let prepared =
        domxml::prepare(&before, &wanted, &host).map_err(|refusal| stands_against(&refusal.obstacles))?;
    let mut told = told(asked, kept, &prepared).await?;
    if prepared.is_unchanged() {
        return Ok(told);
    }
    if !asked.output.json {
        screen::say(&show::prepare::proposal(&told, screen::columns()));
    }
    if !asked.no_trial {
        try_out(kept, &prepared).await?;
        told.tried = Some(true);
        if !asked.output.json {
            screen::say(&show::prepare::tried(screen::columns()));
        }
    }
    if asked.dry_run {
        told.outcome = Outcome::Shown;
        return Ok(told);
    }
    consent(asked, "Change the definition? [y/N] ")?;
    let after = define(kept, &before, &prepared.xml).await?;
    let holds = domxml::prepare(&after, &wanted, &host).is_ok_and(|again| again.is_unchanged());
    told.outcome = if holds { Outcome::Defined } else { Outcome::Otherwise };
    Ok(told)
}

/// Starts a throw-away machine with the result. Where none starts, one with the present definition shows whose fault that
/// is. Always of one name, so that libvirt keeps one log of a machine's trials and not one of each.
async fn try_out(kept: &Kept, prepared: &Prepared) -> Result<(), Failure> {
    let name = format!("supple-trial-{}", &kept.uuid()[..8]);
    let of = |xml: &str| trial(xml, &name).map_err(|error| refused(error.to_string()));
    let Err(why) = kept.try_out(&of(&prepared.xml)?).await else { return Ok(()) };
    let text = match kept.try_out(&of(&prepared.undo)?).await {
        Ok(()) => format!(
            "a throw-away machine with this definition ({LEFT_OUT}) does not start: {why}; ask for less, or mend what it \
             names, or leave the trial out with --no-trial where you know better"
        ),
        Err(_) => format!(
            "the trial tells nothing: a throw-away machine ({LEFT_OUT}) does not start here with the present definition \
             either: {why}; leave the trial out with --no-trial where you know better"
        ),
    };
    Err(refused(text))
}

/// Keeps the former definition, puts the new one in its place if that still is the former one, and tells what libvirt
/// made of it.
async fn define(kept: &Kept, before: &str, after: &str) -> Result<String, Failure> {
    let (_lock, former) = hold(kept)?;
    // Before the change: what it was must not be lost with this process.
    let number = former.keep(before)?;
    match kept.redefine(before, after).await {
        Ok(true) => {}
        Ok(false) => {
            former.forget(number);
            return Err(changed_meanwhile(kept));
        }
        Err(error) => {
            // After a time-out it may still come true.
            let began = matches!(error, CallError::TimedOut { .. });
            if !began {
                former.forget(number);
            }
            return Err(Failure::Broke { kind: "not-prepared", message: error.to_string(), began });
        }
    }
    let now = kept.described(Xml::InactiveSecure).await.map_err(|error| Failure::Broke {
        kind: "not-prepared",
        message: format!("the definition was changed, but libvirt does not tell of it: {error}"),
        began: true,
    })?;
    former.done(number, &now)?;
    Ok(now)
}

async fn told(asked: &Prepare, kept: &Kept, prepared: &Prepared) -> Result<Told, Failure> {
    Ok(Told {
        name: kept.name(),
        vm: asked.vm.to_string(),
        runs: kept.state().await?.is_there(),
        diff: masked(&prepared.diff),
        changes: prepared.changes.clone(),
        notes: prepared.notes.clone(),
        tried: None,
        outcome: Outcome::Already,
    })
}

async fn take_back(asked: &Prepare, kept: &Kept, now: String) -> Result<Told, Failure> {
    let Some(former) = Former::of(&directory(), &kept.uuid()).last(&now)? else {
        return Err(refused(format!(
            "no preparation of {} is on record here, so there is none to take back",
            kept.name()
        )));
    };
    if former.after.as_ref() != Some(&now) {
        return Err(changed_since(kept, &former));
    }
    let told = Told {
        name: kept.name(),
        vm: asked.vm.to_string(),
        runs: kept.state().await?.is_there(),
        diff: masked(&domxml::diff(("prepared", &now), ("former", &former.before))),
        changes: vec!["the definition becomes what it was before the last preparation".to_owned()],
        notes: Vec::new(),
        tried: None,
        outcome: if asked.dry_run { Outcome::Shown } else { Outcome::TakenBack },
    };
    if !asked.output.json {
        screen::say(&show::prepare::proposal(&told, screen::columns()));
    }
    if asked.dry_run {
        return Ok(told);
    }
    consent(asked, "Take the preparation back? [y/N] ")?;
    let (_lock, store) = hold(kept)?;
    if !kept.redefine(&now, &former.before).await? {
        return Err(changed_meanwhile(kept));
    }
    store.forget(former.number);
    Ok(told)
}

fn wish(asked: &Prepare) -> domxml::Prepare {
    domxml::Prepare {
        max_memory: asked.max_memory,
        slots: asked.slots,
        max_vcpus: asked.max_vcpus,
        removable_vcpus: asked.removable_vcpus,
        virtio_mem: asked.virtio_mem.map(|size| domxml::VirtioMem {
            size,
            block: asked.block,
            node: asked.node,
        }),
        agent_channel: !asked.no_agent_channel,
    }
}

/// Has what was shown confirmed.
fn consent(asked: &Prepare, question: &str) -> Result<(), Failure> {
    if asked.yes {
        return Ok(());
    }
    if asked.output.json || !screen::can_ask() {
        return Err(Failure::NobodyToAsk);
    }
    if screen::ask(question) { Ok(()) } else { Err(Failure::Declined) }
}

/// The machine, for this process alone: a resize edits its definition too.
fn hold(kept: &Kept) -> Result<(FileJournal, Former), Failure> {
    Ok((journal(&uuid_key(&kept.uuid()))?, Former::of(&directory(), &kept.uuid())))
}

fn changed_meanwhile(kept: &Kept) -> Failure {
    refused(format!(
        "somebody changed the definition of {} in the meantime; run the same command again",
        kept.name()
    ))
}

fn changed_since(kept: &Kept, former: &Last) -> Failure {
    let (virsh, name) = (format!("virsh -c {}", quoted(kept.uri())), kept.name());
    let path = quoted(&former.path.display().to_string());
    refused(format!(
        "the definition of {name} was changed since it was prepared, and that change would be lost; what it was before is in \
         {path}: `{virsh} dumpxml --inactive --security-info {} | diff {path} -` shows the difference, and `{virsh} define \
         {path}` puts it back all the same",
        quoted(&name)
    ))
}

/// All that stands against it, in one refusal.
fn stands_against(obstacles: &[Obstacle]) -> Failure {
    Failure::Refused(Refusal {
        obstacles: obstacles.iter().map(|obstacle| stands(&obstacle.to_string())).collect(),
    })
}

/// An obstacle's sentence as a reason and a way out, which stands after its last semicolon.
fn stands(sentence: &str) -> Stands {
    let (reason, way_out) = sentence.rsplit_once("; ").unwrap_or((sentence, "change the definition by hand"));
    Stands { when: When::Impossible, reason: reason.to_owned(), way_out: way_out.to_owned() }
}

/// What to do with a machine on plain QEMU.
fn by_hand(asked: &Prepare) -> String {
    let max = asked.max_memory.map_or("SIZE".to_owned(), for_qemu);
    let slots = asked.slots.map_or("N".to_owned(), |slots| slots.to_string());
    let vcpus = asked.max_vcpus.map_or("M".to_owned(), |vcpus| vcpus.to_string());
    format!(
        "a machine on plain QEMU has no definition to edit: start it with -m SIZE,slots={slots},maxmem={max} and -smp \
         N,maxcpus={vcpus}; `supple prepare` is for machines of libvirt's"
    )
}

/// A size as QEMU reads it.
fn for_qemu(size: Bytes) -> String {
    let units = [(Bytes::gib(1), "G"), (Bytes::mib(1), "M"), (Bytes::new(1024), "K")];
    let unit = units.into_iter().find(|(unit, _)| size.is_multiple_of(*unit));
    unit.map_or(size.to_string(), |(unit, letter)| format!("{}{letter}", size.count_of(unit)))
}

/// The text without the passwords in it, which are in graphics devices alone (`passwd`; docs/formatdomain of libvirt).
fn masked(diff: &str) -> String {
    let mut out = String::new();
    let mut rest = diff;
    while let Some(at) = rest.find(SECRET) {
        let (before, secret) = rest.split_at(at + SECRET.len());
        out.push_str(before);
        rest = secret;
        let Some(quote) = secret.chars().next().filter(|c| matches!(c, '"' | '\'')) else { continue };
        let Some(end) = secret[1..].find(quote) else { continue };
        out.push_str(&format!("{quote}...{quote}"));
        rest = &secret[end + 2..];
    }
    out + rest
}

fn refused(message: String) -> Failure {
    Failure::Broke { kind: "not-prepared", message, began: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_ends_with_its_way_out() {
        let made = stands("300 slots are too many: QEMU has 256; each takes room; ask for 16");
        assert_eq!((made.reason.ends_with("takes room"), made.way_out.as_str()), (true, "ask for 16"));
        assert!(!stands("no way").way_out.is_empty());
        assert_eq!([Bytes::gib(64), Bytes::mib(1536)].map(for_qemu), ["64G", "1536M"]);
    }

    #[test]
    fn a_password_is_never_shown() {
        let line = "   <graphics type='vnc' passwd='a\"b' port='1'/>\n+  <x passwd=\"it's\"/>\n";
        let shown = masked(line);
        assert_eq!(shown, "   <graphics type='vnc' passwd='...' port='1'/>\n+  <x passwd=\"...\"/>\n");
        for odd in [" passwd=", " passwd=x", " passwd='x"] {
            assert_eq!(masked(odd), odd);
        }
        assert_eq!(masked("<vcpu>2</vcpu>"), "<vcpu>2</vcpu>");
    }
}

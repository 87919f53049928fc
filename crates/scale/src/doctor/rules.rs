//! What a guest's udev rules do with new memory and new CPUs: read by carrying them out on an event that did not happen.
//!
//! Distributions' rules jump and compare in ways that no search for words sees: Ubuntu's online memory, but only where
//! the machine's maker is Microsoft or Xen; one of RHEL 7.6 means `add` and says something else. So rules are *run*, on
//! the event of a block or CPU of a QEMU machine, as far as they can matter here. What they would start is not started.

use std::collections::BTreeMap;

/// One file of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFile {
    /// Its path in the guest.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What happened to which device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A memory block came, offline.
    MemoryCame,
    /// A memory block was taken offline.
    MemoryOffline,
    /// A CPU came, offline.
    CpuCame,
}

/// What the rules do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is written to the device's `state` or `online` file, such as `online`, `online_movable`, `1`.
    pub writes: String,
    /// The file that says so.
    pub by: String,
}

/// The longest file, in lines, that is carried out; distributions' own have a few hundred.
const MOST_LINES: usize = 10_000;

/// What `files`, in the order in which udev reads them, do upon `event` in a guest of architecture `arch` (as `uname -m`
/// has it); nothing where they leave the device as it is.
pub fn upon(files: &[RuleFile], event: Event, arch: &str) -> Option<Verdict> {
    let mut device = Device::new(event, arch);
    for file in files {
        if let Some(value) = device.run(&file.text) {
            return Some(Verdict { writes: value, by: file.path.clone() });
        }
    }
    None
}

/// The device of an event, and what rules have set so far.
struct Device {
    subsystem: &'static str,
    action: &'static str,
    kernel: &'static str,
    /// The attribute that rules write to bring it online, and its present value.
    attribute: (&'static str, &'static str),
    arch: String,
    result: String,
    env: BTreeMap<String, String>,
}

/// One `KEY{attribute}operator"value"` of a rule.
#[derive(Debug, PartialEq, Eq)]
struct Term<'a> {
    key: &'a str,
    attribute: &'a str,
    operator: &'a str,
    value: &'a str,
}

impl Device {
    fn new(event: Event, arch: &str) -> Device {
        let (subsystem, action, kernel, attribute) = match event {
            Event::MemoryCame => ("memory", "add", "memory40", ("state", "offline")),
            Event::MemoryOffline => ("memory", "offline", "memory40", ("state", "offline")),
            Event::CpuCame => ("cpu", "add", "cpu9", ("online", "0")),
        };
        Device {
            subsystem,
            action,
            kernel,
            attribute,
            arch: arch.to_owned(),
            result: String::new(),
            env: BTreeMap::new(),
        }
    }

    /// Carries out one file; what it writes to the attribute, if it does.
    fn run(&mut self, text: &str) -> Option<String> {
        let mut label: Option<String> = None;
        for line in lines(text) {
            let terms = terms(&line);
            if let Some(wanted) = &label {
                if !terms.iter().any(|t| t.key == "LABEL" && t.value == wanted) {
                    continue;
                }
                label = None;
            }
            if !terms.iter().all(|term| self.holds(term)) {
                continue;
            }
            for term in &terms {
                match (term.key, term.operator) {
                    ("ENV", "=") => drop(self.env.insert(term.attribute.to_owned(), self.filled(term.value))),
                    ("ATTR", "=") if term.attribute == self.attribute.0 => {
                        return Some(self.filled(term.value));
                    }
                    ("GOTO", _) => label = Some(term.value.to_owned()),
                    _other => {}
                }
            }
        }
        None
    }

    /// Whether a condition holds; what is no condition does.
    fn holds(&mut self, term: &Term<'_>) -> bool {
        // A program is a condition in whatever way it is written; none is started.
        if term.key == "PROGRAM" {
            self.result = self.output(term.value);
            return true;
        }
        let wants = match term.operator {
            "==" => true,
            "!=" => false,
            _assigns => return true,
        };
        let actual = match term.key {
            "SUBSYSTEM" | "SUBSYSTEMS" => self.subsystem.to_owned(),
            "ACTION" => self.action.to_owned(),
            "KERNEL" | "KERNELS" => self.kernel.to_owned(),
            "DEVPATH" => format!("/devices/system/{}/{}", self.subsystem, self.kernel),
            "RESULT" => self.result.clone(),
            "ENV" => self.env.get(term.attribute).cloned().unwrap_or_default(),
            "CONST" => match term.attribute {
                "arch" => self.arch.replace("x86_64", "x86-64"),
                "virt" => "kvm".to_owned(),
                _other => String::new(),
            },
            "ATTR" | "ATTRS" if term.attribute == self.attribute.0 => self.attribute.1.to_owned(),
            "ATTR" | "ATTRS" if term.attribute.ends_with("sys_vendor") => "QEMU".to_owned(),
            "ATTR" | "ATTRS" => String::new(),
            // Whether the attribute's file is there: the one that matters is.
            "TEST" => return wants == (term.value == self.attribute.0),
            _other => return false,
        };
        let matches = term.value.split('|').any(|pattern| glob(pattern.as_bytes(), actual.as_bytes()));
        matches == wants
    }

    /// What the programs that such rules start would say.
    fn output(&self, command: &str) -> String {
        if command.contains("uname") {
            self.arch.clone()
        } else if command.contains("detect-virt") {
            "kvm".to_owned()
        } else {
            String::new()
        }
    }

    /// A value with `$env{NAME}` and `%E{NAME}` filled in.
    fn filled(&self, value: &str) -> String {
        let name = value.strip_prefix("$env{").or_else(|| value.strip_prefix("%E{"));
        match name.and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => self.env.get(name).cloned().unwrap_or_default(),
            None => value.to_owned(),
        }
    }
}

/// The lines that say something, continued ones in one.
fn lines(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut line = String::new();
    for part in text.lines().take(MOST_LINES) {
        match part.strip_suffix('\\') {
            Some(part) => line.push_str(part),
            None => {
                line.push_str(part);
                let whole = std::mem::take(&mut line);
                if !whole.trim_start().starts_with('#') && !whole.trim().is_empty() {
                    all.push(whole);
                }
            }
        }
    }
    all
}

/// The terms of a rule, as far as they can be read.
fn terms(line: &str) -> Vec<Term<'_>> {
    let mut terms = Vec::new();
    let mut rest = line;
    // Ends: each turn takes at least the quotes off `rest`.
    while let Some((head, after)) = rest.split_once('"') {
        let Some((value, tail)) = after.split_once('"') else { break };
        let head = head.trim_matches([',', ' ', '\t']);
        let key_end = head.find(['=', '!', '+', '-', ':']).unwrap_or(head.len());
        let (key, operator) = head.split_at(key_end);
        let (key, attribute) = match key.split_once('{') {
            Some((key, attribute)) => (key, attribute.strip_suffix('}').unwrap_or(attribute)),
            None => (key, ""),
        };
        terms.push(Term { key: key.trim(), attribute, operator: operator.trim(), value });
        rest = tail;
    }
    terms
}

/// Shell patterns: `*`, `?` and `[a-z]`. Linear in the text for each star, so that no pattern takes long.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match one(&pattern[p..], text[t]) {
            Some(taken) => (p, t) = (p + taken, t + 1),
            None if pattern.get(p) == Some(&b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            None => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// How much of the pattern matches this one byte, if any but a star does.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'*' => None,
        b'?' => Some(1),
        b'[' => {
            let end = pattern.iter().position(|b| *b == b']')?;
            let set = &pattern[1..end];
            let ranges = set.windows(3).any(|w| w[1] == b'-' && (w[0]..=w[2]).contains(&byte));
            (ranges || set.contains(&byte)).then_some(end + 1)
        }
        literal => (*literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests;

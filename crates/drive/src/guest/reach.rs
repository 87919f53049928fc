//! The way to a guest's agent, which may not be there: no socket named, nobody listening, a guest that boots or hangs.
//! It connects when first needed and again after the connection ended, and remembers a silence for a while, so that
//! a guest that does not answer costs its limit once and not at every question. It interprets no answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scale::observed::{GuestFacts, MemBlock, MemInfo};
use scale::units::Bytes;
use scale::wanted::Scope;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::facts::Lasting;
use super::{Agent, AgentError};
#[cfg(feature = "libvirt")]
use crate::libvirt::AgentLine;

/// The way to one guest's agent.
#[derive(Debug)]
pub struct Reach {
    way: Option<Way>,
    agent: Option<Agent>,
    /// A connecting that is under way.
    knock: Option<Knock>,
    /// Questions that are under way.
    ahead: Option<Ahead>,
    /// Until when the agent is taken to be silent, and why.
    silence: Option<(Instant, String)>,
    limit: Duration,
    /// What the agent said that changes only with a restart of the guest.
    pub(super) lasting: Option<Lasting>,
    /// The size of a memory block, as it said; this too.
    pub(super) block: Option<Bytes>,
    /// The zones of memory blocks that were taken offline through this, in Linux's words.
    pub(super) zones: BTreeMap<u64, String>,
    /// The memory blocks that the guest listed last, and when.
    listed: Option<(Instant, Vec<MemBlock>)>,
    /// What the guest showed right after the last change to its memory blocks.
    after: Option<After>,
    /// What there is to say of acts that were carried out otherwise than one might think.
    remarks: Vec<String>,
}

/// What a shell that changed memory blocks read in the guest when it had.
#[derive(Debug)]
pub(super) struct After {
    pub(super) since: Instant,
    /// All of the guest's blocks.
    pub(super) blocks: Vec<MemBlock>,
    pub(super) meminfo: MemInfo,
}

/// More remarks than this are no news.
const MOST_REMARKS: usize = 64;

/// Connects to an agent while others are at work. Dropped, it stops.
#[derive(Debug)]
struct Knock(JoinHandle<Result<Agent, AgentError>>);

impl Knock {
    /// May be dropped and asked again.
    async fn answer(&mut self) -> Result<Agent, AgentError> {
        // It is stopped nowhere but in `drop`, so all that can go wrong is a fault of ours in it, which stays one.
        (&mut self.0).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What was asked of a guest while others were at work. Dropped, nobody waits for the answer any more.
#[derive(Debug)]
struct Ahead {
    task: JoinHandle<Told>,
    since: Instant,
    scope: Scope,
}

/// What a guest told when it was asked for everything in a scope.
pub(super) type Told = Result<(Lasting, GuestFacts), AgentError>;

/// An answer that is older than this is asked for again.
const FRESH: Duration = Duration::from_secs(1);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone)]
enum Way {
    Socket(PathBuf),
    #[cfg(feature = "libvirt")]
    Libvirt(AgentLine),
}

impl Way {
    async fn open(&self, limit: Duration) -> Result<Agent, AgentError> {
        match self {
            Way::Socket(path) => Agent::connect(path, limit).await,
            #[cfg(feature = "libvirt")]
            Way::Libvirt(line) => Ok(Agent::through(line.clone())),
        }
    }
}

/// Why the guest gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mute {
    /// It cannot be asked: no agent is named, or its agent does not take the command.
    #[error("{0}")]
    Unasked(String),
    /// It was asked, or would have been, and did not answer in time or sensibly. Nothing was sent of a command that
    /// changes something.
    #[error("{0}")]
    Silent(String),
    /// It was asked and tried, and said no.
    #[error("{0}")]
    Refused(String),
    /// The command was sent and no answer came: the guest may or may not have carried it out.
    #[error("{0}")]
    Unknown(String),
}

impl Mute {
    /// Sorts an agent's error.
    pub(crate) fn of(error: &AgentError) -> Mute {
        let text = error.to_string();
        match error {
            AgentError::Disabled { .. } | AgentError::NotFound { .. } => Mute::Unasked(text),
            AgentError::Refused { .. } => Mute::Refused(text),
            AgentError::Unreachable(_) | AgentError::Silent { .. } | AgentError::Absent { .. } => {
                Mute::Silent(text)
            }
            AgentError::TimedOut { .. }
            | AgentError::Closed { .. }
            | AgentError::Garbled { .. }
            | AgentError::TooBig { .. } => Mute::Unknown(text),
        }
    }
}

impl Reach {
    /// The way to the agent behind the socket `path`, or to none. Nothing is opened yet. `limit` bounds each
    /// connecting and each question.
    pub fn new(path: Option<&Path>, limit: Duration) -> Reach {
        Reach::by(path.map(|path| Way::Socket(path.to_owned())), limit)
    }

    /// The way to the agent that libvirt holds. Nothing is asked of it yet.
    #[cfg(feature = "libvirt")]
    pub fn through(line: AgentLine, limit: Duration) -> Reach {
        Reach::by(Some(Way::Libvirt(line)), limit)
    }

    fn by(way: Option<Way>, limit: Duration) -> Reach {
        Reach {
            way,
            agent: None,
            knock: None,
            ahead: None,
            silence: None,
            limit,
            lasting: None,
            block: None,
            zones: BTreeMap::new(),
            listed: None,
            after: None,
            remarks: Vec::new(),
        }
    }

    /// Begins to connect, on the runtime that this is called on. How that ends, the first question will tell.
    pub fn knock(&mut self) {
        if let (Some(way), None, None) = (self.way.clone(), &self.agent, &self.knock) {
            let limit = self.limit;
            self.knock = Some(Knock(tokio::spawn(async move { way.open(limit).await })));
        }
    }

    /// Begins to ask an agent that needs no connecting, on the runtime that this is called on.
    #[cfg(feature = "libvirt")]
    pub(super) fn ask_ahead<F>(&mut self, scope: Scope, ask: impl FnOnce(Agent) -> F)
    where
        F: Future<Output = Told> + Send + 'static,
    {
        let Some(Way::Libvirt(line)) = self.way.clone() else { return };
        let task = tokio::spawn(ask(Agent::through(line)));
        self.ahead = Some(Ahead { task, since: Instant::now(), scope });
    }

    /// The answer to what was asked ahead, if that was everything in `scope`, and lately.
    pub(super) async fn told_ahead(&mut self, scope: Scope) -> Option<Told> {
        let mut ahead =
            self.ahead.take().filter(|ahead| ahead.scope == scope && ahead.since.elapsed() < FRESH)?;
        // It is stopped nowhere but in `drop`, as above.
        Some((&mut ahead.task).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())))
    }

    /// How long the agent may take to answer a question.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The agent, connected. A silence is remembered for as long as one more try would take.
    ///
    /// # Errors
    /// [`Mute::Unasked`] where no agent is named, else [`Mute::Silent`].
    pub async fn agent(&mut self) -> Result<&mut Agent, Mute> {
        let Some(way) = &self.way else {
            return Err(Mute::Unasked("no guest agent is named for this machine".into()));
        };
        if let Some((until, why)) = &self.silence {
            if Instant::now() < *until {
                return Err(Mute::Silent(why.clone()));
            }
            self.silence = None;
        }
        let agent = match (self.agent.take(), &mut self.knock) {
            (Some(agent), _) => Ok(agent),
            (None, Some(knock)) => {
                let answer = knock.answer().await;
                self.knock = None;
                answer
            }
            (None, None) => way.open(self.limit).await,
        };
        match agent {
            Ok(agent) => Ok(self.agent.insert(agent)),
            Err(error) => Err(self.note(&error)),
        }
    }

    /// True where commands that are sent together take as long as one after the other.
    pub(crate) fn pays_per_command(&self) -> bool {
        match &self.way {
            None | Some(Way::Socket(_)) => false,
            #[cfg(feature = "libvirt")]
            Some(Way::Libvirt(_)) => true,
        }
    }

    /// True where the agent is known to offer the command.
    pub(crate) fn offers(&self, command: &str) -> bool {
        self.lasting.as_ref().is_some_and(|lasting| lasting.offers(command))
    }

    /// The guest's system, as it names itself (`debian`, `mswindows`), where that is known.
    pub(crate) fn os_id(&self) -> Option<&str> {
        self.lasting.as_ref()?.os_id()
    }

    /// Carries out one command within `limit`.
    ///
    /// # Errors
    /// [`Mute`].
    pub async fn call(&mut self, command: &str, arguments: Value, limit: Duration) -> Result<Value, Mute> {
        let answer = self.agent().await?.call(command, arguments, limit).await;
        answer.map_err(|error| self.note(&error))
    }

    /// Takes note of an agent's error: a connection that has ended is made anew next time, a silence is remembered.
    pub fn note(&mut self, error: &AgentError) -> Mute {
        let mute = Mute::of(error);
        match error {
            AgentError::Unreachable(_) | AgentError::Silent { .. } | AgentError::Absent { .. } => {
                self.silence = Some((Instant::now() + self.limit, error.to_string()));
            }
            AgentError::Closed { .. } => {
                self.agent = None;
                self.silence = Some((Instant::now() + self.limit, error.to_string()));
            }
            AgentError::Refused { .. }
            | AgentError::Disabled { .. }
            | AgentError::NotFound { .. }
            | AgentError::TimedOut { .. }
            | AgentError::Garbled { .. }
            | AgentError::TooBig { .. } => {}
        }
        mute
    }

    /// Takes note of all memory blocks that the guest lists now.
    pub(super) fn lists(&mut self, blocks: &[MemBlock]) {
        self.listed = Some((Instant::now(), blocks.to_vec()));
    }

    /// Takes note of what the guest shows after a change to some of its memory blocks: the others are as it listed them
    /// lately. Of nothing, where that is not known.
    pub(super) fn changed(&mut self, shown: Option<(Vec<MemBlock>, MemInfo)>) {
        let listed = self.listed.take().filter(|(since, _)| since.elapsed() < FRESH);
        self.after = shown.zip(listed).map(|((changed, meminfo), (since, mut blocks))| {
            blocks.retain(|block| changed.iter().all(|other| other.index != block.index));
            blocks.extend(changed);
            blocks.sort_by_key(|block| block.index);
            After { since, blocks, meminfo }
        });
    }

    /// Has the next question be put to the guest, whatever it showed before: something is about to be changed.
    pub(crate) fn changes(&mut self) {
        self.after = None;
    }

    /// What the guest showed lately, after the last change: an answer to the next question, and to that one alone.
    pub(super) fn after(&mut self) -> Option<After> {
        self.after.take().filter(|after| after.since.elapsed() < FRESH)
    }

    pub(super) fn remark(&mut self, remark: String) {
        if self.remarks.len() < MOST_REMARKS {
            self.remarks.push(remark);
        }
    }

    /// What there is to say of the acts since the last time.
    pub(crate) fn remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }

    /// Forgets what was remembered of the guest: it has restarted.
    pub fn forget(&mut self) {
        self.ahead = None;
        self.listed = None;
        self.after = None;
        self.lasting = None;
        self.block = None;
        self.zones.clear();
        self.silence = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn showing() -> Reach {
        let mut reach = Reach::new(None, Duration::from_secs(1));
        let meminfo = MemInfo { total: Bytes::gib(2), free: Bytes::gib(1), available: Bytes::gib(1) };
        let blocks = vec![MemBlock { index: 32, online: true }];
        reach.lists(&[MemBlock { index: 31, online: true }, MemBlock { index: 32, online: false }]);
        reach.changed(Some((blocks, meminfo)));
        reach
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_guest_showed_after_a_change_answers_one_question_and_none_after_the_next_change() {
        let mut reach = showing();
        let online = |block: &MemBlock| block.online;
        assert_eq!(reach.after().map(|after| after.blocks.iter().filter(|b| online(b)).count()), Some(2));
        assert!(reach.after().is_none(), "a second question is put to the guest");

        for outdated in [Reach::changes, Reach::forget] {
            let mut reach = showing();
            outdated(&mut reach);
            assert!(reach.after().is_none());
        }

        let mut reach = showing();
        tokio::time::advance(FRESH).await;
        assert!(reach.after().is_none(), "it is too old");
    }
}

//! `supple list`: all machines of a libvirt at a glance, and what could be changed of each now. Changes nothing and asks
//! no guest.

use drive::domxml::{self, Room};
use drive::libvirt::{Listed, census};

use crate::args::Output;
use crate::connect;
use crate::failure::{DONE, Failure};
use crate::show::list::list;
use crate::target::block_on;
use crate::{screen, wire};

/// One machine, as far as it could be read.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) uuid: String,
    /// libvirt's word for what it does.
    pub(crate) state: String,
    /// Whether there is a QEMU to speak to.
    pub(crate) runs: bool,
    /// Its sizes and how far they can change, or why that is not known.
    pub(crate) room: Result<Room, String>,
}

impl From<Listed> for Entry {
    fn from(listed: Listed) -> Entry {
        let room = listed.xml.map_err(|error| error.to_string()).and_then(|xml| {
            domxml::Domain::parse(&xml).map(|domain| domxml::room(&domain)).map_err(|error| error.to_string())
        });
        let Listed { name, uuid, state, .. } = listed;
        Entry { name, uuid, state: state.to_string(), runs: state.is_there(), room }
    }
}

/// Carries the command out; its exit status.
pub(crate) fn run(uri: Option<&str>, output: &Output) -> Result<u8, Failure> {
    let listed = async |uri: &str| Ok((uri.to_owned(), census(uri).await?));
    let (uri, listed) = block_on(connect::reach(uri, listed))?;
    let mut entries: Vec<Entry> = listed.into_iter().map(Entry::from).collect();
    // Those that something can be done about first.
    entries.sort_by(|a, b| (!a.runs, &a.name).cmp(&(!b.runs, &b.name)));
    if output.json {
        screen::say(&wire::Document::Machines(wire::list::Machines::of(&uri, &entries)).render());
    } else {
        screen::say(&list(&uri, &entries, screen::columns()));
    }
    Ok(DONE)
}

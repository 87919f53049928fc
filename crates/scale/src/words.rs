//! Limits as operators write them, and written back the same: `2.5`, `500mbit/1gbit`, `read:500,write:500,burst:4000/10s`.
//!
//! Own code for the same reason as that of [`crate::units`]: what people read in two ways is refused with its readings.
//! What is written back ([`iops`], [`throttled_bytes`], [`nic_rate`]) is read as what it was. Sizes are read in [`crate::units`].

mod io;
mod power;
mod rate;

pub use io::{iops, parse_bytes_wish, parse_iops_wish, throttled_bytes};
pub use power::{parse_cpu_limit, parse_cpu_weight};
pub use rate::{nic_rate, parse_bit_rate, parse_ip_name, parse_rate_wish};

use crate::units::{BadSize, Bytes};

/// Why a text is not a limit. The message says what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLimit {
    /// Nothing that looks like what belongs there.
    #[error("'{text}' is not {what}; write {write}")]
    NotUnderstood {
        /// What was given.
        text: String,
        /// What it should be.
        what: &'static str,
        /// How to write that.
        write: String,
    },
    /// People read it in several ways.
    #[error("'{text}' can be read in several ways; write {readings}")]
    Ambiguous {
        /// What was given.
        text: String,
        /// Its readings, each with how to write it.
        readings: String,
    },
    /// Parts that cannot stand beside each other.
    #[error("'{text}': {why}")]
    Contradiction {
        /// What was given.
        text: String,
        /// Why not, with a way out.
        why: String,
    },
    /// A size in it is none.
    #[error(transparent)]
    Size(#[from] BadSize),
}

/// `name=value`, split at the first `=`.
///
/// # Errors
/// [`BadLimit::NotUnderstood`] without a name or a value; `example` says how to write it.
pub fn split_named<'a>(text: &'a str, example: &str) -> Result<(&'a str, &'a str), BadLimit> {
    let parts = text.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
    parts.filter(|(name, value)| !name.is_empty() && !value.is_empty()).ok_or_else(|| {
        BadLimit::NotUnderstood {
            text: text.to_owned(),
            what: "a name with a value",
            write: example.to_owned(),
        }
    })
}

/// A size as one word that is read back as what it is: `1.5GiB`.
pub fn size(size: Bytes) -> String {
    size.to_string().replace(' ', "")
}

const NONE: &str = "none";

/// Reads `key:value` parts that commas separate, and a lone value as that of no key. At most 16.
fn parts<'a>(text: &'a str, keys: &[&'static str]) -> Vec<(Option<&'static str>, &'a str)> {
    text.split(',')
        .take(16)
        .map(|part| {
            let part = part.trim();
            let keyed = part.split_once(':').and_then(|(key, value)| {
                let key = keys.iter().find(|known| **known == key.trim())?;
                Some((Some(*key), value.trim()))
            });
            keyed.unwrap_or((None, part))
        })
        .collect()
}

//! Machine descriptions: a corpus of our own, read, prepared and compared. No libvirt is needed.

mod corpus;
mod read;

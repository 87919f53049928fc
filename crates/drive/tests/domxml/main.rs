//! Machine descriptions: a corpus of our own, read, prepared and compared. No libvirt is needed.

mod ceilings;
mod corpus;
mod devices;
mod drift;
mod prepare;
mod read;
mod refusals;
mod wishes;

//! The commands of a program that was built without libvirt and that need it: each says so.

/// `supple list`.
pub(crate) mod list {
    use crate::args::Output;
    use crate::failure::Failure;

    /// Refuses.
    pub(crate) fn run(_: Option<&str>, _: &Output) -> Result<u8, Failure> {
        Err(Failure::no_libvirt())
    }
}

/// `supple prepare`.
pub(crate) mod prepare {
    use crate::args::Prepare;
    use crate::failure::Failure;

    /// Refuses.
    pub(crate) fn run(_: &Prepare) -> Result<u8, Failure> {
        Err(Failure::no_libvirt())
    }
}

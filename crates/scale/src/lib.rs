//! What Supple knows and decides: sizes, plans, audits and runs. Pure: no I/O, no clock.

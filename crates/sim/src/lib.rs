//! A machine in memory behind the driver seam, with faults, moods and a clock.

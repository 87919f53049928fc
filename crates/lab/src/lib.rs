//! Boots real QEMU guests for tests, the demo and benchmarks. Never shipped.

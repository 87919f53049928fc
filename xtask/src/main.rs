//! The project's chores: `cargo xtask setup | demo | test | bench | check | guest`. Each one is a file; this one only chooses.
//!
//! What a chore runs says itself what went wrong, and its exit status is handed on. It will not build or run anything
//! that plain `cargo` commands do as well.

mod bench;
mod check;
mod demo;
mod guest;
mod libvirt;
mod run;
mod setup;
mod test;

use std::env;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask CHORE

  demo           the main job on a real guest, and a picture of it
  setup          fetch what the tests and their real guests need
  test [--every-generation] [ARGS]
                 setup, then all tests; ARGS go to `cargo test`. Conformance runs on the backports' QEMU and libvirt
                 too; with --every-generation, whatever runs on guests does
  bench [PART...]
                 setup, then measurements beside the least that could be done; or only of some parts:
                 qmp, libvirt, dimensions, traffic
  bench layout   only the DIMM layout, beside the rules of other managers; no guest
  bench drift [TIMES [SEED]]
                 random resizes of one machine of libvirt's (1000), with nothing apart at the end
  check          formatting, lints and documentation
  guest          boot a guest to try `supple` on, until Ctrl-C
  guest libvirt  the same, of a libvirt that runs beside yours
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["setup"] => setup::setup("dev").map(drop),
        ["demo"] => demo::demo(),
        ["bench", "layout"] => bench::layout(),
        ["bench", "drift"] => bench::drift("1000", "1"),
        ["bench", "drift", times] => bench::drift(times, "1"),
        ["bench", "drift", times, seed] => bench::drift(times, seed),
        ["bench", parts @ ..] => bench::bench(parts),
        ["test", rest @ ..] => test::test(rest),
        ["check"] => check::check(),
        ["guest"] => guest::guest(),
        ["guest", "libvirt"] => guest::of_libvirt(),
        ["help" | "-h" | "--help"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("xtask: {failed}");
            failed.exit_code()
        }
    }
}

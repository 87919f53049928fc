//! Which libvirt is meant: by `--connect`, by the environment, by libvirt's own configuration, or by who asks. It opens
//! no connection by itself.

use drive::libvirt::FindError;
use std::fs;
use std::path::{Path, PathBuf};

/// Supple's own variable, before libvirt's.
const VARIABLES: [&str; 2] = ["SUPPLE_CONNECT", "LIBVIRT_DEFAULT_URI"];

/// Where the host's libvirt listens: one daemon for all, or one for QEMU.
const SOCKETS: [&str; 2] = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"];

/// The host's machines.
const SYSTEM: &str = "qemu:///system";
/// The user's own.
const SESSION: &str = "qemu:///session";

/// A configuration of libvirt's clients is a few lines.
const LONGEST: u64 = 1 << 20;

/// Reaches something at the libvirt that is named, or at the one that is meant where none is. Where that does not let the
/// user in, his own is tried.
pub(crate) async fn reach<T>(
    named: Option<&str>,
    reach: impl AsyncFn(&str) -> Result<T, FindError>,
) -> Result<T, FindError> {
    let uris = candidates(named);
    let mut first = None;
    for uri in uris {
        match reach(&uri).await {
            Err(FindError::Unreachable(why)) if why.is_about_rights() => first = first.or(Some(why)),
            ended => return ended,
        }
    }
    Err(first.expect("there is always a URI, and each ends the loop or is noted").into())
}

/// The URIs to try, the first one first: the one that is named, or those that are meant where none is.
pub(crate) fn candidates(named: Option<&str>) -> Vec<String> {
    named.map_or_else(defaults, |uri| vec![uri.to_owned()])
}

/// The URIs to try, the first one first, where the user names none. A second one is for whom the first does not let in.
fn defaults() -> Vec<String> {
    let root = rustix::process::geteuid().is_root();
    let variable = |name: &str| std::env::var(name).ok();
    choose(
        root,
        variable,
        |path| {
            fs::metadata(path).ok().filter(|m| m.len() <= LONGEST).and_then(|_| fs::read_to_string(path).ok())
        },
        may_write,
    )
}

fn may_write(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// As `virsh` does, but that a user who may use the host's libvirt gets that: `virsh` gives everybody but root their own.
fn choose(
    root: bool,
    variable: impl Fn(&str) -> Option<String>,
    file: impl Fn(&Path) -> Option<String>,
    may_write: impl Fn(&Path) -> bool,
) -> Vec<String> {
    if let Some(uri) = VARIABLES.iter().find_map(|name| variable(name).filter(|uri| !uri.is_empty())) {
        return vec![uri];
    }
    if let Some(uri) =
        configuration(root, &variable).and_then(|path| file(&path)).as_deref().and_then(uri_default)
    {
        return vec![uri];
    }
    if root {
        vec![SYSTEM.to_owned()]
    } else if SOCKETS.iter().any(|socket| may_write(Path::new(socket))) {
        vec![SYSTEM.to_owned(), SESSION.to_owned()]
    } else {
        vec![SESSION.to_owned()]
    }
}

/// The file that libvirt's clients read (libvirt 9.0, `virConfLoadConfigPath`).
fn configuration(root: bool, variable: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if root {
        return Some(PathBuf::from("/etc/libvirt/libvirt.conf"));
    }
    let dir = variable("XDG_CONFIG_HOME").filter(|dir| dir.starts_with('/')).map(PathBuf::from);
    let dir = dir.or_else(|| Some(Path::new(&variable("HOME")?).join(".config")))?;
    Some(dir.join("libvirt/libvirt.conf"))
}

/// The value of `uri_default = "..."`.
fn uri_default(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let value =
            line.trim_start().strip_prefix("uri_default")?.trim_start().strip_prefix('=')?.trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        value[1..].split_once(quote).map(|(uri, _)| uri.to_owned()).filter(|uri| !uri.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(root: bool, variables: &[(&str, &str)], file: Option<&str>, writable: bool) -> Vec<String> {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        choose(root, variable, |_| file.map(str::to_owned), |_| writable)
    }

    #[test]
    fn who_names_nothing_gets_the_hosts_libvirt_where_it_lets_him_in() {
        assert_eq!(chosen(true, &[], None, true), ["qemu:///system"]);
        assert_eq!(chosen(false, &[], None, true), ["qemu:///system", "qemu:///session"]);
        assert_eq!(chosen(false, &[], None, false), ["qemu:///session"]);
    }

    #[test]
    fn supples_variable_comes_before_libvirts_and_both_before_the_configuration() {
        let file = Some("# uri_default = \"xen:///\"\nuri_default = \"qemu+ssh://h/system\"\n");
        let ours = ("SUPPLE_CONNECT", "qemu:///a");
        let theirs = ("LIBVIRT_DEFAULT_URI", "qemu:///b");
        assert_eq!(chosen(true, &[theirs, ours], file, true), ["qemu:///a"]);
        assert_eq!(chosen(true, &[theirs, ("SUPPLE_CONNECT", "")], file, true), ["qemu:///b"]);
        assert_eq!(chosen(true, &[], file, true), ["qemu+ssh://h/system"]);
    }

    #[test]
    fn a_users_configuration_is_in_his_home() {
        let of = |pairs: &'static [(&str, &str)]| {
            configuration(false, &|name: &str| {
                pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
            })
        };
        assert_eq!(of(&[("HOME", "/h")]), Some(PathBuf::from("/h/.config/libvirt/libvirt.conf")));
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]),
            Some(PathBuf::from("/x/libvirt/libvirt.conf"))
        );
        assert_eq!(of(&[]), None);
    }
}

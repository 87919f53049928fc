//! Disks: how they grow, what follows in the guest, and what is left to a person.

use crate::furniture::{disk, filesystem, furnished, layers, lvm, partition, vda};
use crate::machine::facts;
use crate::steps::{planned, refused};
use scale::disk::Tool;
use scale::observed::{DiskBus, Known, Layer, LayerKind, Lies, Manager, Observed, Pool};
use scale::plan::{Act, Plan, Proof, Strength, When};
use scale::units::{Bytes, parse_change};
use scale::wanted::{DiskWish, Wanted};

pub(crate) fn size(disk: &str, size: &str) -> Wanted {
    let wish = DiskWish { size: Some(parse_change(size).expect(size)), ..DiskWish::default() };
    Wanted { disks: [(disk.to_owned(), wish)].into(), ..Wanted::default() }
}

/// The steps, each in one word.
fn words(plan: &Plan) -> Vec<String> {
    let word = |act: &Act| {
        if let Act::GrowDisk { disk, from, to } = act {
            return format!("{disk} {from} -> {to}");
        }
        let Act::GrowInGuest { layer, tool, .. } = act else { panic!("{act}") };
        format!("{tool} {}", layer.device)
    };
    plan.steps.iter().map(|step| word(&step.act)).collect()
}

#[track_caller]
fn left(seen: &Observed, wanted: &str, words: &[&str]) {
    let plan = planned(seen, &size("vda", wanted));
    let [unmet] = plan.unmet.as_slice() else { panic!("{:?}", plan.unmet) };
    for word in words {
        assert!(unmet.to_string().contains(word), "'{word}' is not in: {unmet}");
    }
}

#[track_caller]
fn says(seen: &Observed, wanted: &Wanted, when: When, words: &[&str]) {
    let refusal = refused(seen, wanted);
    let [obstacle] = refusal.obstacles.as_slice() else { panic!("{refusal}") };
    assert_eq!(obstacle.when, when, "{refusal}");
    for word in words {
        assert!(refusal.to_string().contains(word), "'{word}' is not in: {refusal}");
    }
}

#[test]
fn a_disk_grows_up_to_its_filesystem() {
    let plan = planned(&furnished(), &size("vda", "40G"));
    assert_eq!(words(&plan), ["vda 20 GiB -> 40 GiB", "growpart /dev/vda1", "resize2fs /dev/vda1"]);
    assert!(plan.unmet.is_empty(), "{:?}", plan.unmet);
    assert!(plan.steps.iter().all(|step| step.undo.is_empty() && step.strength == Strength::GuestConfirmed));
    let Proof::LayerAt { at_least, .. } = &plan.steps[2].proof else { panic!("{:?}", plan.steps[2]) };
    assert!((Bytes::gib(36)..Bytes::gib(40)).contains(at_least), "{at_least}: what df will count");
    assert_eq!(words(&planned(&furnished(), &size("vda", "+20G"))), words(&plan));
}

#[test]
fn lvm_and_luks_follow_layer_by_layer() {
    let mut seen = furnished();
    let luks = Layer {
        device: "/dev/mapper/luks".into(),
        kind: LayerKind::Luks,
        size: Bytes::gib(20) - Bytes::mib(18),
        above: vec![Layer {
            device: "/dev/mapper/luks".into(),
            ..lvm(vec![filesystem("xfs", "/dev/vg/root", "/")])
        }],
    };
    *layers(&mut seen) = vec![partition(1, vec![luks])];
    assert_eq!(
        words(&planned(&seen, &size("vda", "40G"))),
        [
            "vda 20 GiB -> 40 GiB",
            "growpart /dev/vda1",
            "cryptsetup /dev/mapper/luks",
            "pvresize /dev/mapper/luks",
            "lvextend /dev/vg/root",
            "xfs_growfs /dev/vg/root",
        ]
    );
}

#[test]
fn of_several_volumes_the_root_grows_or_a_person_chooses() {
    let mut seen = furnished();
    let both = |mounts: [&str; 2]| {
        vec![filesystem("ext4", "/dev/vg/a", mounts[0]), filesystem("ext4", "/dev/vg/b", mounts[1])]
    };
    *layers(&mut seen) = vec![partition(1, vec![lvm(both(["/home", "/"]))])];
    assert_eq!(
        words(&planned(&seen, &size("vda", "40G"))).last().map(String::as_str),
        Some("resize2fs /dev/vg/b")
    );
    *layers(&mut seen) = vec![partition(1, vec![lvm(both(["/home", "/srv"]))])];
    left(&seen, "40G", &["several volumes", "/dev/vg/a, /dev/vg/b", "lvextend"]);
    let plan = planned(&seen, &size("vda", "40G"));
    assert_eq!(words(&plan), ["vda 20 GiB -> 40 GiB", "growpart /dev/vda1", "pvresize /dev/vda1"]);
}

#[test]
fn a_disk_is_never_cut() {
    for wanted in ["10G", "-1G", "0B"] {
        says(&furnished(), &size("vda", wanted), When::Impossible, &["cut off", "smaller disk"]);
    }
    says(&furnished(), &size("vda", "+511B"), When::Impossible, &["sectors", "21474836480B or 21474836992B"]);
}

#[test]
fn what_the_host_cannot_hold_is_refused() {
    let mut seen = furnished();
    says(&seen, &size("vda", "200G"), When::NotNow, &["/var/lib has 100 GiB free", "180 GiB"]);
    // Two disks draw on one filesystem.
    let second = disk("vdb", partition(1, Vec::new()));
    let Known::Is(disks) = &mut seen.disks else { panic!() };
    disks.push(second);
    let mut both = size("vda", "+60G");
    both.disks.extend(size("vdb", "+60G").disks);
    says(&seen, &both, When::NotNow, &["100 GiB free", "120 GiB"]);
    let path = "/dev/host/web1".to_owned();
    vda(&mut seen).lies = Lies::Block { path: path.clone(), size: Bytes::gib(20), thin: None };
    vda(&mut seen).format = "raw".into();
    says(&seen, &size("vda", "40G"), When::NotNow, &["lvextend -L 42949672960b /dev/host/web1"]);
    let thin = Some(Pool { name: "pool".into(), free: Bytes::gib(5) });
    vda(&mut seen).lies = Lies::Block { path, size: Bytes::gib(40), thin };
    says(&seen, &size("vda", "40G"), When::NotNow, &["thin pool pool has 5 GiB free"]);
}

#[test]
fn a_busy_or_read_only_disk_stays() {
    let mut seen = furnished();
    vda(&mut seen).busy.push("backup".into());
    says(&seen, &size("vda", "40G"), When::NotNow, &["busy: backup"]);
    (seen.machine.manager, seen.machine.name) = (Manager::Libvirt, Some("web1".into()));
    says(
        &seen,
        &size("vda", "40G"),
        When::NotNow,
        &["virsh domjobabort web1", "virsh blockjob web1 vda --abort"],
    );
    let mut seen = furnished();
    vda(&mut seen).read_only = true;
    says(&seen, &size("vda", "40G"), When::Impossible, &["read-only"]);
}

#[test]
fn what_stands_in_the_way_is_named_with_the_command_for_a_person() {
    let mut seen = furnished();
    facts(&mut seen).commands.remove("guest-exec");
    left(&seen, "40G", &["guest-exec", "by hand: in the guest: growpart /dev/vda 1"]);
    let plan = planned(&seen, &size("vda", "40G"));
    assert_eq!(words(&plan), ["vda 20 GiB -> 40 GiB"]);

    let mut seen = furnished();
    facts(&mut seen).tools.remove(&Tool::Growpart);
    assert_eq!(words(&planned(&seen, &size("vda", "40G")))[1], "sfdisk /dev/vda1");
    facts(&mut seen).tools.remove(&Tool::Sfdisk);
    left(&seen, "40G", &["no growpart and no sfdisk", "install it", "growpart /dev/vda 1"]);

    let mut seen = furnished();
    layers(&mut seen)[0].size = Bytes::gib(18);
    let swap =
        Layer { device: "/dev/vda2".into(), kind: LayerKind::Swap, size: Bytes::gib(2), above: Vec::new() };
    let mut behind = partition(2, vec![swap]);
    behind.kind = LayerKind::Partition { number: 2, start: Bytes::gib(18), table: "gpt".into() };
    behind.size = Bytes::gib(2);
    layers(&mut seen).push(behind);
    left(&seen, "40G", &["swap on /dev/vda2 lies behind /dev/vda1", "swapoff"]);

    let mut seen = furnished();
    layers(&mut seen)[0].above = vec![filesystem("xfs", "/dev/vda1", "")];
    left(&seen, "40G", &["xfs /dev/vda1 is not mounted"]);
    layers(&mut seen)[0].above = vec![filesystem("zfs_member", "/dev/vda1", "/tank")];
    left(&seen, "40G", &["knows no way to grow zfs_member"]);
}

#[test]
fn a_partition_table_of_32_bits_ends_at_2_tib() {
    let mut seen = furnished();
    vda(&mut seen).lies = Lies::Network("rbd".into());
    layers(&mut seen)[0].kind = LayerKind::Partition { number: 1, start: Bytes::mib(1), table: "dos".into() };
    left(&seen, "3T", &["ends at 2 TiB", "sgdisk"]);
    let plan = planned(&seen, &size("vda", "3T"));
    assert_eq!(plan.steps.len(), 1);
    assert!(plan.notes.iter().any(|note| note.contains("rbd")), "{:?}", plan.notes);
    assert!(planned(&seen, &size("vda", "1T")).unmet.is_empty());
    layers(&mut seen)[0].kind = LayerKind::Partition { number: 5, start: Bytes::mib(1), table: "dos".into() };
    left(&seen, "1T", &["logical partition"]);
}

#[test]
fn a_guest_that_is_not_told_learns_it_later() {
    let mut seen = furnished();
    vda(&mut seen).bus = DiskBus::Ide;
    left(&seen, "40G", &["IDE", "restart the guest"]);
    let plan = planned(&seen, &size("vda", "40G"));
    assert_eq!((plan.steps.len(), plan.steps[0].strength), (1, Strength::DeviceOnly));
    // After its restart the guest knows, and the same command finishes the work.
    let Known::Is(guest) = &mut vda(&mut seen).guest else { panic!() };
    guest.size = Bytes::gib(40);
    vda(&mut seen).size = Bytes::gib(40);
    assert_eq!(words(&planned(&seen, &size("vda", "40G"))), ["growpart /dev/vda1", "resize2fs /dev/vda1"]);
    vda(&mut seen).guest = Known::Not("no agent".into());
    assert!(planned(&seen, &size("vda", "40G")).steps.is_empty());
    left(&seen, "50G", &["no agent", "by hand"]);
}

#[test]
fn a_size_that_the_guest_missed_is_told() {
    let mut seen = furnished();
    vda(&mut seen).size = Bytes::gib(40);
    left(&seen, "40G", &["has not taken notice", "restart the guest"]);
    vda(&mut seen).bus = DiskBus::VirtioScsi;
    left(&seen, "40G", &["has not taken notice", "rescan"]);
    assert_eq!(words(&planned(&seen, &size("vda", "50G"))).len(), 3, "of another growth it is told");
}

#[test]
fn what_was_cut_short_is_taken_up_where_it_stands() {
    let mut seen = furnished();
    vda(&mut seen).size = Bytes::gib(40);
    let Known::Is(guest) = &mut vda(&mut seen).guest else { panic!() };
    guest.size = Bytes::gib(40);
    layers(&mut seen)[0].size = Bytes::gib(40) - Bytes::mib(2);
    let plan = planned(&seen, &size("vda", "40G"));
    assert_eq!(words(&plan), ["resize2fs /dev/vda1"], "partition and disk have grown already");
    facts(&mut seen).tools.clear();
    left(&seen, "40G", &["disk vda has 40 GiB", "resize2fs /dev/vda1"]);
}

#[test]
fn room_that_was_left_in_a_volume_group_is_told() {
    let mut seen = furnished();
    let mut volumes = lvm(vec![filesystem("ext4", "/dev/vg/root", "/")]);
    volumes.kind = LayerKind::PhysicalVolume { group: "vg".into(), free: Bytes::gib(4) };
    *layers(&mut seen) = vec![partition(1, vec![volumes])];
    let plan = planned(&seen, &size("vda", "40G"));
    assert!(plan.notes.iter().any(|note| note.contains("vg has 4 GiB free")), "{:?}", plan.notes);
}

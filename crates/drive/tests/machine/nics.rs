//! NICs: what QEMU, the host and the guest each say of them. Their limits are tested with real taps in the lab.

use drive::{ApplyError, Hypervisor};
use scale::observed::{Known, Nic};
use scale::plan::Act;
use scale::setting::{NicRate, Setting, SettingName};
use scale::sight::{Look, Sight};
use scale::time::Span;
use serde_json::{Value, json};

use crate::fake::{Party, Q35, Table, debian, open};

const INFO: &str = r#"human-monitor-command {"command-line":"info network"}"#;
const ANONYMOUS: &str = r#"qom-list {"path":"/machine/peripheral-anon"}"#;
const MAC: &str = "52:54:00:aa:00:01";

/// A machine with one NIC on a tap, whose guest uses another MAC address than it was given.
fn with_tap() -> Table {
    let property = |name: &str| {
        format!(r#"qom-get {{"path":"/machine/peripheral-anon/device[7]","property":"{name}"}}"#)
    };
    Table::recorded(Q35)
        .with(
            INFO,
            json!(
                "virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=02:00:00:00:00:66\r\n \
                   \\ hostnet0: index=0,type=tap,fd=27\r\n"
            ),
        )
        .with(ANONYMOUS, json!([{"name": "device[7]", "type": "child<virtio-net-pci>"}]))
        .with(&property("netdev"), json!("hostnet0"))
        .with(&property("mac"), json!("52:54:00:AA:00:01"))
}

fn interfaces() -> Value {
    json!([
        {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}],
         "hardware-address": "00:00:00:00:00:00"},
        {"name": "eth0", "hardware-address": "52:54:00:AA:00:01", "ip-addresses": [
            {"ip-address": "10.0.0.7", "ip-address-type": "ipv4", "prefix": 24},
            {"ip-address": "fd00::7", "ip-address-type": "ipv6", "prefix": 64},
            {"ip-address": "nonsense", "ip-address-type": "ipx", "prefix": 1}]},
        {"name": "hostnet0", "hardware-address": MAC, "ip-addresses": [
            {"ip-address": "10.0.0.7", "ip-address-type": "ipv4", "prefix": 24}]},
        {"name": "tunnel"}])
}

async fn nics(qemu: Table, agent: Table) -> Vec<Nic> {
    let (qemu, agent) = (Party::play(qemu), Party::play(agent));
    let seen = open(&qemu, Some(&agent)).await.observe().await.expect("observed");
    seen.nics.known().cloned().expect("known")
}

#[tokio::test]
async fn a_nic_is_known_by_the_address_it_was_given_and_by_the_guests_name() {
    let nics = nics(with_tap(), debian().with("guest-network-get-interfaces", interfaces())).await;
    let [nic] = nics.as_slice() else { panic!("{nics:?}") };
    assert_eq!(nic.name, MAC, "not the one that the guest uses now");
    assert_eq!(nic.aliases, ["hostnet0", "eth0"], "a name of the host's is not the guest's to give");
    let shown: Vec<String> = nic.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.7", "fd00::7"]);
}

#[tokio::test]
async fn a_tap_that_cannot_be_told_leaves_its_limits_unknown_with_the_reason() {
    let nics = nics(with_tap(), debian()).await;
    assert!(nics[0].tap.is_none() && nics[0].addresses.is_empty());
    for why in
        [matches!(&nics[0].rate, Known::Not(why) if why.contains("process")), nics[0].ips.known().is_none()]
    {
        assert!(why, "{nics:?}");
    }
}

#[tokio::test]
async fn what_is_no_tap_is_named_and_nothing_is_set_there() {
    let user = with_tap().with(
        INFO,
        json!(
            "virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:aa:00:01\r\n \
               \\ hostnet0: index=0,type=user,net=10.0.2.0,restrict=off\r\n"
        ),
    );
    let qemu = Party::play(user);
    let mut machine = open(&qemu, None).await;
    let look = Look::Setting(SettingName::NicRate { nic: MAC.into() });
    assert_eq!(machine.look(&look).await.expect("an answer"), Sight::Setting(None));
    let of = |nic: &str| Box::new(Setting::NicRate { nic: nic.into(), rate: NicRate::default() });
    let until = machine.now() + Span::secs(5);
    for (nic, why) in [(MAC, "by user"), ("52:54:00:00:00:00", "no NIC")] {
        let set = machine.apply(&Act::Set { from: of(nic), to: of(nic) }, until).await;
        assert!(matches!(&set, Err(ApplyError::Refused(said)) if said.contains(why)), "{set:?}");
    }
}

#[tokio::test]
async fn a_machine_that_tells_of_no_network_has_no_nics() {
    assert_eq!(nics(Table::recorded(Q35), debian()).await, []);
}

//! The lab's own claims, on real guests.

use lab::Recipe;

#[tokio::test]
async fn a_guest_boots_and_its_witness_answers() {
    let guest = Recipe::q35().boot().await.unwrap();
    let uname = guest.shell("uname -sr").await.unwrap().ok().unwrap();
    assert!(uname.starts_with("Linux 6."), "{uname}");
}

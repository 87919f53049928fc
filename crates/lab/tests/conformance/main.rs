//! One conformance suite: the same resize stories on every driver. What a story claims is looked for outside of Supple:
//! in the guest's own kernel, in QEMU, and where libvirt keeps the machine in both of its descriptions.
//!
//! `stories` tells them over a [`stage::Stage`]; `qmp`, `libvirt` and `sim` are the stages, each with what only it has.
//! A new driver passes by being one more stage. `beside` and `at_work` have those that need other tools of libvirt's.

#[cfg(feature = "libvirt")]
mod at_work;
#[cfg(feature = "libvirt")]
mod beside;
mod guest;
#[cfg(feature = "libvirt")]
mod libvirt;
mod play;
mod qmp;
mod sim;
mod stage;
mod stories;
mod trouble;

/// All stories, on one stage.
macro_rules! all_stories_on {
    ($stage:ty) => {
        $crate::all_stories_on!(
            $stage:
            a_guest_grows_uses_it_and_shrinks,
            what_cannot_be_is_refused_and_changes_nothing,
            a_machine_that_changed_while_the_user_thought_is_planned_for_again,
            a_guest_that_keeps_a_block_gives_up_the_rest_and_says_why,
            a_removal_that_the_guest_does_not_answer_is_pending_until_it_is_done,
            a_controller_that_dies_anywhere_is_followed_by_one_that_ends_right,
            virtio_mem_is_preferred_and_shrinks_as_far_as_the_guest_lets_it,
            without_an_agent_the_guests_driver_is_believed_as_far_as_it_tells,
        );
    };
    ($stage:ty: $($story:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $story() {
                $crate::stories::$story::<$stage>().await;
            }
        )*
    };
}
pub(crate) use all_stories_on;

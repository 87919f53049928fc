//! A machine in memory. Its time is its own: what takes a real guest minutes takes it none.

use scale::limits::Limits;
use scale::time::Span;
use scale::units::Bytes;
use sim::{Link, Mood, Pinned, World};

use crate::stage::{Make, SMALL, Size, Stage};

/// Later than any limit of the stories.
const LATE: Span = Span::secs(1000);

pub(crate) struct Sim {
    world: World,
    make: Make,
}

impl Sim {
    /// What this make's guest is like when it is willing.
    fn is_itself(&mut self) {
        let by_itself = Mood::OnlinesItself(Span::millis(0));
        match self.make {
            Make::Plain => {}
            Make::VirtioMem => self.world.put(by_itself),
            Make::WithoutAgent => {
                self.world.put(by_itself);
                self.world.put(Mood::NoAgent);
            }
        }
    }
}

fn size(memory: Bytes, vcpus: usize) -> Size {
    Size { memory, vcpus: vcpus.try_into().unwrap() }
}

impl Stage for Sim {
    type Driver<'stage> = Link<'stage>;

    async fn of(make: Make) -> Self {
        let plain =
            World::small().demand(Bytes::mib(100)).boot_memory(SMALL).ceiling(Bytes::gib(8)).vcpus(1, 4);
        let world = match make {
            Make::Plain => plain,
            Make::VirtioMem => plain.virtio_mem("vmem0", 0, Bytes::gib(2)),
            Make::WithoutAgent => plain.balloon(true),
        };
        let mut stage = Self { world, make };
        stage.is_itself();
        stage
    }

    async fn connect(&mut self, _: &Limits) -> Link<'_> {
        self.world.connect()
    }

    async fn plugged(&mut self) -> Size {
        size(self.world.plugged_memory(), self.world.plugged_vcpus())
    }

    async fn online(&mut self) -> Size {
        size(self.world.online_memory(), self.world.online_vcpus())
    }

    /// Nobody uses memory in a world without programs.
    async fn uses(&mut self, size: Bytes) {
        assert!(self.world.guest_available() >= size, "{} are available", self.world.guest_available());
    }

    async fn is_level(&mut self) {
        assert_eq!(self.world.spare_backends(), [""; 0]);
    }

    async fn pin(&mut self) {
        let all = self.world.dimms().into_iter().map(str::to_owned);
        self.world.put(Mood::Refuses(Pinned::In(all.chain(["vmem0".to_owned()]).collect())));
    }

    async fn unpin(&mut self) {
        self.world.heal();
        self.is_itself();
    }

    async fn answers_removals(&mut self, answers: bool) {
        if answers {
            self.world.heal();
            self.is_itself();
            self.world.pass(LATE);
        } else {
            self.world.put(Mood::EjectsLate(LATE));
        }
    }

    async fn end(self) {
        assert_eq!(self.world.gone(), None);
    }
}

crate::all_stories_on!(Sim);

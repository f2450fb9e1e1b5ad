//! Where the replicas' state machines are executed: what was asked for, and what
//! this machine can do.

use hypervisor::SlotId;
use hypervisor::kvm::{Availability, Underneath};
use replica::spec::Backend;

use crate::config::BackendChoice;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrangement {
    Processes,
    Machines,
    /// By turns.
    Both,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backends {
    arrangement: Arrangement,
    guest_bytes: u64,
    why: String,
}

impl Backends {
    /// What becomes of `choice` on a machine whose KVM is as `kvm` says, and in a
    /// program that has an image or not. A virtual machine may have `memory_bytes`.
    ///
    /// # Errors
    /// Why what was asked for cannot be.
    pub(crate) fn choose(
        choice: BackendChoice,
        kvm: &Availability,
        has_image: bool,
        memory_bytes: u64,
    ) -> Result<Self, String> {
        let usable = match (kvm.is_usable(), has_image) {
            (true, true) => Ok(kvm.to_string()),
            (true, false) => Err("this program was built without an image".to_owned()),
            (false, _) => Err(kvm.to_string()),
        };
        let (arrangement, why) = match (choice, usable) {
            (BackendChoice::Process, _) => (Arrangement::Processes, "as configured".to_owned()),
            (BackendChoice::Auto, Err(why)) => (Arrangement::Processes, why),
            (BackendChoice::Auto, Ok(why)) if is_emulated(kvm) => {
                (Arrangement::Processes, format!("{why}, which isolates no better; see \"kvm\""))
            }
            (BackendChoice::Auto | BackendChoice::Kvm, Ok(why)) => (Arrangement::Machines, why),
            (BackendChoice::Mixed, Ok(why)) => (Arrangement::Both, why),
            (BackendChoice::Kvm | BackendChoice::Mixed, Err(why)) => return Err(why),
        };
        Ok(Self { arrangement, guest_bytes: guest_bytes(memory_bytes), why })
    }

    /// What replicas run on: a name, and why it is that.
    pub(crate) fn describe(&self) -> (&'static str, &str) {
        let name = match self.arrangement {
            Arrangement::Processes => "process",
            Arrangement::Machines => "kvm",
            Arrangement::Both => "mixed",
        };
        (name, &self.why)
    }

    /// That of the replica in this slot.
    pub(crate) fn of(&self, slot: SlotId) -> Backend {
        let in_machine = match self.arrangement {
            Arrangement::Processes => false,
            Arrangement::Machines => true,
            Arrangement::Both => slot.get().is_multiple_of(2),
        };
        if in_machine { Backend::Kvm { memory_bytes: self.guest_bytes } } else { Backend::Process }
    }
}

/// Whether a KVM does without the processor's help. Entering a guest costs tens of
/// microseconds then, its isolation is the kernel's like that of a process, and under load
/// the scheduler may not be fair to others.
fn is_emulated(kvm: &Availability) -> bool {
    matches!(kvm, Availability::Usable(Underneath::Software(_)))
}

#[cfg(target_arch = "x86_64")]
fn guest_bytes(memory_bytes: u64) -> u64 {
    use guest::layout::{RAM_GRAIN_BYTES, RAM_MAX_BYTES, RAM_MIN_BYTES};
    let bytes = memory_bytes.clamp(RAM_MIN_BYTES, RAM_MAX_BYTES);
    bytes - bytes % RAM_GRAIN_BYTES
}

#[cfg(not(target_arch = "x86_64"))]
fn guest_bytes(memory_bytes: u64) -> u64 {
    memory_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY_BYTES: u64 = 1 << 29;

    fn choose(
        choice: BackendChoice,
        kvm: &Availability,
        has_image: bool,
    ) -> Result<Backends, String> {
        Backends::choose(choice, kvm, has_image, MEMORY_BYTES)
    }

    fn slot(number: u8) -> SlotId {
        SlotId::new(number).unwrap()
    }

    #[test]
    fn auto_takes_what_there_is_and_says_why() {
        let usable = Availability::Usable(Underneath::Vmx);
        let chosen = choose(BackendChoice::Auto, &usable, true).unwrap();
        assert_eq!(chosen.describe(), ("kvm", "KVM is usable, on Intel VMX"));
        assert_eq!(chosen.of(slot(1)), Backend::Kvm { memory_bytes: MEMORY_BYTES });
        let chosen = choose(BackendChoice::Auto, &Availability::NoPermission, true).unwrap();
        assert_eq!(chosen.describe(), ("process", "no permission to open /dev/kvm"));
        assert_eq!(chosen.of(slot(0)), Backend::Process);
        let chosen = choose(BackendChoice::Auto, &usable, false).unwrap();
        assert_eq!(chosen.describe().0, "process");
        let emulated = Availability::Usable(Underneath::Software("kvm_pvm".into()));
        assert_eq!(choose(BackendChoice::Auto, &emulated, true).unwrap().describe().0, "process");
        assert_eq!(choose(BackendChoice::Kvm, &emulated, true).unwrap().describe().0, "kvm");
    }

    #[test]
    fn what_was_asked_for_is_not_replaced_by_something_else() {
        for choice in [BackendChoice::Kvm, BackendChoice::Mixed] {
            let refused = choose(choice, &Availability::Missing, true);
            assert_eq!(refused, Err("there is no /dev/kvm".into()));
        }
        let usable = Availability::Usable(Underneath::Svm);
        let chosen = choose(BackendChoice::Process, &usable, true).unwrap();
        assert_eq!(chosen.of(slot(0)), Backend::Process);
    }

    #[test]
    fn mixed_has_both() {
        let usable = Availability::Usable(Underneath::Svm);
        let chosen = choose(BackendChoice::Mixed, &usable, true).unwrap();
        assert_eq!(
            [0, 1, 2].map(|number| chosen.of(slot(number)).name()),
            ["kvm", "process", "kvm"]
        );
    }

    #[test]
    fn a_guest_gets_memory_that_it_can_have() {
        for (memory, guest) in [(32 << 20, 32 << 20), (1 << 40, 1 << 30), ((65 << 20), 64 << 20)] {
            assert_eq!(guest_bytes(memory), guest);
        }
    }
}

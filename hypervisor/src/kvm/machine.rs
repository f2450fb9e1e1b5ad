//! A virtual machine with one processor, some memory, the exchange, and nothing
//! else.

use guest::layout;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::exchange::{Exchange, Part};
use super::failure::Failure;
use super::image::Image;
use super::memory::{MemoryView, Region};
use super::{KvmError, availability, boot, system};

const RAM_SLOT: u32 = 0;
const EXCHANGE_SLOT: u32 = 1;

/// Three pages for KVM's own use, which it needs on Intel's processors. Just below
/// the place of the BIOS, as in other monitors; no memory of the guest is there.
const TSS_GPA: usize = 0xfffb_d000;

/// What a machine is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// Bytes of memory: a multiple of [`layout::RAM_GRAIN_BYTES`] from
    /// [`layout::RAM_MIN_BYTES`] to [`layout::RAM_MAX_BYTES`]. What the guest does
    /// not touch costs nothing.
    pub memory_bytes: u64,
    /// Words for the guest: less than 2 KiB, no zero bytes. May be empty.
    pub command_line: String,
}

/// How a guest has come back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Exit {
    /// It has given control back, and can be entered again. The first time it says
    /// that it is ready.
    Yielded,
    /// It will never run again.
    Failed(Failure),
}

/// What has become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The whole answer is there.
    Answered,
    /// There is no answer, and the guest will never run again.
    Failed(Failure),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest has not yielded yet.
    Booting,
    Ready,
    /// The guest has failed, or KVM has.
    Spent,
}

/// A virtual machine. It runs on the thread that calls [`Machine::run`] or
/// [`Machine::call`]; when it is dropped, all that it had is given back.
#[derive(Debug)]
pub struct Machine {
    // In the order in which they have to go: memory last, when no machine in the
    // kernel refers to it any more.
    vcpu: VcpuFd,
    _vm: VmFd,
    ram: Region,
    exchange: Exchange,
    phase: Phase,
}

/// What an entry into the guest has come to.
enum Event {
    Yield,
    /// The guest says that it has failed.
    Report,
    Failure(Failure),
    /// A signal to the thread, of no matter to the guest: it goes on where it was.
    Interrupted,
}

impl Machine {
    /// Makes a machine and loads the image. Nothing of it runs before the first
    /// [`Machine::run`].
    ///
    /// # Errors
    /// When KVM cannot be used, the image does not fit into the memory, or a
    /// resource is lacking; nothing is left behind then.
    pub fn boot(image: &Image, config: &MachineConfig) -> Result<Self, KvmError> {
        let bytes = config.memory_bytes;
        let possible = layout::RAM_MIN_BYTES..=layout::RAM_MAX_BYTES;
        if !possible.contains(&bytes) || !bytes.is_multiple_of(layout::RAM_GRAIN_BYTES) {
            return Err(KvmError::MemorySize { bytes });
        }
        let kvm = availability::open().map_err(KvmError::Unavailable)?;
        let ram = Region::new(bytes as usize)?;
        image.load(bytes, |gpa, bytes| ram.write(gpa as usize, bytes))?;
        boot::write_start_info(&ram, &config.command_line)?;
        let exchange = Exchange::new()?;
        // From here on what is made last goes first, as in a whole machine.
        let vm = kvm.create_vm().map_err(system("KVM_CREATE_VM"))?;
        vm.set_tss_address(TSS_GPA).map_err(system("KVM_SET_TSS_ADDR"))?;
        attach(&vm, RAM_SLOT, layout::RAM_GPA, &ram)?;
        attach(&vm, EXCHANGE_SLOT, layout::EXCHANGE_GPA, &exchange.region)?;
        let vcpu = vm.create_vcpu(0).map_err(system("KVM_CREATE_VCPU"))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(system("KVM_GET_SUPPORTED_CPUID"))?;
        boot::set_processor(&vcpu, &cpuid, image.entry())?;
        Ok(Self { vcpu, _vm: vm, ram, exchange, phase: Phase::Booting })
    }

    /// Enters the guest, and returns when it has come back, however long that takes:
    /// what ends a guest that loops is the end of this process. The first time it
    /// boots, and yields when it is ready.
    ///
    /// # Errors
    /// When the guest has failed before, or KVM fails; in either case the machine
    /// does not run again.
    pub fn run(&mut self) -> Result<Exit, KvmError> {
        if self.phase == Phase::Spent {
            return Err(KvmError::Spent);
        }
        let failure = loop {
            match enter(&mut self.vcpu) {
                Ok(Event::Yield) => {
                    self.phase = Phase::Ready;
                    return Ok(Exit::Yielded);
                }
                Ok(Event::Interrupted) => {}
                Ok(Event::Failure(failure)) => break Ok(failure),
                Ok(Event::Report) => break self.exchange.failure(),
                Err(error) => break Err(error),
            }
        };
        self.phase = Phase::Spent;
        failure.map(Exit::Failed)
    }

    /// Has the guest execute a request, and appends all parts of the answer to
    /// `answer`: at most `answer_limit` bytes, for a guest may be hostile. Without
    /// an answer `answer` is as it was.
    ///
    /// # Errors
    /// When the request is too long for the exchange or the guest is not ready yet;
    /// the machine is as it was then. Otherwise as [`Machine::run`].
    pub fn call(
        &mut self,
        request: &[u8],
        answer: &mut Vec<u8>,
        answer_limit: usize,
    ) -> Result<Outcome, KvmError> {
        if self.phase == Phase::Booting {
            return Err(KvmError::NotReady);
        }
        let begin = answer.len();
        let outcome = self.converse(request, answer, begin.saturating_add(answer_limit));
        if !matches!(outcome, Ok(Outcome::Answered)) {
            answer.truncate(begin);
        }
        outcome
    }

    fn converse(
        &mut self,
        request: &[u8],
        answer: &mut Vec<u8>,
        end: usize,
    ) -> Result<Outcome, KvmError> {
        self.exchange.put_request(request)?;
        loop {
            match self.run()? {
                Exit::Yielded => {}
                Exit::Failed(failure) => return Ok(Outcome::Failed(failure)),
            }
            // Ends: every part that has a successor brings `answer` nearer to `end`.
            match self.exchange.take_answer(answer, end)? {
                Ok(Part::Last) => return Ok(Outcome::Answered),
                Ok(Part::More) => self.exchange.put_request(&[])?,
                Err(bad) => {
                    self.phase = Phase::Spent;
                    return Ok(Outcome::Failed(Failure::BadAnswer(bad)));
                }
            }
        }
    }

    /// The command of the last request that the guest says it is executing, or was
    /// executing when it came to its end: its index, from 0 on, and 0 as long as it has
    /// said nothing. The guest may lie.
    ///
    /// # Errors
    /// When the exchange cannot be read.
    pub fn command(&self) -> Result<u64, KvmError> {
        self.exchange.command()
    }

    /// The guest's own memory, to look at and to injure. Offsets are guest physical
    /// addresses.
    pub fn ram(&mut self) -> MemoryView<'_> {
        MemoryView::new(&mut self.ram)
    }

    /// The exchange, to look at and to injure; offsets as in [`layout`].
    pub fn exchange(&mut self) -> MemoryView<'_> {
        MemoryView::new(&mut self.exchange.region)
    }

    /// Bytes of the guest's own memory that are there physically, without the
    /// exchange.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn resident_bytes(&self) -> Result<u64, KvmError> {
        self.ram.resident_bytes()
    }
}

/// Makes memory of this process memory of the guest.
fn attach(vm: &VmFd, slot: u32, guest_phys_addr: u64, region: &Region) -> Result<(), KvmError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr,
        memory_size: region.len() as u64,
        userspace_addr: region.host_address(),
    };
    // SAFETY: the region is a mapping of this length. It is unmapped after the
    // virtual machine's descriptors are closed: see the order of `Machine`'s fields
    // and of `boot`'s variables. Nothing of ours takes references into it.
    unsafe { vm.set_user_memory_region(region) }.map_err(system("KVM_SET_USER_MEMORY_REGION"))
}

/// Enters the guest once.
fn enter(vcpu: &mut VcpuFd) -> Result<Event, KvmError> {
    let failure = match vcpu.run() {
        Ok(VcpuExit::IoOut(layout::PORT_YIELD, [_])) => return Ok(Event::Yield),
        Ok(VcpuExit::IoOut(layout::PORT_FAILED, [_])) => return Ok(Event::Report),
        Ok(VcpuExit::IoOut(port, data)) => {
            Failure::UnexpectedPort { port, write: true, size: data.len() }
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            Failure::UnexpectedPort { port, write: false, size: data.len() }
        }
        Ok(VcpuExit::MmioWrite(gpa, _)) => Failure::UnexpectedAddress { gpa, write: true },
        Ok(VcpuExit::MmioRead(gpa, _)) => Failure::UnexpectedAddress { gpa, write: false },
        Ok(VcpuExit::Hlt) => Failure::Halted,
        Ok(VcpuExit::Shutdown) => Failure::Shutdown,
        Ok(VcpuExit::FailEntry(reason, _)) => Failure::FailEntry { reason },
        Ok(VcpuExit::Intr) => return Ok(Event::Interrupted),
        Ok(VcpuExit::InternalError) => Failure::InternalError { suberror: suberror(vcpu) },
        Ok(_) => Failure::UnexpectedExit { reason: vcpu.get_kvm_run().exit_reason },
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
            return Ok(Event::Interrupted);
        }
        Err(error) => return Err(system("KVM_RUN")(error)),
    };
    Ok(Event::Failure(failure))
}

fn suberror(vcpu: &mut VcpuFd) -> u32 {
    // SAFETY: KVM has just returned with an internal error, for which this is the
    // member of the union that it has written; any bits are a number.
    unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror }
}

//! Whether this process can run virtual machines, and what they run on.

use std::fmt;
use std::io;

/// Whether this process can use `/dev/kvm`, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Usable(Underneath),
    /// The program was built for another processor than x86-64.
    WrongArchitecture,
    /// There is no `/dev/kvm`: no virtualization, no module, or none in this
    /// container.
    Missing,
    /// It is there, but the process may not open it.
    NoPermission,
    /// The kernel speaks another version of the interface than 12, which is the
    /// only one since Linux 2.6.22.
    WrongVersion(i32),
    /// The kernel is too old: it lacks this capability.
    Lacks(&'static str),
    /// Opening it fails in another way: the operating system's error number.
    Failing(i32),
}

/// What executes the guests' instructions, as far as can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Underneath {
    /// Intel's VMX.
    Vmx,
    /// AMD's SVM.
    Svm,
    /// Software only: the name of the kernel's module, such as `kvm_pvm`. Correct,
    /// but slow, and isolation is not the hardware's.
    Software(String),
    /// It cannot be told.
    Unknown,
}

impl Availability {
    /// Asks the kernel.
    #[must_use]
    pub fn probe() -> Self {
        #[cfg(target_arch = "x86_64")]
        match open() {
            Ok(_) => Self::Usable(Underneath::probe()),
            Err(why) => why,
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::WrongArchitecture
    }

    /// Whether machines can be booted.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self, Self::Usable(_))
    }

    fn from_open_error(error: i32) -> Self {
        match error {
            // ENXIO and ENODEV: a device node without a driver behind it.
            libc::ENOENT | libc::ENXIO | libc::ENODEV | libc::ENOTDIR => Self::Missing,
            libc::EACCES | libc::EPERM => Self::NoPermission,
            other => Self::Failing(other),
        }
    }
}

/// Opens `/dev/kvm` and checks that all is there that a machine needs.
#[cfg(target_arch = "x86_64")]
pub(super) fn open() -> Result<kvm_ioctls::Kvm, Availability> {
    use kvm_ioctls::{Cap, Kvm};
    const NEEDED: [(Cap, &str); 2] =
        [(Cap::UserMemory, "KVM_CAP_USER_MEMORY"), (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID")];
    let kvm = Kvm::new().map_err(|error| Availability::from_open_error(error.errno()))?;
    let version = kvm.get_api_version();
    if version != kvm_bindings::KVM_API_VERSION.cast_signed() {
        return Err(Availability::WrongVersion(version));
    }
    match NEEDED.iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        Some((_, name)) => Err(Availability::Lacks(name)),
        None => Ok(kvm),
    }
}

impl Underneath {
    /// Reads `/proc` and `/sys`; all it can do without them is to say that it does
    /// not know.
    fn probe() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let modules = std::fs::read_dir("/sys/module").into_iter().flatten().flatten();
        let modules: Vec<String> =
            modules.filter_map(|module| module.file_name().into_string().ok()).collect();
        Self::judge(&cpuinfo, &modules)
    }

    /// A processor's flag decides, together with the module that makes use of it:
    /// a kernel with everything built in lists modules that serve another
    /// processor.
    fn judge(cpuinfo: &str, modules: &[String]) -> Self {
        let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
        let has = |flag| flags.split_whitespace().any(|word| word == flag);
        let loaded = |name: &str| modules.iter().any(|module| module == name);
        if has("vmx") && loaded("kvm_intel") {
            return Self::Vmx;
        }
        if has("svm") && loaded("kvm_amd") {
            return Self::Svm;
        }
        let hardware = ["kvm_intel", "kvm_amd"];
        let software = modules
            .iter()
            .find(|module| module.starts_with("kvm_") && !hardware.contains(&module.as_str()));
        software.map_or(Self::Unknown, |module| Self::Software(module.clone()))
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable(underneath) => write!(f, "KVM is usable, on {underneath}"),
            Self::WrongArchitecture => write!(f, "unikernels need x86-64"),
            Self::Missing => write!(f, "there is no /dev/kvm"),
            Self::NoPermission => write!(f, "no permission to open /dev/kvm"),
            Self::WrongVersion(version) => {
                write!(f, "/dev/kvm speaks version {version} of its interface, not 12")
            }
            Self::Lacks(capability) => write!(f, "/dev/kvm is too old: no {capability}"),
            Self::Failing(errno) => {
                write!(f, "/dev/kvm cannot be opened: {}", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl fmt::Display for Underneath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmx => write!(f, "Intel VMX"),
            Self::Svm => write!(f, "AMD SVM"),
            Self::Software(module) => write!(f, "software virtualization ({module})"),
            Self::Unknown => write!(f, "something unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(flags: &str, modules: &[&str]) -> Underneath {
        let cpuinfo = format!("processor\t: 0\nflags\t\t: fpu {flags} sse2\nbugs\t\t: svm\n");
        let modules: Vec<String> = modules.iter().map(ToString::to_string).collect();
        Underneath::judge(&cpuinfo, &modules)
    }

    #[test]
    fn what_is_underneath_is_told_from_flags_and_modules() {
        assert_eq!(judge("vmx", &["kvm", "kvm_intel"]), Underneath::Vmx);
        assert_eq!(judge("svm", &["kvm", "kvm_intel", "kvm_amd"]), Underneath::Svm);
        assert_eq!(judge("", &["kvm", "kvm_pvm"]), Underneath::Software("kvm_pvm".into()));
        assert_eq!(judge("", &["kvm", "kvm_intel"]), Underneath::Unknown);
        assert_eq!(judge("avmx", &[]), Underneath::Unknown);
        assert_eq!(Underneath::judge("", &[]), Underneath::Unknown);
    }

    #[test]
    fn why_the_device_cannot_be_opened_is_told_in_words() {
        let words = |errno| Availability::from_open_error(errno).to_string();
        assert_eq!(words(libc::ENOENT), "there is no /dev/kvm");
        assert_eq!(words(libc::EACCES), "no permission to open /dev/kvm");
        assert!(words(libc::EMFILE).contains("Too many open files"));
        assert!(!Availability::Missing.is_usable());
    }

    #[test]
    fn a_probe_tells_something_whatever_the_machine() {
        let found = Availability::probe();
        eprintln!("{found}");
        assert!(!found.to_string().is_empty());
    }
}

//! What `millgate worker-exec` does: it takes rights away from its own process, then becomes the Python worker.
//! The gateway's process is never touched. Order: session, limits, capabilities, files (Landlock), user, system calls
//! (seccomp), then `exec` with a cleared environment. The installers of environments are started the same way.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::CapabilitySet;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde::{Deserialize, Serialize};

/// The one argument of `worker-exec`, as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// The folder it may write to: its home, its temporary folder and where it starts.
    pub(crate) private: PathBuf,
    /// Other folders it may write to.
    pub(crate) writable: Vec<PathBuf>,
    /// Folders it may read beside the system's.
    pub(crate) readable: Vec<PathBuf>,
    pub(crate) network_allowed: bool,
    pub(crate) memory_limit: Option<u64>,
    /// Another user to become, with a group of the same number.
    pub(crate) user: Option<u32>,
    /// Processes and threads that user may have.
    pub(crate) processes: Option<u64>,
    pub(crate) descriptors: u64,
    /// Threads of numeric libraries.
    pub(crate) threads: u32,
    /// `cuda` or `cuda:N` for a GPU.
    pub(crate) device: Option<String>,
    /// How many cores it may use, and a number that says which.
    pub(crate) cores: Option<(usize, usize)>,
    /// The environment is already as it should be: it is not replaced by the worker's.
    pub(crate) keep_environment: bool,
    /// End with an error instead of starting with less isolation.
    pub(crate) required: bool,
}

/// Folders of the system that a Python needs to read.
const SYSTEM: &[&str] = &[
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/sbin",
    "/opt",
    "/nix",
    "/proc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/mime.types",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/alternatives",
    "/etc/os-release",
    "/etc/debian_version",
];
/// What network access needs on top.
const NETWORK: &[&str] =
    &["/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/services", "/run/systemd/resolve"];
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/full"];

/// A worker gives way to the gateway, which has little to do for each request, and to what the operator runs beside.
const NICE: i32 = 5;

/// Devices that a worker may use: the harmless ones, and those of NVIDIA's driver where it has a GPU.
pub(super) fn devices(gpu: bool) -> Vec<PathBuf> {
    let mut devices: Vec<PathBuf> = DEVICES.iter().map(PathBuf::from).collect();
    if gpu && let Ok(entries) = std::fs::read_dir("/dev") {
        let names = entries.filter_map(|entry| Some(entry.ok()?.path()));
        devices.extend(names.filter(|path| path.to_string_lossy().starts_with("/dev/nvidia")));
    }
    devices
}

/// What a worker may read beside its private folder: the system's places and `more`.
pub(super) fn readable(more: &[PathBuf], network_allowed: bool) -> Vec<PathBuf> {
    let system = SYSTEM.iter().chain(if network_allowed { NETWORK } else { &[] });
    system.map(PathBuf::from).chain(more.iter().cloned()).collect()
}

/// Becomes the worker. Returns only when that fails; the text says which step.
pub fn worker_exec(json: &str) -> Result<Infallible, String> {
    let launch: Launch = serde_json::from_str(json).map_err(|error| format!("worker-exec: {error}"))?;
    let mut missing = Vec::new();
    let mut step = |name: &str, done: Result<(), String>| {
        if let Err(reason) = done {
            missing.push(format!("{name}: {reason}"));
        }
    };
    let io = |done: rustix::io::Result<()>| done.map_err(|error| error.to_string());
    rustix::process::setsid().map_err(|error| format!("worker-exec: setsid: {error}"))?;
    step("limits", limits(&launch));
    step("cores", io(cores(&launch)));
    let _ = rustix::process::nice(NICE);
    step("no_new_privs", io(rustix::thread::set_no_new_privs(true)));
    if rustix::process::geteuid().is_root() {
        step("capabilities", capabilities());
    }
    step("landlock", files(&launch));
    if let Some(id) = launch.user {
        // Never optional: what the gateway gave to that user is closed to this one.
        become_user(id).map_err(|error| format!("worker-exec: the worker's own user: {error}"))?;
    }
    // A change of user takes the signal back, so it is asked for afterwards.
    step("parent death signal", io(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))));
    step("seccomp", calls(&launch));
    if !missing.is_empty() {
        let text = missing.join("; ");
        if launch.required {
            return Err(format!("worker isolation is required and incomplete: {text}"));
        }
        eprintln!("worker isolation is incomplete: {text}");
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let mut command = Command::new(&launch.program);
    command.args(&launch.args).current_dir(&launch.private);
    if !launch.keep_environment {
        command
            .env_clear()
            .envs(kernels())
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &launch.private)
            .env("TMPDIR", &launch.private)
            .env("LANG", "C.UTF-8")
            // pyarrow's allocator would start a thread, and MLflow would call home.
            .env("JE_ARROW_MALLOC_CONF", "background_thread:false")
            .env("MLFLOW_DISABLE_TELEMETRY", "true");
        // Without a number all are seen; without a GPU configured, none.
        match launch.device.as_deref().map(|device| device.split_once(':')) {
            None => drop(command.env("CUDA_VISIBLE_DEVICES", "")),
            Some(None) => {}
            Some(Some((_, number))) => drop(command.env("CUDA_VISIBLE_DEVICES", number)),
        }
        for name in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"] {
            command.env(name, launch.threads.to_string());
        }
    }
    let error = command.exec();
    Err(format!("the program cannot be started ({})", error.kind()))
}

/// What decides with which kernels numerical libraries compute, as far as whoever started Millgate has said: with other
/// kernels the last bits of answers differ.
pub(super) fn kernels() -> impl Iterator<Item = (&'static str, OsString)> {
    const NAMES: [&str; 7] = [
        "OPENBLAS_CORETYPE",
        "MKL_CBWR",
        "MKL_ENABLE_INSTRUCTIONS",
        "NPY_DISABLE_CPU_FEATURES",
        "NPY_ENABLE_CPU_FEATURES",
        "ONEDNN_MAX_CPU_ISA",
        "TF_ENABLE_ONEDNN_OPTS",
    ];
    NAMES.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// Keeps to a share of the cores that there are.
fn cores(launch: &Launch) -> rustix::io::Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Some((count, from)) = launch.cores else { return Ok(()) };
    let all = sched_getaffinity(None)?;
    let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
    if count >= all.len() {
        return Ok(());
    }
    let mut share = CpuSet::new();
    (0..count).for_each(|step| share.set(all[(from.wrapping_add(step)) % all.len()]));
    sched_setaffinity(None, &share)
}

fn limits(launch: &Launch) -> Result<(), String> {
    let mut set =
        vec![(Resource::Core, 0), (Resource::Nofile, launch.descriptors), (Resource::Fsize, 4 << 30)];
    if let (Some(_), Some(processes)) = (launch.user, launch.processes) {
        // Counted for the user as a whole, so only where the user is the worker's own.
        set.push((Resource::Nproc, processes));
    }
    if let Some(limit) = launch.memory_limit {
        // A back-stop: the watcher in the gateway counts more exactly and comes first in most cases.
        set.push((Resource::Data, limit.saturating_add(512 << 20)));
    }
    for (resource, value) in set {
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        rustix::process::setrlimit(resource, limit).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Started as root, it keeps no capability: `exec` can give none back that is not in the bounding set.
fn capabilities() -> Result<(), String> {
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Newer than this kernel.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// Only this thread changes, and there is no other: the launcher has one thread.
fn become_user(id: u32) -> rustix::io::Result<()> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (user, group) = (rustix::process::Uid::from_raw(id), rustix::process::Gid::from_raw(id));
    set_thread_groups(&[rustix::process::Gid::from_raw(super::user::GROUP)])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}

fn files(launch: &Launch) -> Result<(), String> {
    let abi = ABI::V6;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let read = AccessFs::from_read(abi);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .map_err(|error| text(&error))?;
    if !launch.network_allowed {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi)).map_err(|error| text(&error))?;
    }
    let ruleset = ruleset.scope(Scope::Signal | Scope::AbstractUnixSocket).map_err(|error| text(&error))?;
    let created = ruleset
        .create()
        .map_err(|error| text(&error))?
        .add_rules(path_beneath_rules(readable(&launch.readable, launch.network_allowed), read))
        .and_then(|rules| {
            let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
            rules.add_rules(path_beneath_rules(devices(launch.device.is_some()), device))
        })
        .and_then(|rules| {
            let all = AccessFs::from_all(abi) & !AccessFs::Execute;
            let folders = std::iter::once(&launch.private).chain(&launch.writable);
            rules.add_rules(path_beneath_rules(folders, all))
        })
        .map_err(|error| text(&error))?;
    let status = created.restrict_self().map_err(|error| text(&error))?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => Err("the kernel enforces only a part".to_owned()),
        RulesetStatus::NotEnforced => Err("the kernel has no Landlock".to_owned()),
    }
}

fn calls(launch: &Launch) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let denied = [
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_bpf,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_io_uring_setup,
        libc::SYS_open_by_handle_at,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        denied.into_iter().map(|call| (call, Vec::new())).collect();
    if !launch.network_allowed {
        let condition =
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, libc::AF_UNIX as u64);
        let rule = SeccompRule::new(vec![condition.map_err(|error| text(&error))?]);
        rules.insert(libc::SYS_socket, vec![rule.map_err(|error| text(&error))?]);
    }
    let arch =
        std::env::consts::ARCH.try_into().map_err(|_| "an architecture without a filter".to_owned())?;
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32), arch);
    let program: BpfProgram = filter
        .map_err(|error| text(&error))?
        .try_into()
        .map_err(|error: seccompiler::BackendError| text(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| text(&error))
}

/// What this kernel lacks for worker isolation; `None` when nothing. Takes no rights away: the ruleset is only made.
pub(crate) fn landlock_gap() -> Option<String> {
    let made = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|rules| rules.scope(Scope::Signal | Scope::AbstractUnixSocket))
        .and_then(landlock::Ruleset::create);
    made.err().map(|_| {
        "the kernel's Landlock is missing or older than version 6: workers are confined less".to_owned()
    })
}

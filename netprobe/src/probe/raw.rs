//! Programs on functions of kernel modules, which aya cannot attach: it has no way to name the module's BTF.
//!
//! Instructions come from aya-obj, and share the maps that aya made. Only this file speaks `bpf(2)` for it.

use std::{
    collections::{HashMap, HashSet},
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use anyhow::{Context, Result, anyhow, bail};
use aya::{Ebpf, maps::Map};
use aya_obj::{Object, generated::bpf_insn};

/// Commands of `bpf(2)` (`enum bpf_cmd`).
const PROG_LOAD: libc::c_long = 5;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BTF_GET_FD_BY_ID: libc::c_long = 19;
const BTF_GET_NEXT_ID: libc::c_long = 23;
/// `BPF_PROG_TYPE_TRACING`.
const TRACING: u32 = 26;
/// `BPF_TRACE_FEXIT`.
const FEXIT: u32 = 25;
/// Bytes of the verifier's words that are asked for, and those that are shown.
const LOG_BYTES: usize = 1 << 16;
const LOG_SHOWN: usize = 400;
/// Bytes of a module's name (`MODULE_NAME_LEN`).
const NAME_BYTES: usize = 64;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` uses.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_btf_obj_fd: u32,
    _pad: u32,
}

/// The part that `BPF_RAW_TRACEPOINT_OPEN` uses.
#[repr(C)]
struct Open {
    name: u64,
    prog_fd: u32,
    _pad: u32,
}

/// The part that the commands with an id use.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    flags: u32,
}

/// The part that `BPF_OBJ_GET_INFO_BY_FD` uses.
#[repr(C)]
struct Info {
    fd: u32,
    len: u32,
    info: u64,
}

/// `struct bpf_btf_info`.
#[repr(C)]
#[derive(Default)]
struct BtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
    name: u64,
    name_len: u32,
    kernel_btf: u32,
}

/// Calls `bpf(2)`.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is laid out as the kernel's union as far as its size, which is passed, says; what it points to
    // outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for commands that return a descriptor.
fn open<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(bpf(command, attr)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just made the descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Asks the kernel for a program on the end of a function that cannot be one: what it says otherwise than "no such
/// function" holds for all.
///
/// # Errors
///
/// Where programs on functions are refused.
pub(super) fn ask() -> io::Result<()> {
    // `r0 = 0; exit`
    let instructions: [u64; 2] = [0xb7, 0x95];
    let mut load = load(instructions.as_ptr() as u64, instructions.len());
    // Type 1 is a number or the like, never a function.
    load.attach_btf_id = 1;
    match open(PROG_LOAD, &mut load) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Err(error),
        _ => Ok(()),
    }
}

fn load(instructions: u64, count: usize) -> Load {
    Load {
        prog_type: TRACING,
        insn_cnt: u32::try_from(count).unwrap_or(u32::MAX),
        insns: instructions,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: FEXIT,
        ..Load::default()
    }
}

/// The object once more, with its instructions bound to the maps that aya made.
pub(super) struct Instructions(Object);

impl Instructions {
    /// Reads `object`, of which `ebpf` is loaded.
    pub(super) fn new(object: &[u8], ebpf: &Ebpf) -> Result<Self> {
        let fds: HashMap<&str, RawFd> = ebpf.maps().filter_map(|(name, map)| Some((name, descriptor(map)?))).collect();
        let mut object = Object::parse(object).context("read the BPF object")?;
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps = object.maps.clone();
        let bound = maps.iter().map(|(name, map)| {
            let fd = fds.get(name.as_str()).ok_or_else(|| anyhow!("no descriptor of map {name}"))?;
            Ok((name.as_str(), *fd, map))
        });
        object.relocate_maps(bound.collect::<Result<Vec<_>>>()?.into_iter(), &text)?;
        object.relocate_calls(&text)?;
        Ok(Self(object))
    }

    /// Attaches the program of that name to the end of function `id` of `module`, and returns what holds it there.
    pub(super) fn attach(&self, name: &str, module: &str, id: u32) -> Result<OwnedFd> {
        let program = self.0.programs.get(name).ok_or_else(|| anyhow!("the object has no program {name}"))?;
        let function = self.0.functions.get(&(program.section_index, program.address));
        let function = function.ok_or_else(|| anyhow!("the object has no instructions of {name}"))?;
        let btf = module_btf(module).with_context(|| format!("find the BTF of module {module}"))?;
        let program = load_program(name, &function.instructions, &btf, id)?;
        let mut attr = Open { name: 0, prog_fd: number(&program)?, _pad: 0 };
        open(RAW_TRACEPOINT_OPEN, &mut attr).with_context(|| format!("attach {name}"))
    }
}

fn load_program(name: &str, instructions: &[bpf_insn], btf: &OwnedFd, id: u32) -> Result<OwnedFd> {
    let mut attr = load(instructions.as_ptr() as u64, instructions.len());
    attr.attach_btf_id = id;
    attr.attach_btf_obj_fd = number(btf)?;
    for (to, from) in attr.prog_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let error = match open(PROG_LOAD, &mut attr) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more, for the verifier's words.
    let mut log = vec![0u8; LOG_BYTES];
    (attr.log_level, attr.log_size, attr.log_buf) = (1, u32::try_from(LOG_BYTES)?, log.as_mut_ptr() as u64);
    let _ = open(PROG_LOAD, &mut attr);
    let words = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
    let from = words.char_indices().rev().nth(LOG_SHOWN).map_or(0, |(at, _)| at);
    bail!("load {name}: {error}: {}", words[from..].trim_end());
}

/// The BTF of a loaded module.
fn module_btf(module: &str) -> Result<OwnedFd> {
    let mut id = ById::default();
    loop {
        // The end of the list is "no such file".
        bpf(BTF_GET_NEXT_ID, &mut id)?;
        id.id = id.next_id;
        let mut by_id = ById { id: id.next_id, ..ById::default() };
        // It may be gone meanwhile.
        let Ok(btf) = open(BTF_GET_FD_BY_ID, &mut by_id) else { continue };
        if kernel_name(&btf)?.is_some_and(|name| name == module) {
            return Ok(btf);
        }
    }
}

/// Whose BTF it is; `None` for that of somebody's program.
fn kernel_name(btf: &OwnedFd) -> Result<Option<String>> {
    let mut name = [0u8; NAME_BYTES];
    let mut info =
        BtfInfo { name: name.as_mut_ptr() as u64, name_len: u32::try_from(NAME_BYTES)?, ..BtfInfo::default() };
    let mut attr = Info { fd: number(btf)?, len: u32::try_from(size_of::<BtfInfo>())?, info: (&raw mut info) as u64 };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    let text = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    Ok((info.kernel_btf != 0).then(|| text.to_string_lossy().into_owned()))
}

fn number(fd: &OwnedFd) -> Result<u32> {
    Ok(u32::try_from(fd.as_raw_fd())?)
}

fn descriptor(map: &Map) -> Option<RawFd> {
    let data = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::RingBuf(data) => data,
        _ => return None,
    };
    Some(data.fd().as_fd().as_raw_fd())
}

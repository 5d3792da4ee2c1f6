//! The running kernel's own description of its types (BTF).

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use btf_rs::{Backend, Btf, BtfType, Type};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::catalog;

mod names;

use names::Names;

/// Where the kernel shows its BTF.
pub const SYS_BTF: &str = "/sys/kernel/btf";

/// BTF of the kernel and of the modules we need.
pub struct KernelBtf {
    parts: Vec<Btf>,
    /// Types of the kernel itself by name; none where its BTF is not as expected, but the parser reads it.
    names: Option<Names>,
    /// Names of the modules that `parts` has behind the kernel itself.
    modules: Vec<&'static str>,
    /// Where each struct was found, by its name.
    roots: RefCell<BTreeMap<String, Option<(usize, u32)>>>,
    /// Keeps the copies alive that the parsers map.
    _copies: Vec<OwnedFd>,
}

/// A function of the kernel or of one of its modules.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its module, where it is not built in.
    pub module: Option<&'static str>,
    /// Its id, in the numbers of the kernel's and its module's BTF together.
    pub id: u32,
    /// Types of its arguments.
    pub args: Vec<String>,
}

/// A member of a struct.
struct Field {
    bit_offset: u32,
    type_id: u32,
}

impl KernelBtf {
    /// Reads the BTF at `path` (a file; its folder holds those of the modules), by default the
    /// running kernel's.
    ///
    /// # Errors
    ///
    /// When the file is missing (a kernel without `CONFIG_DEBUG_INFO_BTF`) or is no BTF.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let path = path.map_or_else(|| Path::new(SYS_BTF).join("vmlinux"), PathBuf::from);
        if !path.exists() {
            bail!(
                "this kernel has no BTF ({} is missing): netprobe needs a kernel built with CONFIG_DEBUG_INFO_BTF=y",
                path.display()
            );
        }
        let (base, names, copy) =
            map(&path).with_context(|| format!("read the kernel's BTF from {}", path.display()))?;
        let mut btf =
            Self { parts: vec![base], names, modules: Vec::new(), roots: RefCell::default(), _copies: vec![copy] };
        for module in catalog::modules() {
            let path = path.with_file_name(module);
            if path.exists() {
                let split = Btf::from_split_file(&path, &btf.parts[0])
                    .with_context(|| format!("read the BTF of module {module} from {}", path.display()))?;
                btf.parts.push(split);
                btf.modules.push(module);
            }
        }
        Ok(btf)
    }

    /// Byte offset of `struct.member[index].member`; `None` where this kernel has no such field.
    #[must_use]
    pub fn offset(&self, path: &str) -> Option<u32> {
        let (root, rest) = path.split_once('.')?;
        let (part, id) = self.root(root)?;
        let btf = &self.parts[part];
        member_path(btf, btf.resolve_type_by_id(id).ok()?, rest)
    }

    /// The number of a struct that the kernel itself has, not a module.
    #[must_use]
    pub fn own_struct(&self, name: &str) -> Option<u32> {
        self.root(name).filter(|(part, _)| *part == 0).map(|(_, id)| id)
    }

    /// The struct or union of that name.
    fn root(&self, name: &str) -> Option<(usize, u32)> {
        if let Some(known) = self.roots.borrow().get(name) {
            return *known;
        }
        let is_composite =
            |btf: &Btf, id: u32| matches!(btf.resolve_type_by_id(id), Ok(Type::Struct(_) | Type::Union(_)));
        let found = self.parts.iter().enumerate().find_map(|(part, btf)| {
            self.ids(part, name).into_iter().find(|id| is_composite(btf, *id)).map(|id| (part, id))
        });
        self.roots.borrow_mut().insert(name.to_owned(), found);
        found
    }

    /// Numbers of the types of that name in a part, as they come there.
    fn ids(&self, part: usize, name: &str) -> Vec<u32> {
        let Some(btf) = self.parts.get(part) else { return Vec::new() };
        match (btf.split(), &self.names) {
            (Some(module), _) => module.resolve_ids_by_name(name).unwrap_or_default(),
            (None, None) => btf.resolve_ids_by_name(name).unwrap_or_default(),
            (None, Some(names)) => {
                let is_called = |id: &u32| {
                    let found = btf.resolve_type_by_id(*id).ok();
                    let found = found.as_ref().and_then(|found| btf.resolve_name(found.as_btf_type()?).ok());
                    found.as_deref() == Some(name)
                };
                let mut ids: Vec<u32> = names.candidates(name).filter(is_called).collect();
                ids.reverse();
                ids
            }
        }
    }

    fn types(&self, part: usize, name: &str) -> impl Iterator<Item = Type> {
        let found = self.ids(part, name).into_iter();
        found.filter_map(move |id| self.parts.get(part)?.resolve_type_by_id(id).ok())
    }

    fn prototype(&self, part: usize, function: &str) -> Option<btf_rs::FuncProto> {
        let btf = self.parts.get(part)?;
        self.types(part, function).find_map(|t| {
            let Type::Func(f) = t else { return None };
            match btf.resolve_type_by_id(f.get_type_id()?).ok()? {
                Type::FuncProto(p) => Some(p),
                _ => None,
            }
        })
    }

    fn typedef_prototype(&self, part: usize, name: &str) -> Option<btf_rs::FuncProto> {
        let btf = self.parts.get(part)?;
        self.types(part, name).find_map(|t| {
            let Type::Typedef(typedef) = t else { return None };
            let Type::Ptr(pointer) = btf.resolve_type_by_id(typedef.get_type_id()?).ok()? else { return None };
            match btf.resolve_type_by_id(pointer.get_type_id()?).ok()? {
                Type::FuncProto(p) => Some(p),
                _ => None,
            }
        })
    }

    /// Types of a tracepoint's arguments, without the first (`void *__data`); `None` where this
    /// kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint(&self, name: &str) -> Option<Vec<String>> {
        self.parts.iter().enumerate().find_map(|(part, btf)| {
            let proto = (self.prototype(part, &format!("__traceiter_{name}")))
                .or_else(|| self.prototype(part, &format!("__bpf_trace_{name}")))
                .or_else(|| self.typedef_prototype(part, &format!("btf_trace_{name}")))?;
            Some(argument_types(btf, proto.parameters.iter().skip(1)))
        })
    }

    /// A function; `None` where neither this kernel nor a module that is loaded has it.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Function> {
        self.parts.iter().enumerate().find_map(|(part, btf)| {
            let is_function = |id: &u32| matches!(btf.resolve_type_by_id(*id), Ok(Type::Func(_)));
            let id = self.ids(part, name).into_iter().find(is_function)?;
            let proto = self.prototype(part, name)?;
            let args = argument_types(btf, proto.parameters.iter());
            let module = part.checked_sub(1).and_then(|at| self.modules.get(at)).copied();
            Some(Function { module, id, args })
        })
    }

    /// Members of an enum by their numbers.
    #[must_use]
    pub fn enum_members(&self, name: &str) -> Vec<(u32, String)> {
        for (part, btf) in self.parts.iter().enumerate() {
            for found in self.types(part, name) {
                if let Type::Enum(e) = found {
                    return e.members.iter().map(|m| (m.val(), btf.resolve_name(m).unwrap_or_default())).collect();
                }
            }
        }
        Vec::new()
    }
}

/// Copies `path` to memory and maps the copy: files of sysfs cannot be mapped before Linux 6.16,
/// and the parser that reads them whole takes five times the memory.
fn map(path: &Path) -> Result<(Btf, Option<Names>, OwnedFd)> {
    let bytes = fs::read(path)?;
    let copy = memfd_create("btf", MFdFlags::MFD_CLOEXEC)?;
    let mut file = fs::File::from(copy);
    file.write_all(&bytes)?;
    let btf = Btf::from_file_with_backend(format!("/proc/self/fd/{}", file.as_raw_fd()), Backend::Mmap)?;
    Ok((btf, Names::of(&bytes), OwnedFd::from(file)))
}

fn strip(btf: &Btf, mut id: u32) -> Option<(u32, Type)> {
    loop {
        let found = btf.resolve_type_by_id(id).ok()?;
        id = match &found {
            Type::Typedef(t) => t.get_type_id()?,
            Type::Const(t) | Type::Volatile(t) | Type::Restrict(t) => t.get_type_id()?,
            Type::TypeTag(t) => t.get_type_id()?,
            _ => return Some((id, found)),
        };
    }
}

fn size(btf: &Btf, id: u32) -> Option<u32> {
    let bytes = match strip(btf, id)?.1 {
        Type::Int(t) => t.size(),
        Type::Struct(t) | Type::Union(t) => t.size(),
        Type::Ptr(_) => 8,
        Type::Enum(t) => t.size(),
        Type::Enum64(t) => t.size(),
        Type::Array(t) => return Some(size(btf, t.get_type_id()?)? * u32::try_from(t.len()).ok()?),
        _ => return None,
    };
    u32::try_from(bytes).ok()
}

/// Finds `name` in `of`, through anonymous structs and unions.
fn member(btf: &Btf, of: &Type, name: &str) -> Option<Field> {
    let (Type::Struct(composite) | Type::Union(composite)) = of else { return None };
    for m in &composite.members {
        let type_id = m.get_type_id()?;
        let own = btf.resolve_name(m).unwrap_or_default();
        if own == name {
            return Some(Field { bit_offset: m.bit_offset(), type_id });
        }
        if own.is_empty()
            && let Some((_, inner)) = strip(btf, type_id)
            && let Some(found) = member(btf, &inner, name)
        {
            return Some(Field { bit_offset: found.bit_offset + m.bit_offset(), ..found });
        }
    }
    None
}

fn member_path(btf: &Btf, start: Type, path: &str) -> Option<u32> {
    let (mut at, mut bits) = (start, 0);
    for part in path.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse::<u32>().ok()?),
            None => (part, 0),
        };
        let field = member(btf, &at, name)?;
        bits += field.bit_offset;
        let (_, mut inner) = strip(btf, field.type_id)?;
        if part.contains('[') {
            let Type::Array(array) = &inner else { return None };
            let element = array.get_type_id()?;
            bits += index * size(btf, element)? * 8;
            inner = strip(btf, element)?.1;
        }
        at = inner;
    }
    // A bit field has no byte offset that a load could use.
    bits.is_multiple_of(8).then_some(bits / 8)
}

fn argument_types<'p>(btf: &Btf, parameters: impl Iterator<Item = &'p btf_rs::Parameter>) -> Vec<String> {
    parameters.map(|p| p.get_type_id().map_or_else(|| "?".to_owned(), |id| type_name(btf, id))).collect()
}

fn type_name(btf: &Btf, id: u32) -> String {
    if id == 0 {
        return "void".to_owned();
    }
    match btf.resolve_type_by_id(id) {
        Ok(Type::Ptr(p)) => format!("{}*", p.get_type_id().map_or_else(|| "void".to_owned(), |id| type_name(btf, id))),
        Ok(Type::Const(c)) => {
            format!("const {}", c.get_type_id().map_or_else(|| "void".to_owned(), |id| type_name(btf, id)))
        }
        Ok(t) => t.as_btf_type().and_then(|t| btf.resolve_name(t).ok()).unwrap_or_else(|| t.name().to_owned()),
        Err(error) => error.to_string(),
    }
}

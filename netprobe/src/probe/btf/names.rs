//! Types by their names: the parser's own search goes through all types of the kernel each time.

/// Bytes of a BTF header as far as it is read here, and of a type before what its kind adds (`include/uapi/linux/btf.h`).
const HEADER: usize = 24;
const TYPE: usize = 12;
/// Hash buckets; the kernel has some hundred thousand types.
const BUCKETS: usize = 1 << 16;

/// Where types with a name are: by hash, so that whoever asks must look at the name again.
pub(super) struct Names {
    /// By the hash's low bits: the last type, 0 for none.
    heads: Vec<u32>,
    /// By id: hash of its name, and the type before it in the bucket.
    types: Vec<(u32, u32)>,
}

impl Names {
    /// Goes through the types of a BTF that is not split, once; none where it is not as expected.
    pub(super) fn of(btf: &[u8]) -> Option<Self> {
        let [header_len, type_off, type_len, str_off, str_len] = [4, 8, 12, 16, 20].map(|at| word(btf, at));
        let (header_len, magic) = (header_len?, btf.get(..2)?);
        if magic != 0xeb9f_u16.to_ne_bytes() || header_len < HEADER {
            return None;
        }
        let types = part(btf, header_len, type_off?, type_len?)?;
        let strings = part(btf, header_len, str_off?, str_len?)?;
        let mut names = Self { heads: vec![0; BUCKETS], types: vec![(0, 0)] };
        let mut at = 0;
        while at < types.len() {
            let (name, info) = (word(types, at)?, word(types, at + 4)?);
            let (kind, count) = (info >> 24 & 0x1f, info & 0xffff);
            let hash = if is_asked_for(kind) { hash(strings.get(name..)?) } else { 0 };
            names.add(hash)?;
            at += TYPE + added(kind, count);
        }
        Some(names)
    }

    fn add(&mut self, hash: u32) -> Option<()> {
        let id = u32::try_from(self.types.len()).ok()?;
        let head = if hash == 0 { None } else { self.heads.get_mut(hash as usize % BUCKETS) };
        let before = head.map_or(0, |head| std::mem::replace(head, id));
        self.types.push((hash, before));
        Some(())
    }

    /// Ids of types that may have that name, the last first.
    pub(super) fn candidates(&self, name: &str) -> impl Iterator<Item = u32> {
        let hash = hash(name.as_bytes());
        let mut id = self.heads.get(hash as usize % BUCKETS).copied().unwrap_or(0);
        std::iter::from_fn(move || {
            while id != 0 {
                let (found, (of, before)) = (id, self.types.get(id as usize).copied().unwrap_or((0, 0)));
                id = before;
                if of == hash {
                    return Some(found);
                }
            }
            None
        })
    }
}

/// Struct, union, enum, typedef, function and enum of 64 bits.
const fn is_asked_for(kind: usize) -> bool {
    matches!(kind, 4 | 5 | 6 | 8 | 12 | 19)
}

/// Bytes behind a type of this kind with so many members.
const fn added(kind: usize, count: usize) -> usize {
    match kind {
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        // Struct, union, section, enum of 64 bits.
        4 | 5 | 15 | 19 => 12 * count,
        // Enum, prototype.
        6 | 13 => 8 * count,
        _ => 0,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes) as usize)
}

fn part(btf: &[u8], header_len: usize, off: usize, len: usize) -> Option<&[u8]> {
    let begin = header_len.checked_add(off)?;
    btf.get(begin..begin.checked_add(len)?)
}

/// FNV-1a of the bytes before the first zero; never 0.
fn hash(name: &[u8]) -> u32 {
    let bytes = name.iter().take_while(|byte| **byte != 0);
    bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A BTF with these types, each its words and what comes behind them.
    fn btf(types: &[(u32, u32, &[u32])], strings: &[u8]) -> Vec<u8> {
        let body: Vec<u8> = types
            .iter()
            .flat_map(|(name, info, behind)| [&[*name, *info, 0], *behind].concat())
            .flat_map(u32::to_ne_bytes)
            .collect();
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let sizes = [24, 0, len(&body), len(&body), len(strings)];
        let header: Vec<u8> = sizes.into_iter().flat_map(u32::to_ne_bytes).collect();
        [&0xeb9f_u16.to_ne_bytes()[..], &[1, 0], &header, &body, strings].concat()
    }

    #[test]
    fn types_behind_every_kind_are_found() {
        let strings = b"\0int\0pair\0call\0";
        let of = |kind: u32, count: u32| kind << 24 | count;
        let types: &[(u32, u32, &[u32])] = &[
            (1, of(1, 0), &[32]),
            (0, of(3, 0), &[1, 1, 2]),
            (5, of(4, 1), &[1, 1, 0]),
            (0, of(13, 2), &[1, 1, 1, 1]),
            (10, of(12, 0), &[]),
            (5, of(4, 0), &[]),
        ];
        let names = Names::of(&btf(types, strings)).unwrap();
        assert_eq!(names.candidates("pair").collect::<Vec<_>>(), [6, 3]);
        assert_eq!(names.candidates("call").collect::<Vec<_>>(), [5]);
        assert_eq!(names.candidates("int").count(), 0, "nobody asks for integers");
        assert_eq!(names.candidates("none").count(), 0);
    }

    #[test]
    fn what_is_cut_short_gives_no_names() {
        let whole = btf(&[(1, 4 << 24 | 2, &[1, 1, 0, 1, 1, 0])], b"\0pair\0");
        assert!(Names::of(&whole).is_some());
        for len in 0..whole.len() {
            assert!(Names::of(&whole[..len]).is_none(), "{len}");
        }
    }
}

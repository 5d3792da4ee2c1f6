//! Kernel addresses and the functions they lie in.

use std::{collections::BTreeMap, io::BufRead, sync::Arc, thread::JoinHandle};

/// Functions of the running kernel, or those that a recording names.
#[derive(Debug, Default)]
pub struct Symbols {
    table: Table,
    /// The table, while it is still being read.
    read: Option<JoinHandle<Table>>,
    /// Addresses that were asked for, with their answers.
    known: BTreeMap<u64, Arc<str>>,
    /// Answers that no recording has yet.
    fresh: Vec<(u64, Arc<str>)>,
}

/// Functions by address.
#[derive(Debug, Default)]
pub struct Table {
    /// Start address and where the name lies in `names`, sorted.
    starts: Vec<(u64, u32, u16)>,
    names: String,
}

/// Name of what no table names.
const UNKNOWN: &str = "?";

impl Table {
    /// From the text of /proc/kallsyms. Data symbols are left out.
    #[must_use]
    pub fn parse(kallsyms: impl BufRead) -> Self {
        let mut symbols = Self::default();
        for line in kallsyms.lines().map_while(Result::ok) {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            if address == 0 || !matches!(kind, "t" | "T" | "w" | "W") {
                continue;
            }
            let (Ok(at), Ok(len)) = (u32::try_from(symbols.names.len()), u16::try_from(name.len())) else { continue };
            symbols.names.push_str(name);
            symbols.starts.push((address, at, len));
        }
        symbols.starts.sort_unstable_by_key(|(address, ..)| *address);
        symbols.starts.shrink_to_fit();
        symbols.names.shrink_to_fit();
        symbols
    }

    fn find(&self, address: u64) -> Option<&str> {
        let after = self.starts.partition_point(|(start, ..)| *start <= address);
        let (_, at, len) = *self.starts.get(after.checked_sub(1)?)?;
        self.names.get(at as usize..at as usize + usize::from(len))
    }
}

impl From<Table> for Symbols {
    fn from(table: Table) -> Self {
        Self { table, ..Self::default() }
    }
}

impl From<JoinHandle<Table>> for Symbols {
    fn from(read: JoinHandle<Table>) -> Self {
        Self { read: Some(read), ..Self::default() }
    }
}

impl Symbols {
    /// Takes over an answer of a recording.
    pub fn learn(&mut self, address: u64, name: &str) {
        self.known.insert(address, Arc::from(name));
    }

    /// The function that `address` lies in, `?` where nothing names it.
    pub fn name(&mut self, address: u64) -> Arc<str> {
        if let Some(name) = self.known.get(&address) {
            return Arc::clone(name);
        }
        let name: Arc<str> = Arc::from(self.table().find(address).unwrap_or(UNKNOWN));
        self.known.insert(address, Arc::clone(&name));
        self.fresh.push((address, Arc::clone(&name)));
        name
    }

    /// Answers given since the last call, for a recording.
    pub fn take_fresh(&mut self) -> Vec<(u64, Arc<str>)> {
        std::mem::take(&mut self.fresh)
    }

    /// Whether there are names at all (`kptr_restrict` hides them from those without privileges).
    #[must_use]
    pub fn is_empty(&mut self) -> bool {
        self.known.is_empty() && self.table().starts.is_empty()
    }

    fn table(&mut self) -> &Table {
        if let Some(read) = self.read.take() {
            // A table that could not be read names nothing.
            self.table = read.join().unwrap_or_default();
        }
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_named_by_the_function_before_it() {
        let text =
            "0000000000001000 T ip_rcv\n0000000000002000 d some_data\n0000000000003000 t nft_do_chain\t[nf_tables]\n";
        let mut symbols = Symbols::from(Table::parse(text.as_bytes()));
        assert_eq!(&*symbols.name(0x1010), "ip_rcv");
        assert_eq!(&*symbols.name(0x2fff), "ip_rcv");
        assert_eq!(&*symbols.name(0x33e8), "nft_do_chain");
        assert_eq!(&*symbols.name(0x10), "?");
        assert_eq!(symbols.take_fresh().len(), 4);
    }

    #[test]
    fn hidden_addresses_give_no_names() {
        assert!(Symbols::from(Table::parse(&b"0000000000000000 T ip_rcv\n"[..])).is_empty());
    }

    #[test]
    fn whoever_asks_waits_for_the_table() {
        let table = std::thread::spawn(|| Table::parse(&b"0000000000001000 T ip_rcv\n"[..]));
        assert_eq!(&*Symbols::from(table).name(0x1010), "ip_rcv");
    }
}

//! Tables of drops taken out of what a node shows: rows of several nodes go into one.

use std::{cell::RefCell, io, rc::Rc, sync::Arc};

use crate::{
    model::drops::DropTable,
    render::{Relay, Render, Shown},
};

/// Hands on what `drops` shows beside its table.
pub(super) struct Apart {
    pub(super) out: Box<dyn Render>,
    /// The tables that nobody has taken yet.
    pub(super) tables: Rc<RefCell<Vec<DropTable>>>,
}

impl Relay for Apart {
    fn relay(&mut self, shown: Shown<'_>) -> io::Result<()> {
        match shown {
            Shown::Drops(table, _) => {
                self.tables.borrow_mut().push(table.clone());
                Ok(())
            }
            other => other.to(&mut *self.out),
        }
    }
}

/// The latest tables of nodes as one. Times are those of the wall.
#[derive(Debug, Default)]
pub(super) struct Merged {
    latest: Vec<Option<DropTable>>,
    /// A table came since the last one was taken.
    is_fresh: bool,
}

impl Merged {
    /// The table of node `at`, called `node`, whose wall clock is `offset_ns` ahead of its monotonic one.
    pub(super) fn take(&mut self, at: usize, node: &Arc<str>, offset_ns: i64, mut table: DropTable) {
        table.mono_ns = table.mono_ns.saturating_add_signed(offset_ns);
        for row in &mut table.rows {
            row.node = Some(Arc::clone(node));
            row.last_ns = row.last_ns.saturating_add_signed(offset_ns);
        }
        if self.latest.len() <= at {
            self.latest.resize(at + 1, None);
        }
        self.latest[at] = Some(table);
        self.is_fresh = true;
    }

    /// There is any table.
    pub(super) fn is_some(&self) -> bool {
        self.latest.iter().any(Option::is_some)
    }

    /// All rows in one table, where there is anything new.
    pub(super) fn fresh(&mut self) -> Option<DropTable> {
        std::mem::take(&mut self.is_fresh).then(|| self.all())
    }

    /// All rows in one table, most packets first. Rates are those of each node's own interval.
    pub(super) fn all(&self) -> DropTable {
        let tables = || self.latest.iter().flatten();
        let mono_ns = tables().map(|table| table.mono_ns).max().unwrap_or(0);
        let interval_ns = tables().map(|table| table.interval_ns).max().unwrap_or(0);
        let scaled = |fresh: u64, of_ns: u64| match of_ns {
            0 => fresh,
            of_ns => u64::try_from(u128::from(fresh) * u128::from(interval_ns) / u128::from(of_ns)).unwrap_or(u64::MAX),
        };
        let mut rows: Vec<_> = tables()
            .flat_map(|table| table.rows.iter().map(move |row| (row, table.interval_ns)))
            .map(|(row, of_ns)| {
                let mut row = row.clone();
                row.fresh = scaled(row.fresh, of_ns);
                row
            })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.packets));
        DropTable { mono_ns, interval_ns, rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{drops::DropRow, sighting::Side};

    fn table(reason: &str, packets: u64, fresh: u64, interval_ns: u64) -> DropTable {
        let row = DropRow {
            node: None,
            pod: None,
            side: Side::Node,
            device: "eth0".into(),
            reason: reason.into(),
            site: "f".into(),
            packets,
            bytes: packets,
            fresh,
            last_ns: 5,
            noise: None,
            example: None,
        };
        DropTable { mono_ns: 10, interval_ns, rows: vec![row] }
    }

    #[test]
    fn the_latest_rows_of_all_nodes_are_one_table() {
        let (one, two) = (Arc::from("n1"), Arc::from("n2"));
        let mut merged = Merged::default();
        merged.take(1, &two, 1_000, table("B", 30, 4, 1_000));
        merged.take(0, &one, -4, table("OLD", 9, 9, 1_000));
        merged.take(0, &one, -4, table("A", 10, 5, 500));
        let all = merged.fresh().expect("tables came");
        let rows: Vec<_> = all
            .rows
            .iter()
            .map(|row| (row.node.as_deref().unwrap_or_default(), &*row.reason, row.packets, row.fresh, row.last_ns))
            .collect();
        // A rate of five in half the time is one of ten.
        assert_eq!(rows, [("n2", "B", 30, 4, 1_005), ("n1", "A", 10, 10, 1)]);
        assert_eq!((all.mono_ns, all.interval_ns), (1_010, 1_000));
        assert_eq!(merged.fresh(), None);
    }
}

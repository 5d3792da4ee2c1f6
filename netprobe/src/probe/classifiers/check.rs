//! Filters are anybody's to take away or to overtake: so they are looked at again and again, and put back.

use std::io;

use anyhow::{Context as _, Result};

use super::{
    Device, Held, add_filters,
    clsact::{self, Standing},
    inside, is_gone,
    owner::Owner,
};
use crate::{
    model::drops::Hole,
    probe::{attach::Attached, catalog::CLASSIFIERS, host::mono_ns},
};

impl Attached {
    /// Looks whether our filters are where they belong, puts back those that are not, and starts a guardian where the
    /// one that was is gone. Says since when packets were not seen, by device. `open` as for
    /// [`classify`](Self::classify).
    pub fn check_filters<E>(&mut self, open: impl Fn(u32) -> io::Result<E>) -> Vec<Hole>
    where
        E: FnOnce() -> io::Result<()> + Send,
    {
        let is_filter = |held: &Held| matches!(held, Held::Filters { .. });
        let devices: Vec<Device> = self
            .classifiers
            .held
            .iter()
            .filter(|(_, held)| is_filter(held))
            .map(|(device, _)| device.clone())
            .collect();
        if devices.is_empty() {
            return Vec::new();
        }
        if let Err(error) = self.classifiers.guardian() {
            log::warn!("{error:#}");
        }
        devices.iter().filter_map(|device| self.check_device(device, &open)).collect()
    }

    fn check_device<E>(&mut self, device: &Device, open: &impl Fn(u32) -> io::Result<E>) -> Option<Hole>
    where
        E: FnOnce() -> io::Result<()> + Send,
    {
        let now_ns = mono_ns();
        let enter = || open(device.netns).context("open its network namespace");
        let look = |enter: E| inside(enter, || Ok(clsact::look(device.ifindex, Owner::own(), CLASSIFIERS.len())?));
        // A namespace that cannot be entered has ended, or will be told of by the node.
        let standing = enter().and_then(look).ok()?;
        let Some(Held::Filters { seen_ns, is_behind }) = self.classifiers.held.get_mut(device) else { return None };
        let from_ns = *seen_ns;
        let hole = |to_ns, why: &str| {
            Some(Hole { device: device.name.clone(), netns: device.netns, from_ns, to_ns, why: why.to_owned() })
        };
        match (standing, *is_behind) {
            (Standing::First, _) => {
                (*seen_ns, *is_behind) = (now_ns, false);
                None
            }
            (Standing::Behind, true) => {
                *seen_ns = now_ns;
                None
            }
            (Standing::Behind, false) => {
                (*seen_ns, *is_behind) = (now_ns, true);
                hole(None, "a TC filter of somebody else comes before netprobe's")
            }
            (Standing::Overtaken | Standing::Missing, _) => {
                let why = match standing {
                    Standing::Missing => "somebody removed netprobe's TC filters",
                    _ => "a TC filter of somebody else came before netprobe's",
                };
                match enter().and_then(|enter| self.put_back(device, enter)) {
                    Ok(()) => hole(Some(mono_ns()), why),
                    // The device went, and its filters with it.
                    Err(error) if is_gone(&error) => None,
                    Err(error) => {
                        self.classifiers.held.remove(device);
                        self.classifiers.refused.insert(device.clone(), format!("{error:#}"));
                        hole(None, &format!("{why}, and they cannot be put back: {error:#}"))
                    }
                }
            }
        }
    }

    fn put_back(&mut self, device: &Device, enter: impl FnOnce() -> io::Result<()> + Send) -> Result<()> {
        let guardian = self.classifiers.guardian()?;
        let is_behind = add_filters(&self.ebpf, device, enter, guardian)?;
        self.classifiers.held.insert(device.clone(), Held::Filters { seen_ns: mono_ns(), is_behind });
        Ok(())
    }
}

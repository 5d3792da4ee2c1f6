//! What a pipeline that shows DNS exchanges adds to its turns.

use std::io;

use super::{Dns, DnsOptions, DnsView};
use crate::{pipeline::Pipeline, render::Render};

impl Pipeline {
    /// Shows DNS exchanges in place of journeys, and knows of nothing else.
    #[must_use]
    pub fn showing_dns(mut self, options: DnsOptions) -> Self {
        self.dns = Some(Dns::new(options, &self.inventory));
        self
    }

    /// Tells the DNS exchanges that ended; gives how many it showed.
    pub(in crate::pipeline) fn show_exchanges(
        &mut self,
        now_ns: u64,
        at_end: bool,
        out: &mut dyn Render,
    ) -> io::Result<u64> {
        let Some(dns) = &mut self.dns else { return Ok(0) };
        let ended = dns.turn(now_ns, at_end, &self.names);
        if dns.options.view != DnsView::Lines {
            return Ok(0);
        }
        ended.iter().try_for_each(|exchange| out.exchange(exchange))?;
        Ok(ended.len() as u64)
    }

    /// Shows the table of DNS exchanges, where its time has come; gives how many it showed.
    pub(in crate::pipeline) fn show_due_table(&mut self, now_ns: u64, out: &mut dyn Render) -> io::Result<u64> {
        let Some(dns) = &mut self.dns else { return Ok(0) };
        let DnsView::Table(in_place) = dns.options.view else { return Ok(0) };
        if !dns.is_table_due(now_ns) {
            return Ok(0);
        }
        out.dns(&dns.table(now_ns, self.findings.all()), in_place)?;
        Ok(1)
    }

    /// Shows the table of DNS exchanges that ends a run.
    pub(in crate::pipeline) fn show_last_table(&mut self, now_ns: u64, out: &mut dyn Render) -> io::Result<()> {
        let Some(dns) = &mut self.dns else { return Ok(()) };
        out.dns(&dns.table(now_ns, self.findings.all()), false)
    }
}

//! What a live run keeps for `netprobe replay`, or for whoever watches it from elsewhere.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::Result;

use super::{Live, Request, parts::Parts};
use crate::{
    enrich::select::Followed,
    model::verdict::Verdict,
    pipeline::DnsOptions,
    record::{Frame, Header, Writer},
};

impl Live {
    /// Ends the recording, with what `why` has to say.
    ///
    /// # Errors
    ///
    /// The file takes no more.
    pub fn end_recording(&mut self, verdict: Option<&Verdict>) -> Result<()> {
        if let Some(verdict) = verdict {
            self.keep(&Frame::Verdict(Box::new(verdict.into())));
        }
        match self.recorder.take() {
            Some(recorder) => recorder.finish().map_err(anyhow::Error::new),
            None => Ok(()),
        }
    }

    pub(super) fn keep(&mut self, frame: &Frame) {
        keep(&mut self.recorder, frame);
    }
}

/// Writes a frame. The writer reports its first failure once and is silent after it; what is
/// wrong with one frame alone costs that frame.
pub(super) fn keep(recorder: &mut Option<Writer>, frame: &Frame) {
    if let Some(writer) = recorder
        && let Err(error) = writer.write(frame).map_err(anyhow::Error::new)
        && !crate::cli::error::is_broken_pipe(&error)
    {
        let _ = writeln!(io::stderr(), "{}", crate::cli::error::lines(&error));
    }
}

pub(super) fn begin(
    path: &Path,
    parts: &Parts,
    (request, followed, dns): (&Request<'_>, &Followed, Option<DnsOptions>),
    now_ns: u64,
) -> Result<Writer> {
    let wall_ns = i64::try_from(now_ns)? + parts.host.wall_offset_ns;
    let header = Header { node: parts.host.node.clone(), wall_ns, version: env!("CARGO_PKG_VERSION").to_owned() };
    let mut writer =
        if request.record.is_stdout() { Writer::to_stdout(&header)? } else { Writer::create(path, &header)? };
    writer.write(&Frame::HostFacts(Box::new(parts.host.clone())))?;
    writer.write(&Frame::NodeFacts(Box::new(parts.node.clone())))?;
    writer.write(&Frame::Inventory(Box::new(parts.inventory.clone())))?;
    let namespaces = (!followed.all).then_some(&followed.namespaces);
    let options = serde_json::json!({ "command": request.command, "expect": request.expect, "namespaces": namespaces, "cgroups": followed.cgroups, "dns": dns, "table": request.nat_table });
    writer.write(&Frame::Options(options))?;
    writer.write(&Frame::Tick(now_ns))?;
    Ok(writer)
}

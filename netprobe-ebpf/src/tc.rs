//! TC classifiers: at the devices, where packets come in and leave.
//!
//! They return [`TC_ACT_UNSPEC`] and nothing else: every other verdict would end the chain, or overrule a filter beside us.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use netprobe_common::config::{MODE_DNS, TC_CAPTURE, TC_DNS, TC_FLOWS};

use crate::{
    capture, dns, flows,
    kernel::{classified::Classified, config},
};

/// At ingress.
#[classifier]
pub(crate) fn netprobe_in(ctx: TcContext) -> i32 {
    look(&ctx, false);
    TC_ACT_UNSPEC
}

/// At egress.
#[classifier]
pub(crate) fn netprobe_out(ctx: TcContext) -> i32 {
    look(&ctx, true);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn look(ctx: &TcContext, egress: bool) -> Option<()> {
    if config!(mode) & MODE_DNS != 0 {
        return dns::look(ctx, egress);
    }
    let packet = Classified::new(ctx, egress)?;
    if config!(tc) & TC_FLOWS != 0 {
        let headers = packet.headers()?;
        flows::count(&packet, headers);
        if config!(tc) & TC_DNS != 0 {
            dns::send_message(&packet, headers);
        }
    }
    if config!(tc) & TC_CAPTURE != 0 {
        capture::take(&packet);
    }
    Some(())
}

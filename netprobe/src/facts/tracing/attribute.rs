//! Numbers of nftables' attributes: `NFTA_*` in `include/uapi/linux/netfilter/nf_tables.h`.

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_FLAGS: u16 = 2;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;

pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;
pub(super) const DATA_VALUE: u16 = 1;

pub(super) const BITWISE_SOURCE: u16 = 1;
pub(super) const BITWISE_TARGET: u16 = 2;
pub(super) const BITWISE_LENGTH: u16 = 3;
pub(super) const BITWISE_MASK: u16 = 4;
pub(super) const BITWISE_XOR: u16 = 5;

pub(super) const COMPARE_SOURCE: u16 = 1;
pub(super) const COMPARE_HOW: u16 = 2;
pub(super) const COMPARE_DATA: u16 = 3;

pub(super) const IMMEDIATE_TARGET: u16 = 1;
pub(super) const IMMEDIATE_DATA: u16 = 2;

pub(super) const LIMIT_RATE: u16 = 1;
pub(super) const LIMIT_SECONDS: u16 = 2;
pub(super) const LIMIT_BURST: u16 = 3;

pub(super) const META_TARGET: u16 = 1;
pub(super) const META_KEY: u16 = 2;
pub(super) const META_SOURCE: u16 = 3;

pub(super) const PAYLOAD_TARGET: u16 = 1;
pub(super) const PAYLOAD_BASE: u16 = 2;
pub(super) const PAYLOAD_OFFSET: u16 = 3;
pub(super) const PAYLOAD_LENGTH: u16 = 4;

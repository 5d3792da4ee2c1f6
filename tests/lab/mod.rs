//! Networks in namespaces, and netprobe run on them.

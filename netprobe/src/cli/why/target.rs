//! `--to`: a host, and a port where the protocol has ports.

use std::{fmt, net::IpAddr, str::FromStr};

/// Whither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address.
    pub host: Host,
    /// Port.
    pub port: Option<u16>,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Its address.
    Address(IpAddr),
    /// Its name, as the pod would look it up.
    Name(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (Host::Address(IpAddr::V6(ip)), Some(port)) => write!(f, "[{ip}]:{port}"),
            (Host::Address(ip), Some(port)) => write!(f, "{ip}:{port}"),
            (Host::Name(name), Some(port)) => write!(f, "{name}:{port}"),
            (Host::Address(ip), None) => ip.fmt(f),
            (Host::Name(name), None) => f.write_str(name),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse() {
            return Ok(Self { host: Host::Address(ip), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let number = port.parse::<u16>().ok().filter(|port| *port > 0);
                (host, Some(number.ok_or_else(|| format!("`{port}` is no port: write 1 to 65535"))?))
            }
            None => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse() {
            return Ok(Self { host: Host::Address(ip), port });
        }
        if is_name(host) {
            Ok(Self { host: Host::Name(host.to_owned()), port })
        } else {
            Err(format!("`{text}` is no HOST:PORT: write db.shop:3306, 10.1.2.3:80 or [fd00::1]:80"))
        }
    }
}

/// A host name: labels of letters, digits, `-` and `_`, up to 63 each and 253 in all (RFC 1035).
fn is_name(host: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    name.len() <= 253 && name.split('.').all(label) && !name.split('.').all(|l| l.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(text: &str) -> Result<String, String> {
        text.parse::<Endpoint>().map(|e| e.to_string())
    }

    #[test]
    fn hosts_are_addresses_or_names() {
        for text in ["10.1.2.3:80", "[fd00::1]:80", "db.shop:3306", "example.com.:443", "fd00::1", "10.1.2.3", "db"] {
            assert_eq!(round(text).as_deref(), Ok(text));
        }
        assert_eq!("fd00::1".parse::<Endpoint>().expect("an address").port, None);
    }

    #[test]
    fn what_is_neither_is_named() {
        for text in ["", ":80", "10.1.2:80", "a b:80", "http://a/:80", "db:0", "db:http", "db:70000"] {
            assert!(round(text).is_err(), "{text}");
        }
        assert_eq!(round("db:http"), Err("`http` is no port: write 1 to 65535".to_owned()));
    }
}

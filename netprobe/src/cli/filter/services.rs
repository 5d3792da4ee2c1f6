//! Names of ports.

use std::fs;

/// What the machine calls its ports; a container has it rarely.
const FILE: &str = "/etc/services";

/// The names one types from habit, in the file's format. They are looked up first: the same everywhere.
const KNOWN: &str = "\
ftp-data 20/tcp
ftp 21/tcp
ssh 22/tcp
telnet 23/tcp
smtp 25/tcp mail
domain 53/tcp
domain 53/udp
bootps 67/udp
bootpc 68/udp
tftp 69/udp
http 80/tcp www
kerberos 88/tcp
kerberos 88/udp
pop3 110/tcp
sunrpc 111/tcp portmapper
sunrpc 111/udp portmapper
ntp 123/udp
imap2 143/tcp imap
snmp 161/tcp
snmp 161/udp
bgp 179/tcp
ldap 389/tcp
ldap 389/udp
https 443/tcp
https 443/udp
isakmp 500/udp
syslog 514/udp
submission 587/tcp
ldaps 636/tcp
imaps 993/tcp
pop3s 995/tcp
nfs 2049/tcp
nfs 2049/udp
mysql 3306/tcp
postgresql 5432/tcp postgres
amqp 5672/tcp
redis 6379/tcp
http-alt 8080/tcp webcache
http-alt 8080/udp
";

/// The ports of that name, as `(port, protocol)`; empty where nobody knows it.
pub(super) fn find(name: &str) -> Vec<(u16, u8)> {
    let known = named(KNOWN, name);
    if known.is_empty() { fs::read_to_string(FILE).map(|text| named(&text, name)).unwrap_or_default() } else { known }
}

/// Those that `text` names, in the format of services(5).
fn named(text: &str, name: &str) -> Vec<(u16, u8)> {
    let entry = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let (first, place) = (words.next()?, words.next()?);
        if first != name && !words.any(|alias| alias == name) {
            return None;
        }
        let (port, protocol) = place.split_once('/')?;
        let proto = match protocol {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            _ => return None,
        };
        Some((port.parse().ok()?, proto))
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_its_aliases_have_the_ports_of_all_their_protocols() {
        assert_eq!(find("domain"), [(53, 6), (53, 17)]);
        assert_eq!((find("http"), find("www")), (vec![(80, 6)], vec![(80, 6)]));
        assert_eq!(find("no such service"), []);
    }

    #[test]
    fn comments_and_protocols_without_ports_are_passed_over() {
        let text = "# x 1/tcp\nx 2/tcp y # z\nx 3/dccp\nx 4\n\nx x/udp\n";
        assert_eq!(named(text, "x"), [(2, 6)]);
        assert_eq!(named(text, "y"), [(2, 6)]);
        assert_eq!(named(text, "z"), []);
    }
}

//! The beginning of a DNS message.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Header, MessageType, Query},
    rr::{RData, Record},
    serialize::binary::{BinDecodable, BinDecoder},
};

use crate::model::dns::{Answer, Code, Message};

/// Reads a message of which only the beginning may be there. `None` where even its question is not.
pub(super) fn message(bytes: &[u8]) -> Option<Message> {
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder).ok()?;
    let query = Query::read(&mut decoder).ok()?;
    let name = query.name().to_ascii().to_ascii_lowercase();
    let name = match name.trim_end_matches('.') {
        "" => ".",
        trimmed => trimmed,
    };
    let answer = (header.metadata.message_type == MessageType::Response).then(|| Answer {
        code: Code::from_number(header.metadata.response_code.into()),
        addresses: addresses(&mut decoder, header.counts.answers),
        records: header.counts.answers,
        truncated: header.metadata.truncation,
    });
    Some(Message { id: header.metadata.id, name: Arc::from(name), kind: query.query_type().to_string().into(), answer })
}

/// Addresses of the answer section, up to where the bytes end.
fn addresses(decoder: &mut BinDecoder<'_>, records: u16) -> Vec<IpAddr> {
    let read = (0..records).map_while(|_| Record::<RData>::read(decoder).ok());
    read.filter_map(|record| match record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to `oss.example.com A`: 100.64.249.132.
    const ANSWER: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x03oss\x07Example\x03com\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\x64\x40\xf9\x84";

    #[test]
    fn reads_an_answer() {
        let message = message(ANSWER).expect("a message");
        assert_eq!((message.id, &*message.name, &*message.kind), (0x1234, "oss.example.com", "A"));
        let answer = message.answer.expect("it is an answer");
        assert_eq!((answer.code, answer.records, answer.truncated), (Code::NoError, 1, false));
        assert_eq!(answer.addresses, ["100.64.249.132".parse::<IpAddr>().expect("an address")]);
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let message = message(&ANSWER[..40]).expect("the question is there");
        assert_eq!(message.answer.map(|a| a.addresses.len()), Some(0));
        assert_eq!(super::message(&ANSWER[..14]), None);
        assert_eq!(super::message(&[]), None);
    }
}

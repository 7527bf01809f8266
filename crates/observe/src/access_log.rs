//! The access log: one JSON object per request and line.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use millgate_types::Exchange;

/// The name of a member, ready to be copied. The first one's comma becomes the object's brace.
macro_rules! member {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// Appends one line. Fields that are not known are left out.
pub(crate) fn write(exchange: &Exchange, out: &mut Vec<u8>) {
    let begin = out.len();
    let mut line = Line { out };
    line.raw(member!("time"), &timestamp(exchange.started));
    line.raw(member!("request_id"), &exchange.request_id.hex());
    line.raw(member!("method"), exchange.method.as_str().as_bytes());
    line.text(member!("path"), &exchange.path);
    line.number(member!("status"), u64::from(exchange.status));
    line.raw(member!("outcome"), exchange.outcome.name().as_bytes());
    line.number(member!("duration_us"), exchange.duration.as_micros() as u64);
    if let Some(first) = exchange.time_to_first_byte {
        line.number(member!("first_byte_us"), first.as_micros() as u64);
    }
    if let Some(peer) = exchange.peer {
        line.key(member!("peer"));
        line.out.push(b'"');
        match peer {
            // Written by hand: the usual kind, and formatting is a third of the line's cost.
            IpAddr::V4(address) => {
                for (index, octet) in address.octets().into_iter().enumerate() {
                    if index > 0 {
                        line.out.push(b'.');
                    }
                    line.out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
                }
            }
            IpAddr::V6(address) => drop(write!(line.out, "{address}")),
        }
        line.out.push(b'"');
    }
    let texts = [
        (member!("principal"), exchange.principal.as_deref()),
        (member!("endpoint"), exchange.endpoint.as_deref()),
        (member!("target"), exchange.target.as_deref()),
        (member!("model_version"), exchange.model_version.as_deref()),
        (member!("detail"), exchange.fault_detail.as_deref()),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            line.text(name, value);
        }
    }
    let words = [
        (member!("dialect"), exchange.dialect.map(millgate_types::Dialect::name)),
        (member!("operation"), exchange.operation.map(millgate_types::Operation::name)),
        (member!("lane"), exchange.lane.map(millgate_types::Lane::name)),
        (member!("code"), exchange.code.map(|code| code.name)),
        (member!("source"), exchange.fault_source.map(millgate_types::Source::name)),
    ];
    for (name, word) in words {
        if let Some(word) = word {
            line.raw(name, word.as_bytes());
        }
    }
    if exchange.stream {
        line.key(member!("stream"));
        line.out.extend_from_slice(b"true");
    }
    let usage = &exchange.usage;
    let numbers = [
        (member!("attempts"), u64::from(exchange.attempts)),
        (member!("waited_us"), exchange.waited.as_micros() as u64),
        (member!("bytes_in"), exchange.bytes_in),
        (member!("bytes_out"), exchange.bytes_out),
        (member!("rows"), exchange.rows),
        (member!("input_tokens"), usage.input),
        (member!("cache_read_tokens"), usage.cache_read),
        (member!("cache_write_tokens"), usage.cache_write),
        (member!("output_tokens"), usage.output),
        (member!("reasoning_tokens"), usage.reasoning),
        (member!("search_units"), usage.billed.map_or(0, |billed| billed.search_units)),
    ];
    for (name, value) in numbers {
        if value != 0 {
            line.number(name, value);
        }
    }
    if usage.estimated {
        line.key(member!("usage_estimated"));
        line.out.extend_from_slice(b"true");
    }
    if exchange.cost.is_none() && usage.total() > 0 {
        line.key(member!("cost_usd"));
        line.out.extend_from_slice(b"null");
    }
    if let Some(cost) = exchange.cost {
        line.key(member!("cost_usd"));
        line.out.push(b'"');
        line.out.extend_from_slice(cost.text(&mut [0; 21]));
        line.out.push(b'"');
    }
    if !exchange.hops.is_empty() {
        line.key(member!("hops"));
        for (index, hop) in exchange.hops.iter().enumerate() {
            line.out.push(if index == 0 { b'[' } else { b',' });
            write_hop(hop, line.out);
        }
        line.out.push(b']');
    }
    line.number(member!("config"), exchange.config_generation);
    out.extend_from_slice(b"}\n");
    out[begin] = b'{';
}

/// A target that was asked inside a chain, ensemble or switch.
fn write_hop(hop: &Exchange, out: &mut Vec<u8>) {
    let begin = out.len();
    let mut line = Line { out };
    let texts = [
        (member!("target"), hop.target.as_deref()),
        (member!("model_version"), hop.model_version.as_deref()),
        (member!("outcome"), Some(hop.outcome.name())),
        (member!("code"), hop.code.map(|code| code.name)),
        (member!("detail"), hop.fault_detail.as_deref()),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            line.text(name, value);
        }
    }
    line.number(member!("duration_us"), hop.duration.as_micros() as u64);
    let usage = &hop.usage;
    let numbers = [
        (member!("rows"), hop.rows),
        (member!("input_tokens"), usage.prompt_total()),
        (member!("output_tokens"), usage.completion_total()),
    ];
    for (name, value) in numbers {
        if value != 0 {
            line.number(name, value);
        }
    }
    if let Some(cost) = hop.cost {
        line.raw(member!("cost_usd"), cost.text(&mut [0; 21]));
    }
    out.push(b'}');
    out[begin] = b'{';
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
}

impl Line<'_> {
    fn key(&mut self, member: &str) {
        self.out.extend_from_slice(member.as_bytes());
    }

    /// A value that needs no escaping.
    fn raw(&mut self, member: &str, value: &[u8]) {
        self.key(member);
        self.out.push(b'"');
        self.out.extend_from_slice(value);
        self.out.push(b'"');
    }

    fn text(&mut self, member: &str, value: &str) {
        // Every byte is looked at: without an early end, many are looked at at once.
        let is_plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
        if value.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
            return self.raw(member, value.as_bytes());
        }
        self.key(member);
        let _infallible = serde_json::to_writer(&mut *self.out, value);
    }

    fn number(&mut self, member: &str, value: u64) {
        self.key(member);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
}

/// RFC 3339 in UTC with microseconds: `2026-01-31T12:00:00.000001Z`.
fn timestamp(time: SystemTime) -> [u8; 27] {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let mut out = *b"0000-00-00T00:00:00.000000Z";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for slot in out[at..at + width].iter_mut().rev() {
            *slot = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, second / 3600);
    put(14, 2, second / 60 % 60);
    put(17, 2, second % 60);
    put(20, 6, u64::from(since.subsec_micros()));
    out
}

/// Year, month and day of a day counted from 1970-01-01 (proleptic Gregorian calendar).
fn civil(days: i64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u64, month as u64, day as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_are_calendar_dates() {
        let at = |seconds: u64, micros: u64| {
            let time = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
            String::from_utf8(timestamp(time).to_vec()).unwrap()
        };
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400, 7), "2000-02-29T00:00:00.000007Z");
        assert_eq!(at(1_795_345_445, 0), "2026-11-22T11:04:05.000000Z");
    }
}

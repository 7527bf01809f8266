//! Syslog, RFC 5424: over UDP and a local socket one datagram a record, over TCP framed by its length (RFC 6587).

use std::io::{self, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use super::{Deliver, Line, Patience};

/// Facility 13, the log audit; severity 6, informational.
const PRIORITY: u8 = 13 * 8 + 6;
/// How long TCP may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Tries of one record.
const ATTEMPTS: u32 = 5;

/// Where syslog listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogAddress {
    /// `host:port`
    Udp(String),
    /// `host:port`
    Tcp(String),
    /// A datagram socket, `/dev/log` for example.
    Unix(PathBuf),
}

impl SyslogAddress {
    /// Reads `udp://host:514`, `tcp://host:601`, `unix:///dev/log`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let has_port =
            rest.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        match scheme {
            "udp" if has_port => Some(Self::Udp(rest.to_owned())),
            "tcp" if has_port => Some(Self::Tcp(rest.to_owned())),
            "unix" if rest.starts_with('/') => Some(Self::Unix(rest.into())),
            _ => None,
        }
    }
}

enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Unix(UnixDatagram),
}

pub(super) struct Syslog {
    address: SyslogAddress,
    link: Option<Link>,
    host: String,
}

impl Syslog {
    pub(super) fn new(address: SyslogAddress) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
        Self { address, link: None, host: if host.is_empty() { "-".to_owned() } else { host } }
    }

    fn connect(&self) -> io::Result<Link> {
        let resolve = |address: &str| {
            address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))
        };
        match &self.address {
            SyslogAddress::Udp(address) => {
                let to = resolve(address)?;
                let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(to)?;
                Ok(Link::Udp(socket))
            }
            SyslogAddress::Tcp(address) => {
                let stream = TcpStream::connect_timeout(&resolve(address)?, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Link::Tcp(stream))
            }
            SyslogAddress::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Link::Unix(socket))
            }
        }
    }

    fn message(&self, line: &[u8]) -> Vec<u8> {
        let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ");
        let process = std::process::id();
        let head = format!("<{PRIORITY}>1 {at} {} millgate {process} audit - ", self.host);
        [head.as_bytes(), line].concat()
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if self.link.is_none() {
            self.link = Some(self.connect()?);
        }
        match &mut self.link {
            Some(Link::Udp(socket)) => socket.send(message).map(drop),
            Some(Link::Unix(socket)) => socket.send(message).map(drop),
            Some(Link::Tcp(stream)) => {
                stream.write_all(&[format!("{} ", message.len()).as_bytes(), message].concat())
            }
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Deliver for Syslog {
    fn deliver(&mut self, lines: &[Line], patience: &Patience) -> u64 {
        let mut lost = 0;
        for line in lines {
            let message = self.message(line);
            let mut attempt = 0;
            while self.send(&message).is_err() {
                self.link = None;
                attempt += 1;
                if attempt >= ATTEMPTS || !patience.pause(Duration::from_millis(100 << attempt)) {
                    lost += 1;
                    break;
                }
            }
        }
        lost
    }

    fn batch(&self) -> usize {
        64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let read = |text| SyslogAddress::parse(text);
        assert_eq!(read("udp://log:514"), Some(SyslogAddress::Udp("log:514".to_owned())));
        assert_eq!(read("tcp://[::1]:601"), Some(SyslogAddress::Tcp("[::1]:601".to_owned())));
        assert_eq!(read("unix:///dev/log"), Some(SyslogAddress::Unix("/dev/log".into())));
        for wrong in ["log:514", "udp://log", "udp://:514", "unix://dev/log", "http://log:1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}

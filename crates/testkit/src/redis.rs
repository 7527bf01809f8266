//! A Redis of the test's own, which it may stop and start again.

use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server on a free port, with nothing in it.
pub struct Redis {
    port: u16,
    process: Option<Child>,
}

impl Redis {
    /// Starts one; `None` where `redis-server` is not installed, which CI does not allow.
    ///
    /// # Panics
    /// When it is missing in CI, or does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .expect("a free port");
        let mut redis = Self { port: port.port(), process: None };
        match redis.again() {
            Ok(()) => Some(redis),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                assert!(std::env::var_os("CI").is_none(), "CI must have redis-server");
                eprintln!("skipped: redis-server is not installed");
                None
            }
            Err(error) => panic!("redis-server: {error}"),
        }
    }

    /// `redis://...`
    #[must_use]
    pub fn uri(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Kills it; what it held is gone.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _killed = process.kill();
            let _ended = process.wait();
        }
    }

    /// Starts it, again where it was stopped.
    pub fn again(&mut self) -> io::Result<()> {
        let process = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.process = Some(process);
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if Instant::now() > deadline {
                return Err(io::Error::other("it does not listen"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

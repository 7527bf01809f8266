//! The fake OpenID Connect provider as a process: prints `{"port":N}` as its first line and serves until it is stopped.

use std::io::Write as _;
use std::net::Ipv4Addr;

use clap::Parser;
use tokio::net::TcpListener;

/// A fake OpenID Connect provider on loopback that lets everybody in.
#[derive(Parser)]
struct Arguments {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port)).await?;
        let mut out = std::io::stdout();
        writeln!(out, "{{\"port\":{}}}", listener.local_addr()?.port())?;
        out.flush()?;
        millgate_testkit::serve_issuer(listener).await
    })
}

//! A server for benches: OSS and S3 on loopback, with counts, latency and faults under `/-/`.
//!
//!     ossvault-test-server DIR BUCKET...
//!
//! Each bucket is a folder in DIR. Requests are signed with OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET. Prints one
//! line with the endpoint, and serves until it is killed.

use std::env;
use std::io::Write;
use std::process::ExitCode;

use ossvault_server::auth::Credentials;
use ossvault_server::endpoint::Server;
use ossvault_server::state::Config;

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ossvault-test-server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let dir = arguments.next().ok_or("which folder?")?;
    let id = env::var("OSS_ACCESS_KEY_ID")?;
    let secret = env::var("OSS_ACCESS_KEY_SECRET")?;
    let server = Server::start(Config {
        credentials: Credentials::new(id, secret, None),
        instrument: true,
        ..Config::new(&dir)
    })
    .await?;
    for bucket in arguments {
        server.create_bucket(&bucket)?;
    }
    let mut out = std::io::stdout();
    writeln!(out, "serving {dir} at {}", server.endpoint())?;
    out.flush()?;
    std::future::pending().await
}

//! The options of `mount`, as they are typed. `config` checks and completes them.

use std::path::PathBuf;
use std::time::Duration;

use super::secrets::PassphraseArgs;
use super::values;
use crate::crypto::key_ring::KeyRing;
use crate::envelope::Format;

#[derive(Clone, Debug, clap::Args)]
pub struct MountOptions {
    /// What to mount: oss://BUCKET[/PREFIX] (also BUCKET[:/PREFIX]), file:///FOLDER for a bucket kept in a folder, or
    /// a profile of the configuration file
    pub source: String,
    /// An empty directory [default: the profile's mountpoint]
    pub mountpoint: Option<PathBuf>,

    /// Mount only what lies under this prefix of the bucket
    #[arg(long)]
    pub prefix: Option<String>,
    /// Stay in the foreground and log to the terminal
    #[arg(long, short = 'f')]
    pub foreground: bool,
    /// Refuse every change
    #[arg(long)]
    pub read_only: bool,
    /// Run no programs from the mount
    #[arg(long)]
    pub noexec: bool,
    /// Requests in flight at most, but no more than one for each MiB of --memory-limit
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = values::parallel)]
    pub parallel: u16,
    /// Log what happens; twice: what is asked of the service
    #[arg(long, short = 'v', action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Append the log to this file instead of the system's log
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    #[command(flatten)]
    pub keys: KeyOptions,
    #[command(flatten)]
    pub service: ServiceOptions,
    #[command(flatten)]
    pub tuning: TuningOptions,
    #[command(flatten)]
    pub access: AccessOptions,
    #[command(flatten)]
    pub hidden: HiddenOptions,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Keys")]
pub struct KeyOptions {
    /// A private key (PEM), or a folder of them. The first one's public half encrypts what is written; all of
    /// them decrypt
    #[arg(
        long,
        value_name = "FILE",
        env = "OSSVAULT_PRIVATE_KEY",
        hide_env_values = true
    )]
    pub private_key: Vec<PathBuf>,
    /// The public key to write with, of one of the private keys. Without any, the mount is write-only
    #[arg(
        long,
        value_name = "FILE",
        env = "OSSVAULT_PUBLIC_KEY",
        hide_env_values = true
    )]
    pub public_key: Option<PathBuf>,
    /// Write with this public key even though no private key given here opens what it encrypts
    #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
    pub writing_key: Option<PathBuf>,
    #[command(flatten)]
    pub reading: ReadingOptions,
    /// The fingerprint that the public key must have (SHA-256, as keygen prints it)
    #[arg(long, value_name = "SHA256", value_parser = values::fingerprint)]
    pub key_fingerprint: Option<String>,
    /// How keys are written in objects: seed, or sdk or dual for the official SDKs to read
    #[arg(long, default_value = "seed", value_parser = values::format)]
    pub format: Format,
    /// Serve unencrypted objects under this directory, read-only (repeatable)
    #[arg(long, value_name = "PREFIX")]
    pub allow_plaintext: Vec<String>,
    /// Follow symbolic links that other programs made too. Who can write to the bucket can then turn a file that
    /// another program made into a link, and learn what is in it
    #[arg(long)]
    pub trust_links: bool,
}

/// Of every command that opens envelopes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Keys")]
pub struct ReadingOptions {
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
    /// Use key and passphrase files that other users can read or change
    #[arg(long)]
    pub insecure_key_permissions: bool,
    /// Take private keys of 1024 to 2047 bits, to read what they protect and move it to a new key. Nothing is
    /// written with them
    #[arg(long)]
    pub allow_weak_keys: bool,
    /// Stop trying PKCS#1 v1.5 envelopes after so many that no key opened
    #[arg(long, value_name = "N", default_value_t = KeyRing::PKCS1_LIMIT, value_parser = values::number::<usize>)]
    pub pkcs1_limit: usize,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Service")]
pub struct ServiceOptions {
    /// Where the bucket is: oss-cn-hangzhou.aliyuncs.com, or a URL
    #[arg(long, env = "OSS_ENDPOINT", hide_env_values = true)]
    pub endpoint: Option<String>,
    /// The bucket's region, like cn-hangzhou; read from a standard endpoint's name if not given
    #[arg(long, env = "OSS_REGION", hide_env_values = true, value_parser = values::region)]
    pub region: Option<String>,
    /// Speak plain http to an endpoint that is not on this machine
    #[arg(long)]
    pub allow_http: bool,
    /// Put the bucket's name in the path instead of the host name
    #[arg(long, conflicts_with = "cname")]
    pub path_style: bool,
    /// The endpoint is a domain bound to the bucket
    #[arg(long)]
    pub cname: bool,
    /// Sign requests with version 1, for services that know no version 4
    #[arg(long)]
    pub sign_v1: bool,
    /// A call fails after this long without progress (seconds)
    #[arg(long, default_value = "60", value_name = "TIME", value_parser = values::positive_duration)]
    pub timeout: Duration,
    /// file://: do not wait for the disk. Faster, and a power cut loses what was written last
    #[arg(long)]
    pub no_sync: bool,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Memory, disk and freshness")]
pub struct TuningOptions {
    /// Memory for data and listings; the process stays below this plus 64M
    #[arg(long, default_value = "512M", value_name = "SIZE", value_parser = values::size)]
    pub memory_limit: u64,
    /// Where staged bytes go, encrypted, when memory is full [default: $XDG_CACHE_HOME/ossvault, or /var/cache/ossvault for root]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Disk space for staged bytes at most [default: what the disk has, less a reserve]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub cache_limit: Option<u64>,
    /// How long what others change in files may go unseen (seconds)
    #[arg(long, default_value = "1", value_name = "TIME", value_parser = values::duration)]
    pub metadata_ttl: Duration,
    /// The same for the existence of directories
    #[arg(long, default_value = "60", value_name = "TIME", value_parser = values::duration)]
    pub dir_ttl: Duration,
    /// Upload files that are kept open and changed for this long [default: at fsync and close only]
    #[arg(long, value_name = "TIME", value_parser = values::positive_duration)]
    pub flush_after: Option<Duration>,
    /// How long the upload of a file under a tool's temporary name waits for its rename
    #[arg(long, default_value = "5", value_name = "TIME", value_parser = values::duration)]
    pub rename_grace: Duration,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Owners and permissions")]
pub struct AccessOptions {
    /// Let other users in. The stored owners and modes, which whoever can write to the bucket can change, then
    /// say who may do what: see --umask and --force-uid
    #[arg(long)]
    pub allow_other: bool,
    /// Permissions to take away from everything, stored or not, like 027
    #[arg(long, default_value = "0", value_name = "MODE", value_parser = values::mode)]
    pub umask: u32,
    /// Owner of files that store none [default: you]
    #[arg(long, value_parser = values::number::<u32>)]
    pub uid: Option<u32>,
    /// Group of files that store none [default: yours]
    #[arg(long, value_parser = values::number::<u32>)]
    pub gid: Option<u32>,
    /// Mode of files that store none
    #[arg(long, default_value = "0644", value_name = "MODE", value_parser = values::mode)]
    pub file_mode: u32,
    /// Mode of directories that store none
    #[arg(long, default_value = "0755", value_name = "MODE", value_parser = values::mode)]
    pub dir_mode: u32,
    /// Owner of everything, whatever is stored
    #[arg(long, value_name = "UID", conflicts_with = "uid")]
    pub force_uid: Option<u32>,
    /// Group of everything, whatever is stored
    #[arg(long, value_name = "GID", conflicts_with = "gid")]
    pub force_gid: Option<u32>,
    /// Mode of every file, whatever is stored
    #[arg(long, value_name = "MODE", value_parser = values::mode, conflicts_with = "file_mode")]
    pub force_file_mode: Option<u32>,
    /// Mode of every directory, whatever is stored
    #[arg(long, value_name = "MODE", value_parser = values::mode, conflicts_with = "dir_mode")]
    pub force_dir_mode: Option<u32>,
}

/// Between our own processes, and for tests.
#[derive(Clone, Debug, clap::Args)]
pub struct HiddenOptions {
    /// The size of an upload's first parts, a multiple of 128K. Small ones bring small files to what only
    /// large files meet.
    #[arg(long, hide = true, default_value = "8M", value_name = "SIZE", value_parser = values::part_size)]
    pub part_size: u64,
    /// A file written in order begins to be uploaded at this size.
    #[arg(long, hide = true, value_name = "SIZE", value_parser = values::size)]
    pub stream_after: Option<u64>,
    /// Objects of this size and above are copied in parts: the service's limit.
    #[arg(long, hide = true, value_name = "SIZE", value_parser = values::size)]
    pub copy_limit: Option<u64>,
    /// Report to the parent process (see `background`).
    #[arg(long, hide = true)]
    pub report: bool,
    /// Serve the buckets in this folder on loopback from this process, and mount from there: the demo's
    /// server ends with its mount.
    #[arg(long, hide = true, value_name = "DIR")]
    pub embedded_server: Option<PathBuf>,
}

//! The command-line options of `mount`. `config` checks and completes them.

use std::path::PathBuf;
use std::time::Duration;

use super::secrets::PassphraseArgs;
use super::values;
use crate::crypto::key_ring::KeyRing;
use crate::envelope::Format;
use crate::oss::credentials::chain::{Named, RoleArn};
use crate::oss::credentials::command::CommandLine;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct MountOptions {
    /// What to mount: oss://bucket[/prefix] (or bucket[:/prefix]), file:///folder for a bucket stored in a local folder,
    /// or a profile of the configuration file
    pub source: String,
    /// The directory to mount on; it must be empty [default: the profile's mountpoint]
    pub mountpoint: Option<PathBuf>,

    /// Mount only the objects below this prefix of the bucket
    #[arg(long)]
    pub prefix: Option<String>,
    /// Stay in the foreground and log to the terminal
    #[arg(long, short = 'f')]
    pub foreground: bool,
    /// Refuse every change
    #[arg(long)]
    pub read_only: bool,
    /// Do not allow programs to be run from the mount
    #[arg(long)]
    pub noexec: bool,
    /// When nothing is mounted there, let nobody put files into the mount point: mode 000 and, for root, immutable.
    /// The next mount undoes that
    #[arg(long)]
    pub guard: bool,
    /// Add the mount to /etc/fstab, with these options, when it has succeeded
    #[arg(long, conflicts_with = "foreground")]
    pub update_fstab: bool,
    /// Maximum number of requests in flight, limited to one per MiB of --memory-limit
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = values::parallel)]
    pub parallel: u16,
    /// Log operations; repeat it to log every request to the service too
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
pub(super) struct KeyOptions {
    /// A private key (PEM), or a folder of private keys. The public half of the first key encrypts; all keys
    /// decrypt
    #[arg(
        long,
        value_name = "FILE",
        env = "OSSVAULT_PRIVATE_KEY",
        hide_env_values = true
    )]
    pub private_key: Vec<PathBuf>,
    /// The public key to encrypt with, belonging to one of the private keys. Without a private key, the mount
    /// is write-only
    #[arg(
        long,
        value_name = "FILE",
        env = "OSSVAULT_PUBLIC_KEY",
        hide_env_values = true
    )]
    pub public_key: Option<PathBuf>,
    /// Encrypt with this public key even if none of the given private keys can decrypt the result
    #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
    pub writing_key: Option<PathBuf>,
    #[command(flatten)]
    pub reading: ReadingOptions,
    /// The fingerprint that the public key must have (SHA-256, as printed by keygen)
    #[arg(long, value_name = "SHA256", value_parser = values::fingerprint)]
    pub key_fingerprint: Option<String>,
    /// The format of the keys stored in objects: seed, or sdk or dual for the official SDKs
    #[arg(long, default_value = "seed", value_parser = values::format)]
    pub format: Format,
    /// Show unencrypted objects below this directory, read-only (repeatable)
    #[arg(long, value_name = "PREFIX")]
    pub allow_plaintext: Vec<String>,
    /// Mount even if the bucket's objects are for other keys than the given ones, and add the key that encrypts to
    /// those that the bucket's key marker names
    #[arg(long)]
    pub accept_key: bool,
    /// Also follow symbolic links created by other programs. Anyone who can write to the bucket can then turn
    /// a file created by another program into a link and learn its content
    #[arg(long)]
    pub trust_links: bool,
}

/// Options of every command that opens envelopes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Keys")]
pub(super) struct ReadingOptions {
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
    /// Accept key and passphrase files that other users can read or change
    #[arg(long)]
    pub insecure_key_permissions: bool,
    /// Accept private keys of 1024 to 2047 bits, to read what they protect and move it to a new key. They are
    /// never used to encrypt
    #[arg(long)]
    pub allow_weak_keys: bool,
    /// Give up on PKCS#1 v1.5 envelopes after this many that no key could open
    #[arg(long, value_name = "N", default_value_t = KeyRing::PKCS1_LIMIT, value_parser = values::number::<usize>)]
    pub pkcs1_limit: usize,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Service")]
pub(super) struct ServiceOptions {
    /// The service's endpoint: a host name like oss-cn-hangzhou.aliyuncs.com, or a URL
    #[arg(long, env = "OSS_ENDPOINT", hide_env_values = true)]
    pub endpoint: Option<String>,
    /// The bucket's region, like cn-hangzhou [default: taken from a standard endpoint's name]
    #[arg(long, env = "OSS_REGION", hide_env_values = true, value_parser = values::region)]
    pub region: Option<String>,
    /// Allow plain http to an endpoint on another machine
    #[arg(long)]
    pub allow_http: bool,
    /// Put the bucket's name in the path instead of in the host name
    #[arg(long, conflicts_with = "cname")]
    pub path_style: bool,
    /// The endpoint is a custom domain bound to the bucket
    #[arg(long)]
    pub cname: bool,
    /// Sign requests with version 1, for services that do not support version 4
    #[arg(long)]
    pub sign_v1: bool,
    /// How long a call may go without progress before it fails (seconds)
    #[arg(long, default_value = "60", value_name = "TIME", value_parser = values::positive_duration)]
    pub timeout: Duration,
    /// file://: do not wait for the disk. Faster, but a power failure loses recent writes
    #[arg(long)]
    pub no_sync: bool,
    #[command(flatten)]
    pub credentials: CredentialOptions,
}

/// Where the access key comes from, if not from the environment.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Credentials")]
pub(super) struct CredentialOptions {
    /// Read the access key from this file: JSON of STS, or a configuration of aliyun, ossutil or ossfs
    #[arg(long, value_name = "FILE", conflicts_with_all = ["credential_command", "credential_source"])]
    pub credential_file: Option<PathBuf>,
    /// Run this program, without a shell, and read the access key from the JSON that it prints
    #[arg(long, value_name = "COMMAND", value_parser = values::command_line, conflicts_with = "credential_source")]
    pub credential_command: Option<CommandLine>,
    /// Take the access key from one of: environment, ecs or ecs:ROLE (the instance's metadata service), oidc, uri
    #[arg(long, value_name = "SOURCE", value_parser = values::credential_source)]
    pub credential_source: Option<Named>,
    /// The profile to use of a configuration file of aliyun or ossutil [default: its current one]
    #[arg(long, value_name = "NAME", value_parser = values::credential_profile)]
    pub credential_profile: Option<String>,
    /// Assume this role with the access key, and use the role's
    #[arg(long, value_name = "ARN", value_parser = values::role_arn)]
    pub role_arn: Option<RoleArn>,
    /// The name of the role's session, which the service logs
    #[arg(long, value_name = "NAME", value_parser = values::session, default_value = "ossvault")]
    pub role_session_name: String,
    /// The endpoint of STS, which roles are assumed at [default: sts.aliyuncs.com, or that of ALIBABA_CLOUD_STS_REGION]
    #[arg(long, value_name = "HOST", value_parser = values::sts_endpoint)]
    pub sts_endpoint: Option<String>,
    /// Accept credential files that other users can read or change
    #[arg(long)]
    pub insecure_credential_permissions: bool,
    /// In place of the metadata service's address, for tests.
    #[arg(long, hide = true, value_name = "URL", value_parser = values::sts_endpoint)]
    pub metadata_endpoint: Option<String>,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Memory, disk and freshness")]
pub(super) struct TuningOptions {
    /// Memory limit for data and listings; the process stays below this plus 64M
    #[arg(long, default_value = "512M", value_name = "SIZE", value_parser = values::size)]
    pub memory_limit: u64,
    /// Where staged data goes, encrypted, when memory is full [default: $XDG_CACHE_HOME/ossvault, or
    /// /var/cache/ossvault for root]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Maximum disk space for staged data [default: the free space less a reserve]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub cache_limit: Option<u64>,
    /// The size that df(1) shows; it limits nothing [default: what the bucket holds and 1 PiB free]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub capacity: Option<u64>,
    /// How long other clients' changes to files may go unnoticed (seconds)
    #[arg(long, default_value = "1", value_name = "TIME", value_parser = values::duration)]
    pub metadata_ttl: Duration,
    /// The same, for the existence of directories
    #[arg(long, default_value = "60", value_name = "TIME", value_parser = values::duration)]
    pub dir_ttl: Duration,
    /// Upload files that have been open with changes for this long [default: only at fsync and close]
    #[arg(long, value_name = "TIME", value_parser = values::positive_duration)]
    pub flush_after: Option<Duration>,
    /// How long the upload of a file with a tool's temporary name waits for its rename
    #[arg(long, default_value = "5", value_name = "TIME", value_parser = values::duration)]
    pub rename_grace: Duration,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Owners and permissions")]
pub(super) struct AccessOptions {
    /// Allow other users to access the mount. The stored owners and modes then apply, and anyone who can
    /// write to the bucket can change them: see --umask and --force-uid
    #[arg(long)]
    pub allow_other: bool,
    /// Permissions to remove from all files and directories, whatever is stored, like 027
    #[arg(long, default_value = "0", value_name = "MODE", value_parser = values::mode)]
    pub umask: u32,
    /// Owner of files that store none [default: you]
    #[arg(long, value_parser = values::number::<u32>)]
    pub uid: Option<u32>,
    /// Group of files that store none [default: your group]
    #[arg(long, value_parser = values::number::<u32>)]
    pub gid: Option<u32>,
    /// Mode of files that store none
    #[arg(long, default_value = "0644", value_name = "MODE", value_parser = values::mode)]
    pub file_mode: u32,
    /// Mode of directories that store none
    #[arg(long, default_value = "0755", value_name = "MODE", value_parser = values::mode)]
    pub dir_mode: u32,
    /// Show this owner for everything, whatever is stored
    #[arg(long, value_name = "UID", conflicts_with = "uid")]
    pub force_uid: Option<u32>,
    /// Show this group for everything, whatever is stored
    #[arg(long, value_name = "GID", conflicts_with = "gid")]
    pub force_gid: Option<u32>,
    /// Show this mode for every file, whatever is stored
    #[arg(long, value_name = "MODE", value_parser = values::mode, conflicts_with = "file_mode")]
    pub force_file_mode: Option<u32>,
    /// Show this mode for every directory, whatever is stored
    #[arg(long, value_name = "MODE", value_parser = values::mode, conflicts_with = "dir_mode")]
    pub force_dir_mode: Option<u32>,
}

/// Options between the program's own processes, and for tests.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct HiddenOptions {
    /// The file that --update-fstab changes.
    #[arg(long, hide = true, default_value = "/etc/fstab", value_name = "FILE")]
    pub fstab: PathBuf,
    /// The size of an upload's first parts, a multiple of 128K. With a small size, small files take the path
    /// of large ones.
    #[arg(long, hide = true, default_value = "8M", value_name = "SIZE", value_parser = values::part_size)]
    pub part_size: u64,
    /// Size from which a sequentially written file is uploaded while it is written.
    #[arg(long, hide = true, value_name = "SIZE", value_parser = values::size)]
    pub stream_after: Option<u64>,
    /// Objects of at least this size are copied in parts: the service's limit.
    #[arg(long, hide = true, value_name = "SIZE", value_parser = values::size)]
    pub copy_limit: Option<u64>,
    /// Report to the parent process (see `background`).
    #[arg(long, hide = true)]
    pub report: bool,
    /// Serve the buckets in this folder on loopback from this process, and mount from there, so that the
    /// demo's server ends with its mount.
    #[arg(long, hide = true, value_name = "DIR")]
    pub embedded_server: Option<PathBuf>,
}

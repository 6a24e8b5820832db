//! Where access keys come from, and what happens when they end: each source against services that are honest and
//! services that lie, and mounts that go on.

mod cloud;
mod lying;
mod mounts;
mod sources;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ossvault::server::auth::Credentials;

use crate::fixture::{BUCKET, Rig, ossvault, set_mode};
use cloud::{BASE_ID, BASE_SECRET, Cloud, ID, IDENTITY, PROVIDER, ROLE, SECRET};

/// A bucket behind the cloud's gate.
struct Place {
    rig: Rig,
    cloud: Cloud,
}

impl Place {
    fn new() -> Place {
        let rig = Rig::with(|config| config.credentials = Credentials::new(ID, SECRET, None));
        let cloud = Cloud::start(&rig.endpoint());
        fs::create_dir_all(rig.path("home/.aliyun")).unwrap();
        fs::write(rig.path("identity"), format!("{IDENTITY}\n")).unwrap();
        Place { rig, cloud }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.rig.path(name)
    }

    /// A file that nobody else may read.
    fn private(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        set_mode(&path, 0o600);
        path
    }

    /// A program that prints `content`.
    fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.private(name, format!("#!/bin/sh\n{script}\n"));
        set_mode(&path, 0o700);
        path
    }

    /// A new key, as JSON.
    fn key(&self) -> String {
        self.cloud.state().key(std::time::SystemTime::now())
    }

    /// The program, with the cloud around it and without any key.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = ossvault();
        command
            .args(arguments)
            .args(["--endpoint", &self.cloud.endpoint()])
            .args(["--sts-endpoint", &self.cloud.services()])
            .args(["--metadata-endpoint", &self.cloud.services()])
            .current_dir(self.path("home"))
            .env("HOME", self.path("home"))
            .env("XDG_STATE_HOME", self.path("state"));
        for name in ["XDG_CONFIG_HOME", "ALIBABA_CLOUD_ROLE_ARN"] {
            command.env_remove(name);
        }
        command
    }

    fn listing(&self) -> Command {
        self.command(&["ls", &format!("oss://{BUCKET}")])
    }
}

/// What a program said, without a single secret.
#[track_caller]
fn said(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    holds_nothing(&text);
    (output.status.code(), text)
}

#[track_caller]
fn holds_nothing(text: &str) {
    for word in ["s3cret", "0451"] {
        assert!(!text.contains(word), "{text}");
    }
}

/// A configuration of `aliyun` with one profile.
fn aliyun(mode: &str, rest: &str) -> String {
    format!(
        r#"{{"current":"default","profiles":[{{"name":"default","mode":"{mode}","language":"en",{rest}}}]}}"#
    )
}

/// The variables of a pod that may assume the role.
fn oidc_variables(token: &Path) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("ALIBABA_CLOUD_ROLE_ARN", ROLE.to_owned()),
        ("ALIBABA_CLOUD_OIDC_PROVIDER_ARN", PROVIDER.to_owned()),
        (
            "ALIBABA_CLOUD_OIDC_TOKEN_FILE",
            token.to_str().unwrap().to_owned(),
        ),
    ])
}

fn base_key() -> String {
    format!(r#"{{"AccessKeyId":"{BASE_ID}","AccessKeySecret":"{BASE_SECRET}"}}"#)
}

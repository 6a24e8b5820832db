//! The manifests in deploy/ are what the API servers of several releases of Kubernetes accept.

use std::path::Path;
use std::process::Command;

use crate::fixture::PROGRAM;
use crate::interop;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes")
}

#[test]
fn the_kubernetes_manifests_are_valid() {
    let python = match interop::python() {
        Ok(python) => python,
        Err(why) => return interop::skip(&why),
    };
    for name in ["rewrap-job.yaml", "mount-pod.yaml"] {
        // Native sidecars are part of the API since 1.29, limits of failed indexes since 1.33.
        for version in ["1.33", "1.36"] {
            let checked = Command::new(&python)
                .args([
                    "-m",
                    "kubernetes_validate",
                    "--strict",
                    "--kubernetes-version",
                    version,
                ])
                .arg(folder().join(name))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&checked.stdout).into_owned();
            let errors = String::from_utf8_lossy(&checked.stderr);
            assert!(
                checked.status.success(),
                "{name}, {version}: {said}{errors}"
            );
        }
    }
}

/// Their command lines are understood: the first thing that is missing is a file of the Pod.
#[test]
fn the_manifests_command_lines_are_understood() {
    for name in ["rewrap-job.yaml", "mount-pod.yaml"] {
        let text = std::fs::read_to_string(folder().join(name)).unwrap();
        let (_, arguments) = text.split_once("args:\n").unwrap();
        let arguments = arguments.lines().map(str::trim);
        let arguments = arguments.map_while(|line| line.strip_prefix("- "));
        let run = Command::new(PROGRAM)
            .args(arguments)
            .env_clear()
            .env("OSS_ENDPOINT", "oss-cn-hangzhou-internal.aliyuncs.com")
            .env("OSS_ACCESS_KEY_ID", "id")
            .env("OSS_ACCESS_KEY_SECRET", "secret")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert_ne!(run.status.code(), Some(2), "{name}: {said}");
        let missing = ["/keys/", "/shared/"]
            .iter()
            .any(|path| said.contains(path));
        assert!(missing, "{name}: {said}");
    }
}

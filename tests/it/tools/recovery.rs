//! Without ossvault: the program of docs/recovery.md, and the official SDKs.

use super::*;

#[test]
fn the_program_in_the_recovery_document_opens_every_format() {
    let python = match interop::python() {
        Ok(python) => python,
        Err(why) => return interop::skip(&why),
    };
    let program = recovery_program();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("recover.py"), program).unwrap();
    let mut opened = BTreeMap::<String, usize>::new();
    let index = formats::json("index.json");
    for name in index["vectors"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        if name.starts_with("negative") {
            continue;
        }
        let vector = formats::json(&format!("{name}.json"));
        let headers: String = vector["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", value.as_str().unwrap()))
            .collect();
        fs::write(at("headers"), headers).unwrap();
        fs::write(at("object"), formats::ciphertext(&vector)).unwrap();
        let key = format!("keys/{}.pkcs1.pem", formats::text(&vector, "/rsa_key"));
        let output = Command::new(&python)
            .arg(at("recover.py"))
            .arg(formats::vectors().join(key))
            .args([at("headers"), at("object"), at("plain")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
        let wanted = formats::text(&vector, "/plaintext/sha256");
        assert_eq!(
            formats::sha256(&fs::read(at("plain")).unwrap()),
            wanted,
            "{name}"
        );
        let family = formats::text(&vector, "/format").to_owned();
        *opened.entry(family).or_default() += 1;
    }
    // By writer: every writer, and so every format.
    assert_eq!(opened.len(), 9, "{opened:?}");
}

#[test]
fn the_program_in_the_recovery_document_opens_what_a_mount_writes() {
    let python = match interop::python() {
        Ok(python) => python,
        Err(why) => return interop::skip(&why),
    };
    let rig = Rig::new();
    let folder = rig.path("");
    fs::write(folder.join("recover.py"), recovery_program()).unwrap();
    for format in [Format::Seed, Format::Sdk, Format::Dual] {
        fill(&rig, 4, format);
        let user = head(&rig, "tree/003").headers.user;
        let headers: String = user
            .iter()
            .map(|(name, value)| format!("x-oss-meta-{name}: {value}\n"))
            .collect();
        fs::write(folder.join("headers"), headers).unwrap();
        fs::write(folder.join("object"), rig.ciphertext("tree/003")).unwrap();
        let status = Command::new(&python)
            .current_dir(&folder)
            .args(["recover.py", "key", "headers", "object", "plain"])
            .status()
            .unwrap();
        assert!(status.success(), "{format}");
        assert_eq!(
            fs::read(folder.join("plain")).unwrap(),
            content(3),
            "{format}"
        );
    }
}

fn recovery_program() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/recovery.md")).unwrap();
    let (_, rest) = document.split_once("```python\n").unwrap();
    let (program, _) = rest.split_once("```").unwrap();
    assert!(program.lines().count() < 80, "it is to stay short");
    program.to_owned()
}

/// "With `--format sdk` or `dual`, the official SDKs can open what the mount wrote, and the service's own
/// rules for such objects have a cost:"
///
/// A mount in the SDKs' formats and both official SDKs, on one bucket with one key pair.
#[test]
fn the_official_sdks_open_what_a_mount_wrote_for_them_and_a_mount_what_they_wrote() {
    if !can_mount() {
        return;
    }
    let python = match interop::python() {
        Ok(python) => python,
        Err(why) => return interop::skip(&why),
    };
    let rig = Rig::new();
    let (private, public) = (rig.key(), rig.path("key.pub"));
    let keys = [&private, &public].map(|path| path.to_str().unwrap());
    let sdk = |action: &str, sdk: &str, key: &str, input: &[u8]| {
        let args = [action, sdk, key, keys[0], keys[1]];
        interop::run_on(&rig, &python, "encrypted.py", &args, input)
    };
    for format in ["sdk", "dual"] {
        let mount = rig.mount(format, &["--format", format, "--metadata-ttl", "0"]);
        for size in [17, 70_000, (8 << 20) + 5] {
            let wanted: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
            let ours = format!("{format}-ours-{size}");
            let path = mount.path.join(&ours);
            fs::write(&path, &wanted).unwrap();
            // Uploaded again with other attributes.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            for name in ["oss2", "v2"] {
                assert!(sdk("read", name, &ours, b"") == wanted, "{name} {ours}");
                // Their parts have at least 100 KiB.
                let ways = if size > 1 << 20 { 2 } else { 1 };
                for way in ["write", "parts"].into_iter().take(ways) {
                    let theirs = format!("{format}-{name}-{way}-{size}");
                    sdk(way, name, &theirs, &wanted);
                    let announced = head(&rig, &theirs).headers.user;
                    let announced = announced.get("client-side-encryption-part-size");
                    assert_eq!(announced.is_some(), way == "parts", "{theirs}");
                    let path = mount.path.join(&theirs);
                    assert!(fs::read(&path).unwrap() == wanted, "{theirs}");
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
                    assert!(sdk("read", name, &theirs, b"") == wanted, "{theirs}");
                }
            }
        }
        mount.end_well();
    }
}

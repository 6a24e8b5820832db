//! Data keys leave nothing behind. One process uses some and drops them, and another one that knows them
//! searches its memory: everything that would be in its core file, except the registers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ossvault::crypto::ctr::ContentCipher;
use ossvault::crypto::data_key::{ContentKind, Purpose};
use ossvault::crypto::key_parse;
use ossvault::crypto::key_ring::KeyRing;
use ossvault::crypto::xattr::{self, Xattrs};
use ossvault::encrypted::{EncryptedBucket, Plaintext, Settings};
use ossvault::envelope::open::open;
use ossvault::envelope::write::{fresh_cipher, write};
use ossvault::envelope::{Format, detect};
use ossvault::store::local::{self, LocalStore};
use ossvault::store::object_store::{ObjectHeaders, ObjectKey, ObjectStore, Overwrite};

use crate::fixture::{self, BUCKET, Rig, can_mount};
use crate::formats;

fn ring() -> KeyRing {
    let pem = fs::read(formats::vectors().join("keys/rsa2048.pkcs8.pem")).unwrap();
    KeyRing::single(key_parse::private_key(&pem, &mut || None).unwrap())
}

/// The next round keys of AES-256 after the first two, which are the key: FIPS 197, section 5.2.
fn round_keys(key: &[u8; 32]) -> [[u8; 16]; 2] {
    let mut words: Vec<[u8; 4]> = key.chunks(4).map(|w| w.try_into().unwrap()).collect();
    for i in 8..16 {
        let mut word = words[i - 1];
        if i == 8 {
            word.rotate_left(1);
        }
        if i % 4 == 0 {
            word = word.map(sub_byte);
        }
        if i == 8 {
            word[0] ^= 1;
        }
        let before = words[i - 8];
        words.push(std::array::from_fn(|n| word[n] ^ before[n]));
    }
    let key = |from: usize| words[from..from + 4].concat().try_into().unwrap();
    [key(8), key(12)]
}

/// The S-box: the inverse in GF(2^8), and an affine map.
fn sub_byte(byte: u8) -> u8 {
    let times = |mut a: u8, mut b: u8| {
        let mut product = 0;
        while b != 0 {
            product ^= if b & 1 == 1 { a } else { 0 };
            a = a << 1 ^ if a & 0x80 == 0 { 0 } else { 0x1b };
            b >>= 1;
        }
        product
    };
    // x^254
    let inverse = (0..254).fold(1, |power, _| times(power, byte));
    (0..5).fold(0x63, |sum, turn| sum ^ inverse.rotate_left(turn))
}

#[test]
fn the_round_keys_are_those_of_the_standard() {
    // FIPS 197, appendix A.3.
    let key = [
        0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77,
        0x81, 0x1f, 0x35, 0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14,
        0xdf, 0xf4,
    ];
    let [third, fourth] = round_keys(&key);
    assert_eq!(third[..4], [0x9b, 0xa3, 0x54, 0x11]);
    assert_eq!(fourth[..4], [0xa8, 0xb0, 0x9c, 0x1a]);
}

/// The bytes of a key that must not be found, by name.
fn traces(cipher: &ContentCipher) -> Vec<(&'static str, [u8; 16])> {
    let key = cipher.key().expose();
    let half = |bytes: &[u8], second: bool| -> [u8; 16] {
        let from = if second { 16 } else { 0 };
        bytes[from..from + 16].try_into().unwrap()
    };
    let reversed: Vec<u8> = key.iter().rev().copied().collect();
    let words: Vec<u8> = key
        .chunks(4)
        .flat_map(|word| word.iter().rev().copied())
        .collect();
    let [third, fourth] = round_keys(key);
    vec![
        ("the key's first half", half(key, false)),
        ("the key's second half", half(key, true)),
        ("the third round key", third),
        ("the fourth round key", fourth),
        ("the key as RSA's numbers hold it", half(&reversed, false)),
        ("the key as SHA-256's words hold it", half(&words, false)),
        (
            "the subkey of extended attributes",
            half(&*cipher.subkey(Purpose::Xattr), false),
        ),
    ]
}

/// Every place in the process's writable memory that contains one of these, and which one.
fn found(pid: u32, traces: &[(&'static str, [u8; 16])]) -> Vec<String> {
    const STEP: usize = 1 << 20;
    let mut by_start = vec![Vec::new(); 1 << 16];
    for (name, bytes) in traces {
        by_start[usize::from(u16::from_le_bytes([bytes[0], bytes[1]]))].push((*name, bytes));
    }
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut found = Vec::new();
    let mut searched = 0;
    let mut buffer = vec![0; STEP + 15];
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, mode) = (fields.next().unwrap(), fields.next().unwrap());
        if !mode.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        for at in (start..end).step_by(STEP) {
            let len = (end - at).min(buffer.len() as u64) as usize;
            // A device's memory, for instance, cannot be read.
            let Ok(len) = memory.read_at(&mut buffer[..len], at) else {
                continue;
            };
            searched += len;
            for (offset, window) in buffer[..len].windows(16).enumerate() {
                let start = u16::from_le_bytes([window[0], window[1]]);
                for (name, bytes) in &by_start[usize::from(start)] {
                    if window == *bytes {
                        let place = at + offset as u64;
                        found.push(format!("{name} at {place:x} in {line}"));
                    }
                }
            }
        }
    }
    assert!(searched > 1 << 20, "only {searched} bytes could be read");
    found
}

/// The other process: generates keys, wraps, encrypts, unwraps, decrypts, and drops them. It prints what it
/// wrapped, so that the test can know the keys, and waits to be searched.
#[test]
#[ignore = "the other process of the test that follows"]
fn uses_data_keys_and_drops_them() {
    if std::env::var_os("OSSVAULT_TEST_LOOKED_THROUGH").is_none() {
        return;
    }
    let ring = ring();
    let mut said: Vec<BTreeMap<String, String>> = Vec::new();
    for format in [Format::Seed, Format::Sdk, Format::Dual] {
        let mut content = fixture::noise(1, 300_000);
        let mut attributes = Xattrs::new();
        attributes.set("user.comment", b"sealed").unwrap();
        let (envelope, sealed) = {
            let cipher = fresh_cipher(ContentKind::File);
            let envelope = write(format, ring.writing(), &cipher, None).unwrap();
            let plain = content.clone();
            cipher.apply(0, &plain, &mut content).unwrap();
            cipher.apply_in_place(5, &mut content[5..50]).unwrap();
            let beside = detect(&envelope).unwrap().unwrap().wrapped_key;
            let sealed = xattr::seal(ring.writing(), &beside, &attributes);
            (envelope, sealed)
        };
        {
            let found = detect(&envelope).unwrap().unwrap();
            let opened = open(&found, &ring).unwrap();
            let mut plain = vec![0; content.len()];
            opened.cipher.apply(0, &content, &mut plain).unwrap();
            let again = xattr::open(&ring, None, &found.wrapped_key, &sealed).unwrap();
            assert!(again == attributes);
        }
        let mut said_of_it = envelope;
        said_of_it.insert("ossvault-xattr".to_owned(), sealed);
        said.push(said_of_it);
    }
    // The same through a bucket, on threads that keep running.
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path(), local::Settings { sync: false }).unwrap();
    let bucket = EncryptedBucket::new(Arc::new(store), ring, Settings::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|index| {
            let bucket = bucket.clone();
            runtime.spawn(async move {
                let key = ObjectKey::new(format!("{index}")).unwrap();
                let plain = Plaintext::from_bytes(fixture::noise(index, 500_000));
                let headers = ObjectHeaders::default();
                let put = bucket.put(&key, &plain, headers, None, Overwrite::Allowed);
                drop(put.await.unwrap());
                let mut body = bucket.get(&key, None, None).await.unwrap();
                let user = body.meta.headers.user.clone();
                let object = bucket.object(&body.meta).unwrap();
                let cipher = bucket.unlock(&object).await.unwrap();
                let mut buffer = vec![0; 7000];
                while body.read(&cipher, &mut buffer).await.unwrap() > 0 {}
                user
            })
        })
        .collect();
    for task in tasks {
        said.push(runtime.block_on(task).unwrap());
    }
    for envelope in said {
        println!("envelope {}", serde_json::to_string(&envelope).unwrap());
    }
    println!("done");
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Regression: keys were left in the places they had been moved from, on stacks and on the heap.
#[test]
fn nothing_of_a_data_key_is_left_once_it_is_dropped() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .arg("secrets::uses_data_keys_and_drops_them")
        .env("OSSVAULT_TEST_LOOKED_THROUGH", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut traces = Vec::new();
    let ring = ring();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in &mut lines {
        let line = line.unwrap();
        if line.ends_with("done") {
            break;
        }
        if let Some((_, text)) = line.split_once("envelope ") {
            let user: BTreeMap<String, String> = serde_json::from_str(text).unwrap();
            let opened = open(&detect(&user).unwrap().unwrap(), &ring).unwrap();
            traces.extend(self::traces(&opened.cipher));
            if let Some(sealed) = user.get("ossvault-xattr") {
                let wrapped = sealed.split('.').nth(1).unwrap();
                let wrapped = BASE64_URL_SAFE_NO_PAD.decode(wrapped).unwrap();
                let ([key], _) = ring.unwrap(None, [&wrapped]).unwrap();
                let name = "the key of extended attributes";
                traces.push((name, *key.first_chunk().unwrap()));
            }
        }
    }
    assert_eq!(traces.len(), 11 * 7 + 3);
    let found = found(child.id(), &traces);
    drop(child.stdin.take());
    lines.for_each(drop);
    child.wait().unwrap();
    assert!(found.is_empty(), "{}: {found:#?}", found.len());
}

/// After an upload, a write-only machine has nothing that can decrypt what was written.
#[test]
fn a_write_only_mount_has_nothing_of_a_data_key_after_the_upload() {
    if !can_mount() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may look into the daemon");
        return;
    }
    let rig = Rig::new();
    let public = rig.path("key.pub");
    let keys = ["--public-key", public.to_str().unwrap()];
    let mount = rig.mount_with_keys("mnt", &format!("oss://{BUCKET}"), &keys, &[]);
    for index in 0..20 {
        let content = fixture::noise(index, 10_000 * index as usize);
        fixture::write_and_close(&mount.path.join(format!("{index}")), &content).unwrap();
    }
    let large = fixture::noise(99, 20 << 20);
    fixture::write_and_close(&mount.path.join("large"), &large).unwrap();
    rig.settle();
    let pem = fs::read(rig.key()).unwrap();
    let ring = KeyRing::single(key_parse::private_key(&pem, &mut || None).unwrap());
    let mut traces = Vec::new();
    for name in rig.keys() {
        let key = ObjectKey::new(name).unwrap();
        let user = rig.block_on(rig.store.head(&key)).unwrap().headers.user;
        let opened = open(&detect(&user).unwrap().unwrap(), &ring).unwrap();
        traces.extend(self::traces(&opened.cipher));
    }
    assert_eq!(traces.len(), 21 * 7);
    let found = found(mount.pid(), &traces);
    mount.end_well();
    assert!(found.is_empty(), "{}: {found:#?}", found.len());
}

/// Regression: buffers of a write-only mount were kept for the next file with the previous one's content in
/// them.
#[test]
fn a_write_only_mount_wipes_staged_data_when_the_file_is_closed() {
    /// Each of these may contain a trace.
    const EVERY: usize = 64 << 10;
    /// Each session thread's last request stays in its receive buffer until the next request arrives.
    const RECEIVE_BUFFERS: usize = 4 * ((1 << 20) / EVERY + 1);
    if !can_mount() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may look into the daemon");
        return;
    }
    let rig = Rig::new();
    let public = rig.path("key.pub");
    let keys = ["--public-key", public.to_str().unwrap()];
    let mount = rig.mount_with_keys("mnt", &format!("oss://{BUCKET}"), &keys, &[]);
    // One that is uploaded while it is written, one that is uploaded at its close, and small ones.
    let mut traces = Vec::new();
    for (index, len) in [100 << 20, 18 << 20, 5 << 20, 300 << 10, 80 << 10]
        .into_iter()
        .enumerate()
    {
        let content = fixture::noise(1000 + index as u64, len);
        traces.extend(
            content
                .chunks(EVERY)
                .map(|chunk| ("content", chunk[..16].try_into().unwrap())),
        );
        fixture::write_and_close(&mount.path.join(format!("{index}")), &content).unwrap();
    }
    rig.settle();
    let found = found(mount.pid(), &traces);
    mount.end_well();
    assert!(
        found.len() <= RECEIVE_BUFFERS,
        "{} of {}: {found:#?}",
        found.len(),
        traces.len()
    );
}

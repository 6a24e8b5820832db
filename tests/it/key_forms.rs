//! Every form of a key file that OpenSSL 3 reads is read. `openssl` creates the files and is the reference:
//! if it derives a public half, this program must derive the same one. For unsupported forms, the error
//! contains a command, and the command works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ossvault::crypto::key_error::{KeyError, Strength};
use ossvault::crypto::key_parse;
use ossvault::crypto::rsa_key::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

const PASSPHRASE: &str = "open sesame";

/// A folder with keys created by openssl: `key.pem` (PKCS#8), `rsa.pem` (PKCS#1), the public halves and a
/// certificate. None if there is no openssl.
struct Bench {
    folder: tempfile::TempDir,
    public: PublicKey,
}

impl Bench {
    fn new() -> Option<Bench> {
        if Command::new("openssl").arg("version").output().is_err() {
            crate::interop::skip("there is no openssl");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::copy(vectors("rsa2048.pkcs8.pem"), at("key.pem")).unwrap();
        let run = |line: &str| {
            openssl(folder.path(), line).unwrap_or_else(|| panic!("openssl {line}"));
        };
        run("rsa -in key.pem -traditional -out rsa.pem");
        run("rsa -in key.pem -pubout -out spki.pem");
        run("rsa -in key.pem -RSAPublicKey_out -out pkcs1.pem");
        run("req -x509 -new -key key.pem -subj /CN=a -days 9 -out cert.pem");
        run("req -new -key key.pem -subj /CN=a -out csr.pem");
        run("pkey -in key.pem -outform DER -out key.der");
        run("rsa -in key.pem -traditional -outform DER -out rsa.der");
        run("rsa -in key.pem -pubout -outform DER -out spki.der");
        run("genpkey -algorithm ed25519 -out ed25519.pem");
        let public = key_parse::public_key(&fs::read(at("spki.pem")).unwrap()).unwrap();
        Some(Bench { folder, public })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// The output file of an openssl command; None if this openssl cannot do that.
    fn made(&self, line: &str) -> Option<Vec<u8>> {
        let out = self.path("made");
        let _ = fs::remove_file(&out);
        // genrsa accepts nothing after the number of bits.
        let line = match line.strip_prefix("genrsa ") {
            Some(options) => format!("genrsa -out made {options}"),
            None => format!("{line} -out made"),
        };
        openssl(self.folder.path(), &line)?;
        fs::read(out).ok().filter(|bytes| !bytes.is_empty())
    }

    /// Whether openssl reads these bytes as this private key.
    fn openssl_reads(&self, bytes: &[u8]) -> bool {
        fs::write(self.path("judged"), bytes).unwrap();
        let found = openssl(
            self.folder.path(),
            "rsa -in judged -passin file:pass -pubout -provider legacy -provider default",
        );
        found.is_some_and(|pem| key_parse::public_key(&pem).is_ok_and(|key| key == self.public))
    }

    #[track_caller]
    fn is_read(&self, what: &str, bytes: &[u8]) {
        match private(bytes) {
            Ok(key) => {
                assert!(*key.public() == self.public, "{what}: another key");
                key.prove().unwrap();
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

/// The output of openssl, if it succeeded.
fn openssl(folder: &Path, line: &str) -> Option<Vec<u8>> {
    // The first line is the passphrase of the input, the second that of the output.
    fs::write(folder.join("pass"), format!("{PASSPHRASE}\n{PASSPHRASE}\n")).unwrap();
    let output = Command::new("openssl")
        .args(line.split(' '))
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output.status.success().then_some(output.stdout)
}

fn vectors(name: &str) -> PathBuf {
    crate::formats::vectors().join("keys").join(name)
}

fn private(bytes: &[u8]) -> Result<PrivateKey, KeyError> {
    key_parse::private_key(bytes, &mut || Some(Zeroizing::new(PASSPHRASE.to_owned())))
}

fn refusal(bytes: &[u8]) -> String {
    match private(bytes) {
        Ok(_) => panic!("it was read"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn surrounding_text_labels_and_line_endings_do_not_matter() {
    let Some(bench) = Bench::new() else { return };
    let [key, rsa, cert] = ["key.pem", "rsa.pem", "cert.pem"].map(|name| bench.text(name));
    let relabelled = |text: &str, from: &str, to: &str| text.replace(from, to);
    // What openssl reads, too.
    for (what, bytes) in [
        ("certificate first", format!("{cert}{key}").into_bytes()),
        ("certificate behind", format!("{key}{cert}").into_bytes()),
        (
            "a Latin-1 comment",
            [b"# cl\xe9 priv\xe9e\n", key.as_bytes()].concat(),
        ),
        (
            "Bag Attributes",
            format!("Bag Attributes\n    friendlyName: a\n{key}").into_bytes(),
        ),
        ("CRLF", key.replace('\n', "\r\n").into_bytes()),
        (
            "PKCS#8 as RSA",
            relabelled(&key, "PRIVATE", "RSA PRIVATE").into_bytes(),
        ),
        (
            "PKCS#1 as PKCS#8",
            relabelled(&rsa, "RSA PRIVATE", "PRIVATE").into_bytes(),
        ),
    ] {
        assert!(
            bench.openssl_reads(&bytes),
            "{what}: openssl does not read it"
        );
        bench.is_read(what, &bytes);
    }
    // Damage that users would otherwise repair by hand.
    let one_line = key.trim().replace('\n', " ");
    let bare = key
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect::<Vec<_>>();
    let utf16: Vec<u8> = [0xff, 0xfe]
        .into_iter()
        .chain(key.encode_utf16().flat_map(u16::to_le_bytes))
        .collect();
    for (what, bytes) in [
        (
            "a byte order mark",
            [b"\xef\xbb\xbf", key.as_bytes()].concat(),
        ),
        ("UTF-16", utf16),
        (
            "\\n in two characters",
            key.replace('\n', "\\n").into_bytes(),
        ),
        (
            "quoted, \\n in two characters",
            format!("\"{}\"", key.replace('\n', "\\n")).into_bytes(),
        ),
        ("one line", one_line.clone().into_bytes()),
        ("quoted", format!("'{one_line}'\n").into_bytes()),
        ("CR only", key.replace('\n', "\r").into_bytes()),
        ("bare base64", bare.join("\n").into_bytes()),
        ("bare base64 on a line", bare.concat().into_bytes()),
        ("base64 of PEM", BASE64_STANDARD.encode(&key).into_bytes()),
    ] {
        bench.is_read(what, &bytes);
    }
}

#[test]
fn public_keys_are_read_under_either_label_and_from_certificates() {
    let Some(bench) = Bench::new() else { return };
    let [spki, pkcs1, cert] = ["spki.pem", "pkcs1.pem", "cert.pem"].map(|name| bench.text(name));
    let der = |pem: &str| -> Vec<u8> {
        let lines: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        BASE64_STANDARD.decode(lines).unwrap()
    };
    for (what, bytes) in [
        ("SPKI", spki.clone().into_bytes()),
        ("PKCS#1", pkcs1.clone().into_bytes()),
        (
            "SPKI as RSA",
            spki.replace("PUBLIC", "RSA PUBLIC").into_bytes(),
        ),
        (
            "PKCS#1 as SPKI",
            pkcs1.replace("RSA PUBLIC", "PUBLIC").into_bytes(),
        ),
        ("a certificate", cert.clone().into_bytes()),
        (
            "a trusted certificate",
            cert.replace("CERTIFICATE", "TRUSTED CERTIFICATE")
                .into_bytes(),
        ),
        ("a certificate in DER", der(&cert)),
        ("SPKI in DER", der(&spki)),
        ("PKCS#1 in DER", der(&pkcs1)),
        (
            "SPKI behind a certificate",
            format!("{cert}{spki}").into_bytes(),
        ),
    ] {
        match key_parse::public_key(&bytes) {
            Ok(key) => assert!(key == bench.public, "{what}: another key"),
            Err(error) => panic!("{what}: {error}"),
        }
    }
    // A write-only machine must not have the private half: that is an error, whatever is beside it.
    for text in [
        format!("{cert}{}", bench.text("key.pem")),
        format!("{}{spki}", bench.text("key.pem")),
    ] {
        let found = key_parse::public_key(text.as_bytes()).err();
        assert_eq!(found, Some(KeyError::PrivateGiven));
    }
    let sentence = refusal(cert.as_bytes());
    assert!(sentence.contains("this is a certificate"), "{sentence}");
    assert_eq!(private(spki.as_bytes()).err(), Some(KeyError::PublicOnly));
}

/// How [`encode`] writes the elements.
#[derive(Clone, Copy, Default)]
struct Style {
    indefinite: bool,
    long_lengths: bool,
    padded_numbers: bool,
    signed_numbers: bool,
}

/// Encodes DER again, in BER of some style. Strings are left unchanged.
fn encode(mut der: &[u8], style: Style) -> Vec<u8> {
    let mut out = Vec::new();
    while !der.is_empty() {
        let tag = der[0];
        let (length, header) = match der[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            long => {
                let count = usize::from(long & 0x7f);
                let length = der[2..2 + count]
                    .iter()
                    .fold(0, |n, byte| n << 8 | usize::from(*byte));
                (length, 2 + count)
            }
        };
        let mut content = der[header..header + length].to_vec();
        der = &der[header + length..];
        if tag == 0x30 {
            content = encode(&content, style);
        }
        if tag == 0x02 && style.padded_numbers {
            content.splice(0..0, [0, 0, 0]);
        }
        if tag == 0x02 && style.signed_numbers && content.len() > 1 && content[0] == 0 {
            content.remove(0);
        }
        out.push(tag);
        if tag == 0x30 && style.indefinite {
            out.push(0x80);
            out.extend(content);
            out.extend([0, 0]);
            continue;
        }
        if style.long_lengths {
            out.push(0x88);
            out.extend((content.len() as u64).to_be_bytes());
        } else if content.len() < 0x80 {
            out.push(content.len() as u8);
        } else {
            out.push(0x82);
            out.extend((content.len() as u16).to_be_bytes());
        }
        out.extend(content);
    }
    out
}

#[test]
fn ber_is_read_like_der() {
    let Some(bench) = Bench::new() else { return };
    let styles = [
        ("as it is", Style::default()),
        (
            "indefinite",
            Style {
                indefinite: true,
                ..Style::default()
            },
        ),
        (
            "long lengths",
            Style {
                long_lengths: true,
                ..Style::default()
            },
        ),
        (
            "padded numbers",
            Style {
                padded_numbers: true,
                ..Style::default()
            },
        ),
        (
            "numbers without their zero",
            Style {
                signed_numbers: true,
                ..Style::default()
            },
        ),
        (
            "all of it",
            Style {
                indefinite: true,
                long_lengths: true,
                padded_numbers: true,
                signed_numbers: false,
            },
        ),
    ];
    let mut judged = 0;
    for name in ["rsa.der", "key.der"] {
        for (style_name, style) in styles {
            let der = encode(&bench.read(name), style);
            for (tail_name, tail) in [
                ("", &b""[..]),
                (" and a line end", b"\n"),
                (" and zeros", &[0; 9]),
            ] {
                let bytes = [&der, tail].concat();
                judged += usize::from(bench.openssl_reads(&bytes));
                bench.is_read(&format!("{name}, {style_name}{tail_name}"), &bytes);
            }
        }
    }
    assert!(judged >= 12, "openssl reads {judged} of them only");
    let public = encode(
        &bench.read("spki.der"),
        Style {
            indefinite: true,
            ..Style::default()
        },
    );
    assert!(key_parse::public_key(&public).unwrap() == bench.public);
}

/// The numbers of PKCS#1, with some of them zero.
fn without(rsa: &[u8], gone: &[usize]) -> Vec<u8> {
    // Four bytes of header, followed by the numbers.
    let mut rest = &rsa[4..];
    let mut content = Vec::new();
    let mut index = 0;
    while !rest.is_empty() {
        let (length, header) = match rest[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(rest[2]), 3),
            _ => (usize::from(rest[2]) << 8 | usize::from(rest[3]), 4),
        };
        match gone.contains(&index) {
            true => content.extend([2, 1, 0]),
            false => content.extend(&rest[..header + length]),
        }
        rest = &rest[header + length..];
        index += 1;
    }
    assert_eq!(index, 9);
    let mut out = vec![0x30, 0x82];
    out.extend((content.len() as u16).to_be_bytes());
    out.extend(content);
    out
}

/// Smart cards and Java write such keys.
#[test]
fn a_key_without_its_primes_is_completed() {
    let Some(bench) = Bench::new() else { return };
    let rsa = bench.read("rsa.der");
    for (what, gone) in [
        ("no primes", &[4, 5, 6, 7, 8][..]),
        ("no exponents of the primes", &[6, 7, 8]),
        ("no coefficient", &[8]),
        ("no public exponent either", &[2, 4, 5, 6, 7, 8]),
    ] {
        bench.is_read(what, &without(&rsa, gone));
    }
    // With a small exponent, which other ways of factoring do not support.
    let made = bench.made("genrsa -3 2048").unwrap();
    fs::write(bench.path("small.pem"), &made).unwrap();
    let der = bench
        .made("rsa -in small.pem -traditional -outform DER")
        .unwrap();
    let key = private(&without(&der, &[4, 5, 6, 7, 8])).unwrap();
    assert!(key.public() == private(&made).unwrap().public());
    // Numbers that are not a key are detected.
    let mut wrong = without(&rsa, &[4, 5, 6, 7, 8]);
    let late = wrong.len() - 100;
    wrong[late] ^= 4;
    assert!(matches!(private(&wrong).err(), Some(KeyError::Damaged(_))));
    let none = without(&rsa, &[3, 4, 5, 6, 7, 8]);
    assert!(matches!(private(&none).err(), Some(KeyError::Damaged(_))));
}

#[test]
fn keys_encrypted_by_openssl_open_with_their_passphrase() {
    let Some(bench) = Bench::new() else { return };
    let mut lines = Vec::new();
    for scheme in [
        "PBE-MD5-DES",
        "PBE-SHA1-DES",
        "PBE-MD5-RC2-64",
        "PBE-SHA1-RC2-64",
        "PBE-SHA1-RC4-128",
        "PBE-SHA1-RC4-40",
        "PBE-SHA1-3DES",
        "PBE-SHA1-2DES",
        "PBE-SHA1-RC2-128",
        "PBE-SHA1-RC2-40",
    ] {
        lines.push(format!("pkcs8 -topk8 -in key.pem -v1 {scheme}"));
    }
    for cipher in [
        "aes-128-cbc",
        "aes-192-cbc",
        "aes-256-cbc",
        "aria-128-cbc",
        "aria-192-cbc",
        "aria-256-cbc",
        "bf-cbc",
        "camellia-128-cbc",
        "camellia-192-cbc",
        "camellia-256-cbc",
        "cast5-cbc",
        "des-cbc",
        "des-ede3-cbc",
        "idea-cbc",
        "rc2-cbc",
        "rc2-64-cbc",
        "rc2-40-cbc",
    ] {
        lines.push(format!("pkcs8 -topk8 -in key.pem -v2 {cipher}"));
        lines.push(format!("rsa -in key.pem -traditional -{cipher}"));
    }
    for prf in [
        "hmacWithMD5",
        "hmacWithSHA1",
        "hmacWithSHA224",
        "hmacWithSHA256",
        "hmacWithSHA384",
        "hmacWithSHA512",
        "hmacWithSHA512-224",
        "hmacWithSHA512-256",
    ] {
        lines.push(format!(
            "pkcs8 -topk8 -in key.pem -v2 aes-256-cbc -v2prf {prf}"
        ));
    }
    lines.push("pkcs8 -topk8 -in key.pem -scrypt".to_owned());
    lines.push(
        "pkcs8 -topk8 -in key.pem -scrypt -scrypt_N 1024 -scrypt_r 8 -scrypt_p 16".to_owned(),
    );
    lines.push("pkcs8 -topk8 -in key.pem -iter 1000000".to_owned());
    let mut made = 0;
    for line in &lines {
        let providers = "-provider legacy -provider default -passout file:pass";
        let Some(bytes) = bench.made(&format!("{line} {providers}")) else {
            continue;
        };
        made += 1;
        assert!(
            bench.openssl_reads(&bytes),
            "openssl does not read what it made: {line}"
        );
        bench.is_read(line, &bytes);
        let wrong = key_parse::private_key(&bytes, &mut || Some(Zeroizing::new("wrong".into())));
        match wrong.err() {
            Some(KeyError::WrongPassphrase) => {}
            other => panic!("{line}, wrong passphrase: {other:?}"),
        }
    }
    assert!(made >= 40, "openssl made only {made} of {}", lines.len());
}

/// Runs the command from an error message, with the passphrase if it would ask for one.
fn follow(bench: &Bench, sentence: &str, file: &str, passphrases: &str) -> Vec<u8> {
    let (_, command) = sentence
        .split_once(": openssl ")
        .unwrap_or_else(|| panic!("no command in {sentence}"));
    let command = command.split(" (").next().unwrap();
    let line = command
        .replace("NEWFILE", "converted")
        .replace("KEYFILE", "converted")
        .replace("FILE", file);
    openssl(bench.folder.path(), &format!("{line} {passphrases}"))
        .unwrap_or_else(|| panic!("openssl {line}"));
    bench.read("converted")
}

#[test]
fn unsupported_keys_get_a_command_that_works() {
    let Some(bench) = Bench::new() else { return };
    let passes = "-passin file:pass -passout file:pass";
    let legacy = "-provider legacy -provider default -passout file:pass";
    let mut followed = 0;
    for line in [
        "rsa -in key.pem -traditional -seed",
        "pkcs8 -topk8 -in key.pem -v2 seed-cbc",
    ] {
        // Not every openssl has this cipher.
        let Some(bytes) = bench.made(&format!("{line} {legacy}")) else {
            continue;
        };
        fs::write(bench.path("seed.pem"), &bytes).unwrap();
        let sentence = refusal(&bytes);
        assert!(sentence.contains("SEED"), "{sentence}");
        bench.is_read(line, &follow(&bench, &sentence, "seed.pem", passes));
        followed += 1;
    }
    // One that every openssl has.
    let bytes = bench
        .made(&format!(
            "pkcs8 -topk8 -in key.pem -v2 aes-128-cfb {legacy}"
        ))
        .unwrap();
    fs::write(bench.path("cfb.pem"), &bytes).unwrap();
    let sentence = refusal(&bytes);
    bench.is_read("CFB", &follow(&bench, &sentence, "cfb.pem", passes));
    // More memory than is allowed.
    let scrypt = format!(
        "pkcs8 -topk8 -in key.pem -scrypt -scrypt_N 2097152 -scrypt_r 8 -scrypt_p 1 {legacy}"
    );
    if let Some(bytes) = bench.made(&scrypt) {
        let sentence = refusal(&bytes);
        assert!(sentence.contains("needs too much"), "{sentence}");
    }
    let p12 = bench
        .made("pkcs12 -export -inkey key.pem -in cert.pem -passout file:pass")
        .unwrap();
    fs::write(bench.path("key.p12"), &p12).unwrap();
    let sentence = refusal(&p12);
    bench.is_read("PKCS#12", &follow(&bench, &sentence, "key.p12", passes));
    eprintln!("{} commands followed", followed + 2);

    for (name, word) in [
        ("csr.pem", "certificate request"),
        ("ed25519.pem", "Ed25519"),
    ] {
        let sentence = refusal(&bench.read(name));
        assert!(sentence.contains(word), "{name}: {sentence}");
        let sentence = key_parse::public_key(&bench.read(name))
            .err()
            .unwrap()
            .to_string();
        let told = sentence.contains(word) || sentence.contains("private key");
        assert!(told, "{name}: {sentence}");
    }
    for (bytes, word) in [
        (
            &b"\xfe\xed\xfe\xed\0\0\0\x02"[..],
            "keytool -importkeystore",
        ),
        (
            b"PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none\n",
            "puttygen",
        ),
        (b"{\"kty\":\"RSA\",\"n\":\"AQAB\"}", "JSON web key"),
        (b"<RSAKeyValue><Modulus>AQAB</Modulus></RSAKeyValue>", "XML"),
        (b"ssh-rsa AAAAB3NzaC1yc2E= a@b", "ssh-keygen -e -m PKCS8"),
        (b"ssh-ed25519 AAAA a@b", "SSH key of another kind"),
    ] {
        let sentence = refusal(bytes);
        assert!(sentence.contains(word), "{sentence}");
    }
}

#[test]
fn openssh_keys_get_a_conversion_command() {
    let Some(bench) = Bench::new() else { return };
    let ssh_keygen = |line: &str| {
        let run = Command::new("ssh-keygen")
            .args(line.split(' '))
            .current_dir(bench.folder.path())
            .output();
        run.ok().filter(|output| output.status.success())
    };
    if ssh_keygen("-q -t rsa -b 2048 -N  -f ssh").is_none() {
        eprintln!("skipped: no ssh-keygen");
        return;
    }
    let sentence = refusal(&bench.read("ssh"));
    assert!(
        sentence.contains("ssh-keygen -p -m PEM -f FILE"),
        "{sentence}"
    );
    assert!(ssh_keygen("-p -m PEM -N  -f ssh").is_some());
    let key = private(&bench.read("ssh")).unwrap();
    let sentence = key_parse::public_key(&bench.read("ssh.pub"))
        .err()
        .unwrap()
        .to_string();
    assert!(
        sentence.contains("ssh-keygen -e -m PKCS8 -f FILE"),
        "{sentence}"
    );
    let output = ssh_keygen("-e -m PKCS8 -f ssh.pub").unwrap();
    assert!(key_parse::public_key(&output.stdout).unwrap() == *key.public());
    ssh_keygen("-q -t ed25519 -N  -f other").unwrap();
    let sentence = refusal(&bench.read("other"));
    assert!(sentence.contains("SSH key of another kind"), "{sentence}");
}

#[test]
fn insecure_numbers_are_not_accepted_as_a_public_key() {
    let Some(bench) = Bench::new() else { return };
    let number = |bytes: &[u8]| {
        let mut out = vec![0x02, 0x82];
        out.extend((bytes.len() as u16 + 1).to_be_bytes());
        out.push(0);
        out.extend(bytes);
        out
    };
    let public = |modulus: &[u8]| {
        let content = [number(modulus), vec![2, 3, 1, 0, 1]].concat();
        let mut der = vec![0x30, 0x82];
        der.extend((content.len() as u16).to_be_bytes());
        der.extend(content);
        key_parse::public_key(&der)
            .err()
            .map(|error| error.to_string())
    };
    let prime = openssl(bench.folder.path(), "prime -generate -bits 2048 -hex").unwrap();
    let prime = String::from_utf8(prime).unwrap();
    let prime: Vec<u8> = (0..256)
        .map(|at| u8::from_str_radix(&prime[at * 2..at * 2 + 2], 16).unwrap())
        .collect();
    let mut power = vec![1u8];
    for _ in 0..1292 {
        let mut carry = 0;
        for byte in &mut power {
            let product = u16::from(*byte) * 3 + carry;
            *byte = product as u8;
            carry = product >> 8;
        }
        if carry > 0 {
            power.push(carry as u8);
        }
    }
    power.reverse();
    for (modulus, word) in [(&prime, "is a prime"), (&power, "small factor")] {
        let sentence = public(modulus).unwrap();
        assert!(sentence.contains(word), "{sentence}");
    }
    assert_eq!(public(&bench.public.modulus()), None);
}

#[test]
fn unusable_keys_are_not_called_damaged() {
    let Some(bench) = Bench::new() else { return };
    let three = bench.made("genrsa -primes 3 2048").unwrap();
    let sentence = refusal(&three);
    assert!(sentence.contains("more than two primes"), "{sentence}");
    assert!(!sentence.contains("damaged"), "{sentence}");
    let large = bench.made("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:17179869185").unwrap();
    let sentence = refusal(&large);
    assert!(sentence.contains("33 bits"), "{sentence}");
    assert!(!sentence.contains("damaged"), "{sentence}");
}

#[test]
fn weak_keys_unwrap_only_if_the_option_allows_it() {
    let Some(bench) = Bench::new() else { return };
    for bits in [1024, 1536, 2047] {
        let pem = bench.made(&format!("genrsa {bits}")).unwrap();
        assert_eq!(private(&pem).err(), Some(KeyError::TooSmall(bits)));
        let key = key_parse::private_key_of(&pem, Strength::WeakAllowed, &mut || None).unwrap();
        assert!(key.public().is_weak());
        key.prove().unwrap();
        let public = key.public().to_pem();
        let refused = key_parse::public_key(public.as_bytes()).err();
        assert_eq!(refused, Some(KeyError::TooSmall(bits)));
    }
    let pem = bench.made("genrsa 1016").unwrap();
    let key = key_parse::private_key_of(&pem, Strength::WeakAllowed, &mut || None);
    assert_eq!(key.err(), Some(KeyError::TooSmall(1016)));
}

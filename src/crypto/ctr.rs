//! AES-256 in counter mode with a 128-bit big-endian counter, at any byte offset, from source to destination
//! in one pass.
//!
//! Two kernels compute the same bytes: the plain `ctr` crate, which is the reference, and `ctr_vector`, used
//! if the processor has VAES and AVX-512, unless the environment sets `OSSVAULT_CTR=portable`. A wrong
//! counter would still decrypt its own output and repeat keystream undetected, so [`self_test`] checks the
//! chosen kernel against known answers at every start.

use std::sync::OnceLock;

use aes::Aes256Enc;
use aes::cipher::{
    BlockCipherEncrypt, InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper,
    StreamCipherSeek,
};
use zeroize::Zeroizing;

#[cfg(target_arch = "x86_64")]
use super::ctr_vector;
use super::data_key::{self, CounterStart, DataKey, Purpose, StartBinding};
use super::stack::wiped;

/// The kernels work in pieces of this many bytes, so that the output of one step is still in the first-level
/// cache when the next step reads it.
const STRIP: usize = 32 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The `ctr` crate.
    Portable,
    /// `ctr_vector`.
    Vector,
}

impl Kernel {
    /// The kernel of this process.
    pub fn chosen() -> Kernel {
        static CHOSEN: OnceLock<Kernel> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let portable = std::env::var_os("OSSVAULT_CTR").is_some_and(|v| v == "portable");
            if !portable && Schedule::new(&[0; 32]).vector.is_some() {
                Kernel::Vector
            } else {
                Kernel::Portable
            }
        })
    }
}

/// No private key opened the envelope that this cipher belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no private key opened the envelope")]
pub struct Unopened;

/// Encrypts and decrypts one object. Created from the object's key, which it consumes; shared in an `Arc`.
pub struct ContentCipher {
    secrets: Box<Secrets>,
    start: CounterStart,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cipher,
    Unopened,
    /// For an unencrypted object.
    Identity,
}

struct Secrets {
    key: DataKey,
    schedule: Schedule,
}

/// The round keys, for either kernel. Wiped on drop.
struct Schedule {
    portable: Aes256Enc,
    /// None if this kernel cannot run.
    #[cfg(target_arch = "x86_64")]
    vector: Option<ctr_vector::Schedule>,
    #[cfg(not(target_arch = "x86_64"))]
    vector: Option<std::convert::Infallible>,
}

impl Schedule {
    fn new(key: &[u8; DataKey::LEN]) -> Schedule {
        Schedule {
            portable: Aes256Enc::new(key.into()),
            #[cfg(target_arch = "x86_64")]
            vector: ctr_vector::Schedule::new(key),
            #[cfg(not(target_arch = "x86_64"))]
            vector: None,
        }
    }

    /// Processes whole blocks from `counter` on; the last one may be partial.
    fn apply(&self, kernel: Kernel, counter: u128, source: &[u8], destination: &mut [u8]) {
        match (kernel, &self.vector) {
            #[cfg(target_arch = "x86_64")]
            (Kernel::Vector, Some(vector)) => vector.apply(counter, source, destination),
            _ => portable(&self.portable, counter, 0, source, destination),
        }
    }
}

impl ContentCipher {
    pub fn new(key: DataKey, start: CounterStart) -> ContentCipher {
        let secrets = wiped(|| {
            Box::new(Secrets {
                schedule: Schedule::new(key.expose()),
                key,
            })
        });
        ContentCipher {
            secrets,
            start,
            kind: Kind::Cipher,
        }
    }

    /// Leaves bytes unchanged: for reading an unencrypted object, or an object whose bytes stay encrypted. It
    /// has no key that could be wrapped, so nothing can be written with it.
    pub fn identity() -> ContentCipher {
        ContentCipher {
            kind: Kind::Identity,
            ..ContentCipher::new(DataKey::generate(), CounterStart::generate())
        }
    }

    /// Takes the place of a PKCS#1 v1.5 envelope that no key opened (see [`key_ring`](super::key_ring)): it
    /// is used like any other cipher, so that the store observes the same requests, and returns [`Unopened`]
    /// when bytes are to be decrypted.
    pub fn unopened(key: DataKey, start: CounterStart) -> ContentCipher {
        ContentCipher {
            kind: Kind::Unopened,
            ..ContentCipher::new(key, start)
        }
    }

    /// False for [`ContentCipher::unopened`].
    pub fn is_opened(&self) -> bool {
        self.kind != Kind::Unopened
    }

    /// True for [`ContentCipher::identity`].
    pub fn is_identity(&self) -> bool {
        self.kind == Kind::Identity
    }

    pub fn start(&self) -> CounterStart {
        self.start
    }

    /// What the counter start says about the object, see [`CounterStart::binding`].
    pub fn binding(&self) -> Option<StartBinding> {
        match self.kind {
            Kind::Cipher => self.start.binding(&self.secrets.key),
            Kind::Unopened | Kind::Identity => None,
        }
    }

    /// For wrapping: the only use of the key besides content and subkeys.
    pub fn key(&self) -> &DataKey {
        &self.secrets.key
    }

    pub fn subkey(&self, purpose: Purpose) -> Zeroizing<[u8; 32]> {
        data_key::subkey(&self.secrets.key, self.start, purpose)
    }

    /// Encrypts or decrypts `source`, which is at byte `offset` of the object, into `destination`.
    ///
    /// # Errors
    /// [`Unopened`]; `destination` is then unchanged.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn apply(
        &self,
        offset: u64,
        source: &[u8],
        destination: &mut [u8],
    ) -> Result<(), Unopened> {
        match self.kind {
            Kind::Unopened => return Err(Unopened),
            Kind::Identity => {
                destination.copy_from_slice(source);
                return Ok(());
            }
            Kind::Cipher => {}
        }
        wiped(|| {
            apply(
                Kernel::chosen(),
                &self.secrets.schedule,
                self.start,
                offset,
                source,
                destination,
            );
        });
        Ok(())
    }

    /// As [`apply`](Self::apply), over the same bytes.
    ///
    /// # Errors
    /// [`Unopened`].
    pub fn apply_in_place(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Unopened> {
        // 4 KiB at a time through the stack, because the kernels need a separate source and destination.
        let mut copy = Zeroizing::new([0u8; 4096]);
        for (i, piece) in buffer.chunks_mut(copy.len()).enumerate() {
            let copy = &mut copy[..piece.len()];
            copy.copy_from_slice(piece);
            self.apply(offset + i as u64 * 4096, copy, piece)?;
        }
        Ok(())
    }
}

/// Handles the bytes before the first whole block, and passes the rest to the kernels in strips.
fn apply(
    kernel: Kernel,
    schedule: &Schedule,
    start: CounterStart,
    offset: u64,
    source: &[u8],
    destination: &mut [u8],
) {
    assert_eq!(
        source.len(),
        destination.len(),
        "one pass needs equal lengths"
    );
    let into_block = (offset % 16) as usize;
    let head = match into_block {
        0 => 0,
        skipped => (16 - skipped).min(source.len()),
    };
    if head > 0 {
        portable(
            &schedule.portable,
            start.at(offset),
            into_block,
            &source[..head],
            &mut destination[..head],
        );
    }
    let mut at = offset + head as u64;
    for (source, destination) in source[head..]
        .chunks(STRIP)
        .zip(destination[head..].chunks_mut(STRIP))
    {
        schedule.apply(kernel, start.at(at), source, destination);
        at += source.len() as u64;
    }
}

fn portable(
    schedule: &Aes256Enc,
    counter: u128,
    into_block: usize,
    source: &[u8],
    destination: &mut [u8],
) {
    type Core<'a> = ctr::CtrCore<&'a Aes256Enc, ctr::flavors::Ctr128BE>;
    let core = Core::inner_iv_init(schedule, &counter.to_be_bytes().into());
    let mut stream = StreamCipherCoreWrapper::from_core(core);
    if into_block > 0 {
        stream.seek(into_block);
    }
    stream.apply_keystream_b2b(source, destination);
}

/// The kernel does not compute AES-256-CTR. Nothing may be encrypted with it.
#[derive(Debug, thiserror::Error)]
#[error("the AES-CTR kernel {kernel:?} computes wrong results ({case}); set OSSVAULT_CTR=portable")]
pub struct SelfTestFailed {
    kernel: Kernel,
    case: &'static str,
}

/// Checks the chosen kernel against known answers.
///
/// # Errors
/// One of them differs.
pub fn self_test() -> Result<(), SelfTestFailed> {
    self_test_of(Kernel::chosen())
}

/// Zeros under the key 00 01 .. 1f from the given counter, as `openssl enc -aes-256-ctr` encrypts them.
/// The counters carry out of 32, 64 and 128 bits.
const KNOWN: [(&str, u128, [u128; 3]); 4] = [
    (
        "counter 1",
        1,
        [
            0xf05d76ae4ab99fe5a6f69b3148c2363d,
            0x0ebcb5deb52c83bd08a8a935182c9199,
            0xd24356532881602f809eb383c5ff5d56,
        ],
    ),
    (
        "carry at 2^32",
        0xffff_ffff,
        [
            0xb9c2739810cba157a9fe6a108c6e569e,
            0x641d1a3a80becff6f0f38f9764fdcf96,
            0x367ef8288831557408e102950a16e26a,
        ],
    ),
    (
        "carry at 2^64",
        0xffff_ffff_ffff_ffff,
        [
            0xa6fbdb5cfde07d1b58fd362177bcffdf,
            0x511dd5ef9a682b7da49f91c86c4f7ac3,
            0x40c53cef92ef2d643f638b8222db1e85,
        ],
    ),
    (
        "carry at 2^128",
        u128::MAX,
        [
            0xe999e41d4ca770da5387117b5d8f57ee,
            0xf29000b62a499fd0a9f39a6add2e7780,
            0xf05d76ae4ab99fe5a6f69b3148c2363d,
        ],
    ),
];

fn self_test_of(kernel: Kernel) -> Result<(), SelfTestFailed> {
    let key: [u8; 32] = std::array::from_fn(|i| i as u8);
    let schedule = Schedule::new(&key);
    for (case, counter, expected) in KNOWN {
        let expected: Vec<u8> = expected
            .iter()
            .flat_map(|block| block.to_be_bytes())
            .collect();
        let start = CounterStart::from_be_bytes(counter.to_be_bytes());
        for offset in 0..expected.len() {
            let mut out = vec![0; expected.len() - offset];
            let zeros = vec![0; out.len()];
            apply(kernel, &schedule, start, offset as u64, &zeros, &mut out);
            if out != expected[offset..] {
                return Err(SelfTestFailed { kernel, case });
            }
        }
    }
    // Long enough for every inner loop, with a carry out of 64 bits in the middle of one, compared with
    // single blocks whose counters are incremented byte by byte.
    const BLOCKS: usize = 3 * 4096 / 16 + 5;
    let first = u128::from(u64::MAX) - 300;
    let mut counter = first.to_be_bytes();
    let mut expected = Vec::with_capacity(BLOCKS * 16);
    for _ in 0..BLOCKS {
        let mut block = counter.into();
        schedule.portable.encrypt_block(&mut block);
        expected.extend_from_slice(&block);
        for byte in counter.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }
    let mut out = vec![0; expected.len()];
    let start = CounterStart::from_be_bytes(first.to_be_bytes());
    apply(kernel, &schedule, start, 0, &vec![0; out.len()], &mut out);
    if out != expected {
        return Err(SelfTestFailed {
            kernel,
            case: "a long run",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_kernels_pass_the_self_test() {
        self_test_of(Kernel::Portable).unwrap();
        if Schedule::new(&[0; 32]).vector.is_some() {
            self_test_of(Kernel::Vector).unwrap();
        } else {
            println!("skipped: no VAES");
        }
        self_test().unwrap();
    }

    #[test]
    fn the_self_test_notices_a_counter_that_does_not_carry() {
        for (case, counter, expected) in KNOWN {
            let schedule = Aes256Enc::new(&std::array::from_fn::<u8, 32, _>(|i| i as u8).into());
            let low = |n: u128| (counter & !0xffff_ffff) | (counter.wrapping_add(n) & 0xffff_ffff);
            let broken: Vec<u128> = (0..3u128)
                .map(|n| {
                    let counter = if counter == 1 {
                        counter + n
                    } else {
                        low(n & 1)
                    };
                    let mut block = counter.to_be_bytes().into();
                    schedule.encrypt_block(&mut block);
                    u128::from_be_bytes(block.into())
                })
                .collect();
            assert_eq!(broken == expected, counter == 1, "{case}");
        }
    }

    fn cipher() -> ContentCipher {
        ContentCipher::new(
            DataKey::from_bytes(Zeroizing::new([7; 32])),
            CounterStart::from_be_bytes([0xff; 16]),
        )
    }

    #[test]
    fn in_place_is_the_same_as_source_to_destination() {
        let source: Vec<u8> = (0..20_000u32).map(|i| i as u8).collect();
        for offset in [0, 1, 15, 16, 4095] {
            let mut out = vec![0; source.len()];
            cipher().apply(offset, &source, &mut out).unwrap();
            let mut in_place = source.clone();
            cipher().apply_in_place(offset, &mut in_place).unwrap();
            assert_eq!(out, in_place, "{offset}");
            cipher().apply_in_place(offset, &mut in_place).unwrap();
            assert_eq!(source, in_place, "{offset}");
        }
    }

    #[test]
    fn the_end_of_the_offsets_is_reached_without_a_panic() {
        let mut out = [0; 40];
        cipher().apply(u64::MAX - 40, &[0; 40], &mut out).unwrap();
    }

    #[test]
    fn an_unopened_cipher_touches_nothing() {
        let cipher = ContentCipher::unopened(DataKey::generate(), CounterStart::generate());
        let mut out = [1; 4];
        assert_eq!(cipher.apply(0, &[2; 4], &mut out), Err(Unopened));
        assert_eq!(cipher.apply_in_place(0, &mut out), Err(Unopened));
        assert_eq!(out, [1; 4]);
    }

    /// Counters around every power of two at which a carry can occur.
    fn counters() -> impl Strategy<Value = u128> {
        (
            prop_oneof![Just(0u32), Just(8), Just(32), Just(64), Just(127)],
            0u128..5000,
            any::<bool>(),
            any::<u128>(),
        )
            .prop_map(|(power, below, random, any)| match random {
                true => any,
                false => (1u128 << power).wrapping_mul(2).wrapping_sub(below),
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_kernels_agree(
            key in any::<[u8; 32]>(),
            counter in counters(),
            offset in prop_oneof![0u64..100, any::<u32>().prop_map(u64::from), Just(u64::MAX - 80_000)],
            data in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                (0usize..70_000).prop_map(|n| (0..n).map(|i| (i * 31) as u8).collect()),
            ],
        ) {
            let schedule = Schedule::new(&key);
            let start = CounterStart::from_be_bytes(counter.to_be_bytes());
            let mut portable = vec![0; data.len()];
            let mut vector = vec![0; data.len()];
            apply(Kernel::Portable, &schedule, start, offset, &data, &mut portable);
            apply(Kernel::Vector, &schedule, start, offset, &data, &mut vector);
            prop_assert!(portable == vector);
            // A cut at any position changes nothing.
            if !data.is_empty() {
                let cut = (counter as usize) % data.len();
                let mut cut_out = vec![0; data.len()];
                let (a, b) = cut_out.split_at_mut(cut);
                apply(Kernel::Vector, &schedule, start, offset, &data[..cut], a);
                apply(Kernel::Vector, &schedule, start, offset + cut as u64, &data[cut..], b);
                prop_assert!(portable == cut_out);
            }
        }
    }

    /// `cargo test --release --lib ctr_speed -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn ctr_speed() {
        let schedule = Schedule::new(&[7; 32]);
        let start = CounterStart::from_be_bytes([9; 16]);
        for (len, rounds) in [(4096, 100_000), (65_536, 20_000), (1 << 20, 1000)] {
            let source = vec![1; len];
            let mut destination = vec![0; len];
            for kernel in [Kernel::Portable, Kernel::Vector] {
                let began = std::time::Instant::now();
                for i in 0..rounds {
                    let offset = (i * len) as u64;
                    apply(kernel, &schedule, start, offset, &source, &mut destination);
                }
                let speed = (len * rounds) as f64 / began.elapsed().as_secs_f64() / 1e9;
                println!("{kernel:?} {len} bytes: {speed:.1} GB/s");
            }
        }
    }
}

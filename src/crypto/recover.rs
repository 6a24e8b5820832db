//! Computes the primes of a private key whose file has only the modulus and the two exponents.
//!
//! Smart cards and Java's plain RSAPrivateKey write such files, with zeros in place of the other numbers,
//! sometimes including the public exponent. Given d and e, the modulus can be factored quickly (NIST SP
//! 800-56B, appendix C.1).

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, ConcatenatingMul, Gcd, NonZero, Odd, Resize};
use zeroize::Zeroizing;

/// The numbers of a private key with two primes, big-endian.
pub(super) struct Numbers<'a> {
    pub modulus: &'a [u8],
    pub exponent: &'a [u8],
    pub private_exponent: &'a [u8],
    /// p, q, d mod p - 1, d mod q - 1, and the inverse of q modulo p; none if the file does not have all of
    /// them.
    pub crt: Option<[&'a [u8]; 5]>,
}

/// Public exponents to try if the file has none.
const EXPONENTS: [u64; 6] = [65537, 3, 17, 5, 257, 35];

/// Bases to try; each finds the factors with a probability of at least one half.
const BASES: std::ops::Range<u64> = 2..100;

/// The numbers missing from the file.
pub(super) struct Recovered {
    exponent: Vec<u8>,
    /// p, q, d mod p - 1, d mod q - 1, and the inverse of q modulo p.
    crt: [Zeroizing<Vec<u8>>; 5],
}

impl Recovered {
    /// The complete key.
    pub(super) fn numbers<'a>(&'a self, read: &Numbers<'a>) -> Numbers<'a> {
        Numbers {
            modulus: read.modulus,
            exponent: &self.exponent,
            private_exponent: read.private_exponent,
            crt: Some(self.crt.each_ref().map(|number| number.as_slice())),
        }
    }
}

/// None if the numbers are not a key.
pub(super) fn primes(read: &Numbers<'_>) -> Option<Recovered> {
    // A key of this size is refused anyway, and the work grows with the cube of the size.
    const LONGEST: usize = 2048;
    if read.modulus.len() > LONGEST || read.private_exponent.len() > read.modulus.len() {
        return None;
    }
    let n = Odd::new(number(read.modulus)).into_option()?;
    let d = number(read.private_exponent);
    let given = number(read.exponent);
    let candidates: Vec<BoxedUint> = match read.exponent.is_empty() {
        true => EXPONENTS.into_iter().map(BoxedUint::from).collect(),
        false => vec![given],
    };
    candidates
        .into_iter()
        .find_map(|e| with_exponent(&n, &d, &e))
}

fn with_exponent(n: &Odd<BoxedUint>, d: &BoxedUint, e: &BoxedUint) -> Option<Recovered> {
    let one = BoxedUint::one();
    if d.bit_width() < 2 || e.bit_width() < 2 {
        return None;
    }
    // A multiple of p - 1 and q - 1, so its odd part leads to a square root of one other than 1 and -1.
    let k = d.concatenating_mul(e).wrapping_sub(&one);
    let twos = k.trailing_zeros();
    let odd = k.shr_vartime(twos)?;
    let params = BoxedMontyParams::new_vartime(n.clone());
    let minus_one = n.as_ref().wrapping_sub(&one);
    let width = n.as_ref().bits_precision();
    for base in BASES {
        let base = BoxedUint::from(base).resize(width);
        let mut root = BoxedMontyForm::new(base, &params).pow(&odd);
        if root.retrieve() == one || root.retrieve() == minus_one {
            continue;
        }
        for _ in 0..twos {
            let square = root.square();
            if square.retrieve() == one {
                let p = root.retrieve().wrapping_sub(&one).gcd(n.as_ref());
                return crt(n, d, e, p);
            }
            if square.retrieve() == minus_one {
                break;
            }
            root = square;
        }
    }
    None
}

fn crt(n: &Odd<BoxedUint>, d: &BoxedUint, e: &BoxedUint, p: BoxedUint) -> Option<Recovered> {
    let one = BoxedUint::one();
    let nonzero = |number: &BoxedUint| NonZero::new(number.clone()).into_option();
    let (q, rest) = n.as_ref().div_rem(&nonzero(&p)?);
    if p.bit_width() < 2 || q.bit_width() < 2 || !bool::from(rest.is_zero()) {
        return None;
    }
    let [p_less, q_less] = [&p, &q].map(|prime| prime.wrapping_sub(&one));
    let width = p.bits_precision().max(q.bits_precision());
    let inverse = q
        .clone()
        .resize(width)
        .invert_mod(&nonzero(&p.clone().resize(width))?)
        .into_option()?;
    Some(Recovered {
        exponent: e.to_be_bytes_trimmed_vartime().into_vec(),
        crt: [
            p.clone(),
            q.clone(),
            d.rem(&nonzero(&p_less)?),
            d.rem(&nonzero(&q_less)?),
            inverse,
        ]
        .map(|number| Zeroizing::new(number.to_be_bytes_trimmed_vartime().into_vec())),
    })
}

fn number(bytes: &[u8]) -> BoxedUint {
    BoxedUint::from_be_slice_vartime(bytes)
}

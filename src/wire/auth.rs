//! Proving that one knows a password: the answers to a nonce, and the RSA exchange of caching_sha2_password. No I/O.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_authentication_methods.html>

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
    PublicEncryptingKey,
};
use mysql_common::scramble::{create_response_for_ed25519, create_response_for_parsec};
use zeroize::Zeroizing;

/// The authentication plugins that we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugin {
    CachingSha2,
    Native,
    Sha256,
    Clear,
    /// MariaDB's, since 10.1.
    Ed25519,
    /// MariaDB's, since 11.6.
    Parsec,
}

impl Plugin {
    /// None for one that we do not speak.
    pub(crate) fn from_name(name: &[u8]) -> Option<Self> {
        [Self::CachingSha2, Self::Native, Self::Sha256, Self::Clear, Self::Ed25519, Self::Parsec]
            .into_iter()
            .find(|plugin| plugin.name().as_bytes() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CachingSha2 => "caching_sha2_password",
            Self::Native => "mysql_native_password",
            Self::Sha256 => "sha256_password",
            Self::Clear => "mysql_clear_password",
            Self::Ed25519 => "client_ed25519",
            Self::Parsec => "parsec",
        }
    }
}

/// After a caching_sha2_password answer: the server knows the password and the answer was right; OK follows.
pub(crate) const FAST_AUTH_SUCCESS: u8 = 3;
/// After a caching_sha2_password answer: the server needs the password itself.
pub(crate) const FULL_AUTHENTICATION: u8 = 4;
/// A client's request for the RSA key of caching_sha2_password.
pub(crate) const REQUEST_PUBLIC_KEY: u8 = 2;
/// A client's request for the RSA key of sha256_password.
pub(crate) const REQUEST_PUBLIC_KEY_SHA256: u8 = 1;

/// What a login must answer to, so that an answer that was overheard is worth nothing later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nonce(pub(crate) [u8; Self::LENGTH]);

impl Nonce {
    pub(crate) const LENGTH: usize = 20;

    /// A fresh one. Its bytes are ASCII without NUL (it travels as a string) and without `$` (as the server does).
    pub(crate) fn random() -> Result<Self, CryptoError> {
        let mut bytes = [0; Self::LENGTH];
        rand::fill(&mut bytes).map_err(|_| CryptoError("the system gives no random bytes"))?;
        for byte in &mut bytes {
            *byte &= 0x7f;
            if matches!(*byte, 0 | b'$') {
                *byte += 1;
            }
        }
        Ok(Self(bytes))
    }
}

/// What the logins of MariaDB answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LongNonce(pub(crate) [u8; 32]);

/// What no other input makes better.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub(crate) struct CryptoError(&'static str);

/// The answer of mysql_native_password: SHA1(password) XOR SHA1(nonce, SHA1(SHA1(password))); nothing for no password.
pub(crate) fn answer_native(password: &[u8], nonce: &Nonce) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let sha1 = |parts: &[&[u8]]| hash(&SHA1_FOR_LEGACY_USE_ONLY, parts);
    let once = sha1(&[password]);
    let twice = sha1(&[once.as_ref()]);
    xor(once.as_ref(), sha1(&[&nonce.0, twice.as_ref()]).as_ref())
}

/// The answer of caching_sha2_password: SHA256(password) XOR SHA256(SHA256(SHA256(password)), nonce); nothing for no
/// password.
pub(crate) fn answer_caching_sha2(password: &[u8], nonce: &Nonce) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let sha256 = |parts: &[&[u8]]| hash(&SHA256, parts);
    let once = sha256(&[password]);
    let twice = sha256(&[once.as_ref()]);
    xor(once.as_ref(), sha256(&[twice.as_ref(), &nonce.0]).as_ref())
}

/// The answer of MariaDB's ed25519: the nonce, signed with a key that the password is.
/// <https://mariadb.com/kb/en/authentication-plugin-ed25519/>
pub(crate) fn answer_ed25519(password: &[u8], nonce: &LongNonce) -> Vec<u8> {
    create_response_for_ed25519(password, &nonce.0).to_vec()
}

/// The answer of MariaDB's parsec to its salt: a nonce of ours, and both nonces signed with a key derived from the password.
/// Takes some milliseconds of CPU, as it is meant to.
/// <https://mariadb.com/kb/en/authentication-plugin-parsec/>
pub(crate) fn answer_parsec(password: &[u8], nonce: &LongNonce, salt: &[u8]) -> Result<Vec<u8>, CryptoError> {
    match salt {
        // PBKDF2, and how often it is iterated: 1024 times, doubled so often. More than ten times would keep us too long.
        &[b'P', factor @ 0..=10, ref salt @ ..] if !salt.is_empty() => {
            Ok(create_response_for_parsec(password, &nonce.0, 1024 << factor, salt).to_vec())
        }
        _ => Err(CryptoError("the server's salt for the password is of no known form")),
    }
}

/// True when `answer` shows that its sender knows `password`. An empty answer, or the one zero byte that
/// caching_sha2_password sends instead, is right for the empty password only. Takes the same time for all wrong answers of
/// one length.
pub(crate) fn is_right(plugin: Plugin, password: &[u8], nonce: &Nonce, answer: &[u8]) -> bool {
    let expected = match plugin {
        Plugin::CachingSha2 => answer_caching_sha2(password, nonce),
        Plugin::Native => answer_native(password, nonce),
        Plugin::Sha256 | Plugin::Clear | Plugin::Ed25519 | Plugin::Parsec => return false,
    };
    let answer = if is_empty_answer(answer) { &[] } else { answer };
    verify_slices_are_equal(&expected, answer).is_ok()
}

/// True for the answer of a client that has no password.
pub(crate) fn is_empty_answer(answer: &[u8]) -> bool {
    matches!(answer, [] | [0])
}

/// The key pair that clients without TLS send their password under. Lives as long as the process.
pub(crate) struct RsaKey {
    private: OaepPrivateDecryptingKey,
    /// The public key as PEM.
    public: String,
}

impl RsaKey {
    /// Takes some 100 ms of CPU.
    pub(crate) fn generate() -> Result<Self, CryptoError> {
        let failed = |_| CryptoError("no RSA key could be made");
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(failed)?;
        let der: PublicKeyX509Der<'_> = private.public_key().as_der().map_err(failed)?;
        let public = pem::encode(&pem::Pem::new(PEM_LABEL, der.as_ref().to_vec()));
        Ok(Self { private: OaepPrivateDecryptingKey::new(private).map_err(failed)?, public })
    }

    pub(crate) fn public_pem(&self) -> &str {
        &self.public
    }

    /// The password in what a client sent under this key. None for anything that is not one.
    pub(crate) fn decrypt(&self, sent: &[u8], nonce: &Nonce) -> Option<Zeroizing<Vec<u8>>> {
        let mut room = Zeroizing::new(vec![0; self.private.min_output_size()]);
        let clear = self.private.decrypt(&OAEP_SHA1_MGF1SHA1, sent, &mut room, None).ok()?;
        let mut password = Zeroizing::new(xor_nonce(clear, nonce));
        // The end of the password is a zero byte.
        (password.pop() == Some(0)).then_some(password)
    }
}

/// `password` under the RSA key that a server sent as PEM.
pub(crate) fn encrypt_password(pem: &[u8], password: &[u8], nonce: &Nonce) -> Result<Vec<u8>, CryptoError> {
    let key = pem::parse(pem).map_err(|_| CryptoError("the server's RSA key is no PEM"))?;
    let key = PublicEncryptingKey::from_der(key.contents())
        .ok()
        .and_then(|key| OaepPublicEncryptingKey::new(key).ok())
        .ok_or(CryptoError("the server's RSA key cannot be used"))?;
    let mut clear = Zeroizing::new(Vec::with_capacity(password.len() + 1));
    clear.extend_from_slice(password);
    clear.push(0);
    let clear = Zeroizing::new(xor_nonce(&clear, nonce));
    let mut room = vec![0; key.ciphertext_size()];
    let sent = key
        .encrypt(&OAEP_SHA1_MGF1SHA1, &clear, &mut room, None)
        .map_err(|_| CryptoError("the password is too long for the server's RSA key"))?;
    Ok(sent.to_vec())
}

const PEM_LABEL: &str = "PUBLIC KEY";

fn hash(algorithm: &'static digest::Algorithm, parts: &[&[u8]]) -> digest::Digest {
    let mut context = digest::Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    context.finish()
}

fn xor(left: &[u8], right: &[u8]) -> Vec<u8> {
    left.iter().zip(right).map(|(left, right)| left ^ right).collect()
}

fn xor_nonce(bytes: &[u8], nonce: &Nonce) -> Vec<u8> {
    bytes.iter().zip(nonce.0.iter().cycle()).map(|(byte, nonce)| byte ^ nonce).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = Nonce(*b"abcdefghijklmnopqrst");

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// As any verifier of RFC 8032 checks it.
    #[test]
    fn signatures() {
        use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA512};
        use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
        let nonce = LongNonce([7; 32]);
        let again = answer_ed25519(b"foobar", &nonce);
        assert_eq!((again.len(), &again), (64, &answer_ed25519(b"foobar", &nonce)));
        assert_ne!(again, answer_ed25519(b"foobaz", &nonce));

        let salt = b"P\x01abcdefghijklmnopqr";
        let mut seed = [0; 32];
        let iterations = std::num::NonZeroU32::new(2048).expect("not zero");
        pbkdf2::derive(PBKDF2_HMAC_SHA512, iterations, &salt[2..], b"secret", &mut seed);
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any seed is one");
        let answer = answer_parsec(b"secret", &nonce, salt).expect("a salt");
        let signed = [&nonce.0, &answer[..32]].concat();
        let verified =
            UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref()).verify(&signed, &answer[32..]);
        assert!(verified.is_ok());
        for bad in [&b""[..], b"P", b"P\x01", b"P\x0babc", b"Q\x01abc"] {
            assert!(answer_parsec(b"secret", &nonce, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nonces_are_ascii_without_nul_and_dollar() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            let Nonce(bytes) = Nonce::random().expect("random bytes");
            assert!(bytes.iter().all(|byte| byte.is_ascii() && !matches!(byte, 0 | b'$')));
            assert!(seen.insert(bytes));
        }
    }

    #[test]
    fn answers() {
        // Computed with Python's hashlib.
        let cases: &[(&[u8], &str, &str)] = &[
            (b"", "", ""),
            (
                b"secret",
                "8817c50fa779daef010ee7577825b0847df9842e",
                "c76e2898612a4cf042c77fa8c4702c4c64c0c2c557c53c4d75595aaa6abae809",
            ),
            (
                "pässwörd".as_bytes(),
                "bbac5880403c8943680f3e56f928c964753198c0",
                "c2f2b3d19aa93ee5d0629e3ec103da650b3d52d906618d526498606d78c7505b",
            ),
        ];
        for (password, native, sha2) in cases {
            assert_eq!(hex(&answer_native(password, &NONCE)), *native);
            assert_eq!(hex(&answer_caching_sha2(password, &NONCE)), *sha2);
        }
    }

    #[test]
    fn right_and_wrong_answers() {
        let sha2 = answer_caching_sha2(b"secret", &NONCE);
        let native = answer_native(b"secret", &NONCE);
        let cases: &[(Plugin, &[u8], &[u8], bool)] = &[
            (Plugin::CachingSha2, b"secret", &sha2, true),
            (Plugin::Native, b"secret", &native, true),
            (Plugin::Native, b"secret", &sha2, false),
            (Plugin::CachingSha2, b"secret", &native, false),
            (Plugin::CachingSha2, b"secret2", &sha2, false),
            (Plugin::Native, b"secret2", &native, false),
            (Plugin::CachingSha2, b"secret", &sha2[..31], false),
            (Plugin::CachingSha2, b"secret", b"", false),
            (Plugin::CachingSha2, b"secret", b"\0", false),
            (Plugin::Native, b"secret", b"\0", false),
            (Plugin::CachingSha2, b"", b"", true),
            (Plugin::CachingSha2, b"", b"\0", true),
            (Plugin::Native, b"", b"", true),
            (Plugin::Native, b"", &native, false),
            (Plugin::Clear, b"secret", b"secret", false),
        ];
        for (plugin, password, answer, expected) in cases {
            assert_eq!(is_right(*plugin, password, &NONCE, answer), *expected, "{plugin:?} {answer:?}");
        }
        assert!(!is_right(Plugin::CachingSha2, b"secret", &Nonce([1; 20]), &sha2), "another nonce");
    }

    #[test]
    fn passwords_under_rsa() {
        let key = RsaKey::generate().expect("a key");
        let pem = key.public_pem();
        assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----"), "{pem}");
        for password in [&b""[..], b"secret", &[0xff; 150]] {
            let sent = encrypt_password(pem.as_bytes(), password, &NONCE).expect("encrypted");
            assert_eq!(sent.len(), 256);
            assert_eq!(key.decrypt(&sent, &NONCE).as_deref().map(Vec::as_slice), Some(password));
            assert_ne!(key.decrypt(&sent, &Nonce([1; 20])).as_deref().map(Vec::as_slice), Some(password));
        }
        for garbage in [&b""[..], b"x", &[0; 255], &[1; 256], &[0xff; 256], &[1; 4096]] {
            assert!(key.decrypt(garbage, &NONCE).is_none());
        }
        assert!(encrypt_password(pem.as_bytes(), &[1; 300], &NONCE).is_err(), "too long");
        assert!(encrypt_password(b"no key", b"secret", &NONCE).is_err());
        assert!(
            encrypt_password(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"", &NONCE)
                .is_err()
        );
    }
}

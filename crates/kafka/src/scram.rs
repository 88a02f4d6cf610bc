//! The client's side of SCRAM (RFC 5802, RFC 7677), without channel binding.

use std::num::NonZeroU32;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    digest, hmac, pbkdf2,
    rand::{SecureRandom as _, SystemRandom},
};

use crate::settings::{Mechanism, Password};

/// The fewest iterations that are accepted. RFC 7677 and Kafka have the same bound.
const ITERATIONS_MIN: u32 = 4096;
/// The most iterations that are accepted, so that a broker can't keep this client busy. Kafka's bound is 16,384.
const ITERATIONS_MAX: u32 = 1_000_000;
/// The longest message of a broker, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Random bytes of the client's nonce.
const NONCE_BYTES: usize = 24;
/// The first part of the client's first message: no channel binding, no other identity.
const GS2_HEADER: &str = "n,,";

/// One exchange.
pub(crate) struct Scram {
    hash: Hash,
    password: Password,
    nonce: String,
    /// The client's first message without [`GS2_HEADER`].
    first_bare: String,
}

/// The proof that the broker must send, because only a broker that knows the password can compute it.
pub(crate) struct ServerProof {
    key: hmac::Key,
    message: String,
}

#[derive(Clone, Copy)]
struct Hash {
    digest: &'static digest::Algorithm,
    hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
}

impl Scram {
    /// Begins an exchange. Returns `None` if `mechanism` is not SCRAM, or the system has no random bytes.
    pub(crate) fn new(mechanism: Mechanism, user: &str, password: Password) -> Option<Self> {
        let mut nonce = [0; NONCE_BYTES];
        SystemRandom::new().fill(&mut nonce).ok()?;
        Self::with_nonce(mechanism, user, password, STANDARD.encode(nonce))
    }

    fn with_nonce(mechanism: Mechanism, user: &str, password: Password, nonce: String) -> Option<Self> {
        let hash = match mechanism {
            Mechanism::Plain => return None,
            Mechanism::ScramSha256 => Hash {
                digest: &digest::SHA256,
                hmac: hmac::HMAC_SHA256,
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256,
            },
            Mechanism::ScramSha512 => Hash {
                digest: &digest::SHA512,
                hmac: hmac::HMAC_SHA512,
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512,
            },
        };
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={user},r={nonce}");
        Some(Self {
            hash,
            password,
            nonce,
            first_bare,
        })
    }

    /// Returns the client's first message.
    pub(crate) fn first(&self) -> Vec<u8> {
        format!("{GS2_HEADER}{}", self.first_bare).into_bytes()
    }

    /// Answers the broker's first message with the client's last message, and returns which proof the broker must send.
    /// This computes up to [`ITERATIONS_MAX`] hashes.
    pub(crate) fn last(self, server_first: &[u8]) -> Result<(Vec<u8>, ServerProof), &'static str> {
        let server_first = text(server_first)?;
        let mut fields = server_first.split(',');
        let mut field = |prefix| {
            let field = fields.next().and_then(|field| field.strip_prefix(prefix));
            field.ok_or("the broker's first message lacks the nonce, the salt or the number of iterations")
        };
        let (nonce, salt, iterations) = (field("r=")?, field("s=")?, field("i=")?);
        // A nonce without the broker's own part would allow an attacker to repeat an old exchange.
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the broker's nonce does not continue the client's nonce");
        }
        let salt = STANDARD.decode(salt).map_err(|_| "the salt is not base64")?;
        let iterations = iterations
            .parse()
            .ok()
            .filter(|iterations| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(iterations))
            .and_then(NonZeroU32::new)
            .ok_or("the number of iterations is outside 4,096 to 1,000,000")?;
        let mut salted = vec![0; self.hash.digest.output_len()];
        let password = self.password.expose().as_bytes();
        pbkdf2::derive(self.hash.pbkdf2, iterations, &salt, password, &mut salted);
        let salted = hmac::Key::new(self.hash.hmac, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(self.hash.digest, client_key.as_ref());
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(GS2_HEADER));
        let message = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature = hmac::sign(
            &hmac::Key::new(self.hash.hmac, stored_key.as_ref()),
            message.as_bytes(),
        );
        let proof: Vec<u8> = client_key
            .as_ref()
            .iter()
            .zip(signature.as_ref())
            .map(|(key, signature)| key ^ signature)
            .collect();
        let last = format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes();
        let server_key = hmac::sign(&salted, b"Server Key");
        let key = hmac::Key::new(self.hash.hmac, server_key.as_ref());
        Ok((last, ServerProof { key, message }))
    }
}

impl ServerProof {
    /// Checks the broker's last message.
    pub(crate) fn check(&self, server_last: &[u8]) -> Result<(), &'static str> {
        let proof = text(server_last)?
            .split(',')
            .next()
            .and_then(|field| field.strip_prefix("v="))
            .ok_or("the broker did not prove that it knows the password")?;
        let proof = STANDARD
            .decode(proof)
            .map_err(|_| "the broker's proof is not base64")?;
        hmac::verify(&self.key, self.message.as_bytes(), &proof)
            .map_err(|_| "the broker's proof is wrong: it does not know the password")
    }
}

fn text(message: &[u8]) -> Result<&str, &'static str> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err("a message of the broker is longer than 4,096 bytes");
    }
    std::str::from_utf8(message).map_err(|_| "a message of the broker is not UTF-8")
}

#[cfg(test)]
#[path = "scram_tests.rs"]
mod tests;

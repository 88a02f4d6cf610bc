//! `tally head`: shows the end of the journal of a service, and the text form of such an end.

use std::{fmt, process::ExitCode};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use tally_journal::BlockHash;

use super::{
    client_args::ClientArgs,
    exit::{self, Failure, block_on, finish},
    ledger_client::LedgerClient,
    ledger_text::time_text,
    output::{OutputFormat, json_document, named},
};
use crate::{proto::BlockReference, terminal::outln};

/// Options of `tally head`.
#[derive(Debug, Args)]
pub struct HeadArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// How to print the head.
    #[arg(short, long, env = "TALLY_OUTPUT", value_enum, default_value_t)]
    output: OutputFormat,
}

/// A block of the journal: its number, and its hash, which depends on the block and on everything before it. The text form is
/// `BLOCK:HASH`, with the hash in 64 hexadecimal digits. In JSON, the hash is in base64, as in all JSON of protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainHead {
    /// The number of the block, from 1.
    pub(super) block: u64,
    /// The hash.
    pub(super) hash: BlockHash,
}

pub(super) fn run(args: &HeadArgs) -> ExitCode {
    block_on(async { finish(show(args).await) })
}

async fn show(args: &HeadArgs) -> Result<(), Failure> {
    let ledger = LedgerClient::connect(&args.client).await?;
    let head = ledger.client.chain_head().await;
    let head = head.map_err(|error| ledger.failure(&error))?;
    match args.output {
        OutputFormat::Json => outln!("{}", json_document("GetChainHeadResponse", &head)?),
        OutputFormat::Table => {
            let Some(block) = &head.block else {
                outln!("{}", named("head", "none: the journal has no block"));
                return Ok(());
            };
            let text = ChainHead::of(block).ok_or_else(|| {
                let message =
                    "the service sent a block without a number or with a hash that does not have 32 bytes";
                Failure::with_message(exit::UNAVAILABLE, message.to_owned())
            })?;
            outln!("{}", named("head", &text.to_string()));
            outln!("{}", named("sequence", &head.sequence.to_string()));
            outln!("{}", named("committed", &time_text(head.commit_time.as_ref())));
        }
    }
    Ok(())
}

/// Parses the text form. The hash may also be in base64, so that both outputs of `tally head` can be used.
pub(super) fn chain_head(text: &str) -> Result<ChainHead, &'static str> {
    const EXPECTED: &str = "must be BLOCK:HASH as `tally head` and `tally verify` print it: the number of a block, from 1, and 64 \
                            hexadecimal digits (or 32 bytes in base64, as in JSON)";
    let (block, hash) = text.split_once(':').ok_or(EXPECTED)?;
    if !block.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(EXPECTED);
    }
    let block = block.parse().ok().filter(|block| *block > 0).ok_or(EXPECTED)?;
    let hash = hash_of_digits(hash)
        .or_else(|| STANDARD.decode(hash).ok()?.try_into().ok())
        .ok_or(EXPECTED)?;
    Ok(ChainHead {
        block,
        hash: BlockHash(hash),
    })
}

/// Reads a hash of 64 hexadecimal digits.
fn hash_of_digits(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (place, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(hash)
}

// ===== impl ChainHead =====

impl ChainHead {
    fn of(block: &BlockReference) -> Option<Self> {
        Some(ChainHead {
            block: u64::try_from(block.block_sequence).ok()?,
            hash: BlockHash(block.block_hash.as_slice().try_into().ok()?),
        })
    }
}

impl fmt::Display for ChainHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.block, self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_read_back_and_everything_else_is_refused() {
        let head = ChainHead {
            block: 12,
            hash: BlockHash([0xab; 32]),
        };
        let text = format!("12:{}", "ab".repeat(32));
        assert_eq!(head.to_string(), text);
        assert_eq!(chain_head(&text), Ok(head));
        assert_eq!(chain_head(&text.to_uppercase()), Ok(head));
        let json = "12:q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=";
        assert_eq!(chain_head(json), Ok(head));
        let hash = "ab".repeat(32);
        for text in [
            "",
            "12",
            &hash,
            &format!("0:{hash}"),
            &format!("-1:{hash}"),
            &format!("+1:{hash}"),
            &format!("12:{hash}ab"),
            &format!("12:{}", "xy".repeat(32)),
            &format!("12:+{}", &hash[1..]),
            &json.replace('=', ""),
            &json.replace("q6ur", ""),
            &format!("99999999999999999999:{hash}"),
        ] {
            assert!(chain_head(text).is_err(), "{text}");
        }
    }
}

//! The lines of NDJSON: `tally.v1.CreateAccountRequest`, `tally.v1.UpdateAccountRequest` and `tally.v1.Transaction`.
//!
//! The same export must always have the same bytes, so the entries of metadata are in the order of their keys.

use std::collections::BTreeMap;

use prost::Message;
use serde_json::Value;

use crate::{
    cli::exit::{self, Failure},
    json,
    proto::{Account, Transaction},
};

/// Returns the line that creates an account.
pub(super) fn account_line(account: &Account) -> Result<String, Failure> {
    Ok(format!("{{\"account\":{}}}\n", account_json(account)?))
}

/// Returns the line that updates the fields of `mask`, which are names in lowerCamelCase with commas between them.
pub(super) fn update_line(account: &Account, mask: &str) -> Result<String, Failure> {
    let account = account_json(account)?;
    Ok(format!("{{\"account\":{account},\"update_mask\":\"{mask}\"}}\n"))
}

/// Returns the line of a transaction.
pub(super) fn transaction_line(transaction: &Transaction) -> Result<String, Failure> {
    let mut line = if transaction.metadata.is_empty() {
        json_of("Transaction", transaction)?
    } else {
        let plain = Transaction {
            metadata: BTreeMap::new(),
            ..transaction.clone()
        };
        with_metadata(json_of("Transaction", &plain)?, &transaction.metadata)
    };
    line.push('\n');
    Ok(line)
}

fn account_json(account: &Account) -> Result<String, Failure> {
    if account.metadata.is_empty() {
        return json_of("Account", account);
    }
    let plain = Account {
        metadata: BTreeMap::new(),
        ..account.clone()
    };
    Ok(with_metadata(json_of("Account", &plain)?, &account.metadata))
}

fn json_of<M: Message>(name: &str, message: &M) -> Result<String, Failure> {
    json::to_json_record(name, message).map_err(|error| Failure::new(exit::SOFTWARE, &error))
}

/// Adds the metadata to a JSON object that has other members.
fn with_metadata(mut object: String, metadata: &BTreeMap<String, String>) -> String {
    object.truncate(object.len().saturating_sub(1));
    object.push_str(",\"metadata\":{");
    for (place, (key, value)) in metadata.iter().enumerate() {
        if place > 0 {
            object.push(',');
        }
        let (key, value) = (Value::from(key.as_str()), Value::from(value.as_str()));
        object.push_str(&format!("{key}:{value}"));
    }
    object.push_str("}}");
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{CreateAccountRequest, UpdateAccountRequest};

    #[test]
    fn the_lines_are_messages_of_the_api() {
        let metadata = ["b", "a", "\"quoted\"\n", "č"].map(|key| (key.to_owned(), format!("value of {key}")));
        let account = Account {
            id: "alice".to_owned(),
            asset: "EUR".to_owned(),
            metadata: metadata.iter().cloned().collect(),
            ..Account::default()
        };
        let line = account_line(&account).unwrap();
        assert!(line.starts_with(r#"{"account":{"id":"alice","asset":"EUR","metadata":{"\"quoted\"\n":"#));
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let read: CreateAccountRequest = json::from_json("CreateAccountRequest", &line).unwrap();
        assert_eq!(read.account.as_ref(), Some(&account));
        let line = update_line(&account, "status,overdraftLimit").unwrap();
        let read: UpdateAccountRequest = json::from_json("UpdateAccountRequest", &line).unwrap();
        assert_eq!(read.update_mask.unwrap().paths, ["status", "overdraft_limit"]);
        let transaction = Transaction {
            transaction_id: "t".to_owned(),
            metadata: metadata.into_iter().collect(),
            ..Transaction::default()
        };
        let line = transaction_line(&transaction).unwrap();
        assert_eq!(
            json::from_json::<Transaction>("Transaction", &line).unwrap(),
            transaction
        );
        assert_eq!(line, transaction_line(&transaction.clone()).unwrap());
    }
}
